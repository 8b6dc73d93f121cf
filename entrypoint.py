#!/usr/bin/python3
"""The container's entry point: the same program as the console script ``devmail``."""

from devmail_config.cli import main

if __name__ == "__main__":
    main()
