"""A web server inside the test: the process that somebody else runs, healthy or not as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class WebServer:
    """Answers on ``port`` with ``status`` and ``body``; not at all while it is stopped."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.status = 200
        self.body = b"ok\n"
        self.port = 0
        self.asked = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Starts answering, on the same port as before."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Stays silent."""

        self._server = ThreadingHTTPServer((self.host, self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def webserver() -> Iterator[WebServer]:
    server = WebServer()
    server.start()
    yield server
    server.stop()
