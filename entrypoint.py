#!/usr/bin/python3
"""The container's entry point: the same program as the console script ``devmail``."""

from devmail_config.__main__ import main

main()
