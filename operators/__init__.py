"""The commands, one file each: ``read_tif.py`` is ``read-tif``."""
