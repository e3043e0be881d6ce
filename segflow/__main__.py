"""Run segflow as a module."""

from segflow.cli.main import main

main()
