"""A web server of somebody else, which notes what it is asked for."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.helpers.clients import LOOPBACK

_PIXEL = base64.b64decode("R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==")


class Host(ThreadingHTTPServer):
    """A server of pictures that notes what it was asked for."""

    def __init__(self) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.strip("/"))
                self.send_response(200)
                self.send_header("Content-Type", "image/gif")
                self.end_headers()
                self.wfile.write(_PIXEL)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        super().__init__((LOOPBACK, 0), Handler)
        self.asked = asked
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def origin(self, name: str = LOOPBACK) -> str:
        return f"http://{name}:{self.server_port}"
