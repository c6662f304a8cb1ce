"""A debuginfod server on the loopback whose answers are scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a GET as the server's ``answer`` says."""

    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        """Note the question, give the scripted answer."""
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            self.server.answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def head(self, status: int, **headers: str | int) -> None:
        """A status line and headers; "_" in names is "-"."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    asked: list[str]
    headers: list[dict[str, str]]


class Server:
    """A running server; a context manager. ``stop`` set lets slow answers end."""

    def __init__(self) -> None:
        self._http = _Http(("127.0.0.1", 0), Handler)
        self._http.asked, self._http.headers = [], []
        self.stop = threading.Event()
        self.answers(lambda handler: handler.head(404, Content_Length=0))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def asked(self) -> list[str]:
        """Paths asked for so far."""
        return self._http.asked

    @property
    def headers(self) -> list[dict[str, str]]:
        """Headers of the questions so far."""
        return self._http.headers

    def answers(self, answer: Answer) -> None:
        """From now on, answer so."""
        self._http.answer = answer

    def sends(self, data: bytes, **headers: str | int) -> None:
        """From now on, answer with ``data``."""

        def answer(handler: Handler) -> None:
            handler.head(200, **{"Content_Length": len(data), **headers})
            handler.wfile.write(data)

        self.answers(answer)

    def drips(self, data: bytes, step: int, pause: float) -> None:
        """From now on, send ``step`` bytes, pause for so many seconds, and so on."""

        def answer(handler: Handler) -> None:
            handler.head(200, Content_Length=len(data))
            for start in range(0, len(data), step):
                handler.wfile.write(data[start : start + step])
                handler.wfile.flush()
                if self.stop.wait(pause):
                    return

        self.answers(answer)
