"""Volumes larger than memory, block by block: grids, status, matching of labels, jobs."""
