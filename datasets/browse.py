"""`python -m datasets.browse PATH`: a local page that shows objects with their cameras, pictures, mattes and surface.

Meant for the eye: cameras stand as frusta with their pictures around the object, the surface carries the pictures' colours,
and from a camera's own viewpoint its picture and the points coincide. Where a convention is wrong, none of this fits.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import tyro

from datasets.objects import Objects
from datasets.page import Page
from datasets.page_server import start_server
from turntable import config as command_line
from turntable.errors import EXIT_OK, UserError


@dataclass(frozen=True)
class BrowseConfig:
    """Opens a page at http://127.0.0.1:8080 that shows captures or shards; Ctrl-C ends it."""

    path: tyro.conf.Positional[command_line.Location]
    """A capture, a folder of captures, a shard, or a folder of shards, which may also be a URL that fsspec knows."""
    uid: str | None = None
    """The object shown first; default: the first."""
    host: str = "127.0.0.1"
    """The address to listen at. Any but this machine's own lets everyone who reaches it look, without a password."""
    port: int = 8080
    """The port to listen at."""
    size: int = 256
    """Side of the pictures at first, pixels; the nearest stored one is taken."""
    points: int = 30_000
    """Most surface points drawn."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must lie in 1 … 65535, got {self.port}")
        if min(self.size, self.points) < 1:
            raise ValueError(f"size and points must be at least 1, got {self.size} and {self.points}")


def first_object(objects: Objects, uid: str | None) -> int:
    """The number of `uid`, which may be shortened, or of the first object."""
    if uid is None:
        return 0
    found = [index for index, name in enumerate(objects.uids) if name.startswith(uid)]
    if len(found) != 1:
        raise UserError(f"--uid {uid}: {len(found)} of {len(objects)} objects have a uid that begins so; name one")
    return found[0]


def main() -> int:
    config = command_line.parse(BrowseConfig, "Look at captures or shards: cameras, pictures, mattes, surface.")
    objects = Objects(config.path)
    first = first_object(objects, config.uid)
    server = start_server(config.host, config.port)
    try:
        Page(server, objects, config.size, config.points).choose(first)
        print(f"{config.path}: {len(objects)} objects; Ctrl-C ends the page", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()
    return EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
