"""devmail: a development mail server in one box, built from stock daemons."""

__version__ = "0.1.0"
