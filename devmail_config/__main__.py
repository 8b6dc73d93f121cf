"""``python -m devmail_config`` is the same program as the console script ``devmail``."""

from devmail_config.cli import main

main()
