"""A small web service that tells the time: ``python3 examples/programs/clock.py [PORT]``.

In the quickstart it stands for a program that Orbit does not run: somebody started it, Orbit checks
it, publishes it and routes to it.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Clock(BaseHTTPRequestHandler):
    """Answers every GET with the time of now, and keeps no log."""

    def do_GET(self) -> None:
        """The time in UTC, as a line of text."""
        body = f"clock: {datetime.now(UTC):%H:%M:%S} UTC\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: checks ask once a second."""


def main() -> None:
    """Serves on 127.0.0.1 until it is interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8081
    with suppress(KeyboardInterrupt):
        ThreadingHTTPServer(("127.0.0.1", port), Clock).serve_forever()


if __name__ == "__main__":
    main()
