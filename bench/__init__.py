"""The bench: devmail side by side with the seed's configuration and with what else there is.

``python -m bench`` measures and writes ``docs/performance.md``. Nothing here is needed to run the
server.
"""
