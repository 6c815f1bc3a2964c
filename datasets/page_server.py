"""The server behind the page of `datasets.browse`: viser's, kept to this machine and away from the internet."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import socket
from collections.abc import Iterator
from typing import Any

from turntable.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OLDEST_VISER = (1, 1)
"""Before it, viser's server gave any file of the machine to whoever asked for ../../it, and its page called Google."""


def start_server(host: str, port: int) -> Any:
    """A viser server at `host` and `port` that answers pages of its own only, and never opens a tunnel to the internet."""
    check_viser()
    check_port(host, port)
    import viser

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            """Refused: what is browsed here may not be anybody else's to see, and any page may send the request."""
            return None

    with _own_origin(host):
        server = Server(host=host, port=port, verbose=False)
    if server.get_port() != port:
        server.stop()
        raise UserError(
            f"port {port} of {host} was taken by another program just now; run again or name another --port"
        )
    return server


@contextlib.contextmanager
def _own_origin(host: str) -> Iterator[None]:
    """While a server starts, its WebSocket is told to answer only pages that this machine served.

    viser hands `websockets` no list of origins, and a browser lets any web site open a connection to this machine: without
    one, every site that is open beside the page could read what it shows. Whoever binds another address wants others to see.
    """
    from websockets.asyncio import server as asyncio_server

    serve = asyncio_server.serve
    own = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
    asyncio_server.serve = lambda *args, **kwargs: serve(  # type: ignore[assignment, misc]
        *args, **kwargs, origins=[own, None] if host in LOOPBACK else None
    )
    try:
        yield
    finally:
        asyncio_server.serve = serve  # type: ignore[misc]


def check_viser() -> None:
    """Raises a `UserError` where viser is missing or too old to be let near a network."""
    try:
        found = importlib.metadata.version("viser")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "datasets.browse needs viser, which is not here; pip install 'viser>=1.1' (extra: browse)"
        ) from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_VISER:
        raise UserError(
            f"viser {found} is installed, which hands any file of this machine out; pip install 'viser>=1.1' (extra: browse)"
        )


def check_port(host: str, port: int) -> None:
    """Raises a `UserError` where nothing can listen at `host` and `port`. viser would take the next port without a word."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port that was closed a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); name another --port"
        ) from error
