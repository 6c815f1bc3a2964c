"""A real HTTP server on the loopback that serves a folder, and misbehaves as a test's script says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Answer = Callable[[BaseHTTPRequestHandler, bytes, int], None]


class Mirror:
    """A real HTTP server on the loopback. `script[path]` holds what to do with the next requests of a path; then it behaves."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.script: dict[str, list[Answer]] = {}
        self.headers: dict[str, str] = {}
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                mirror.requests.append((self.path, asked))
                path = folder / unquote(self.path).lstrip("/")
                if not path.is_file():
                    return refuse(404)(self, b"", 0)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                queue = mirror.script.get(self.path, [])
                (queue.pop(0) if queue else serve)(self, path.read_bytes(), start)

            def log_message(self, *_: object) -> None:
                pass

        Handler.extra = self.headers  # type: ignore[attr-defined]
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def ranges(self, path: str) -> list[str | None]:
        return [asked for requested, asked in self.requests if requested == path]


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response(status)
    for name, value in {**handler.extra, **headers}.items():  # type: ignore[attr-defined]
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def serve(handler: BaseHTTPRequestHandler, content: bytes, start: int, cut: int | None = None) -> None:
    """A well-behaved answer, or one that closes the connection after `cut` bytes of the body."""
    if start >= len(content):
        return refuse(416)(handler, content, start)
    headers = {"Content-Length": str(len(content) - start)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    send(handler, 206 if start else 200, headers, content[start:][:cut])
    handler.close_connection = cut is not None


def breaks_after(cut: int) -> Answer:
    return lambda handler, content, start: serve(handler, content, start, cut)


def refuse(status: int, **headers: str) -> Answer:
    extra = {"Content-Length": "0", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return lambda handler, content, start: send(handler, status, extra, b"")


def ignores_range(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    send(handler, 200, {"Content-Length": str(len(content))}, content)


def hangs(handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    send(handler, 200, {"Content-Length": str(len(content))}, content[:1000])
    handler.wfile.flush()
    time.sleep(1.5)
    handler.close_connection = True
