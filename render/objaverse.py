"""`python -m render.objaverse`: renders Objaverse's objects into captures, by Blender workers that stay alive.

Chooses uids from the catalogue, gives each to a worker, and ends with a summary. The same command continues an interrupted run.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets.catalogue import read_uids
from datasets.objaverse import DEFAULT_CACHE, Objaverse
from datasets.selection import Filters
from datasets.spool import Spool
from render.command import RenderConfig, render
from turntable import config
from turntable.files import local_folder


@dataclass(frozen=True, kw_only=True)
class ObjaverseConfig(RenderConfig):
    """What to render, on what, and how."""

    uids: Path | None = None
    """Text file, one uid a line; default: all that the filters let pass."""
    everything: bool = False
    """Render all of Objaverse, where neither uids nor a filter are named."""
    filters: Filters = field(default_factory=Filters)
    """Which objects to render."""
    cache: Path = DEFAULT_CACHE
    """Objaverse cache to read from and download into."""
    mirror: str | None = None
    """Folder or URL to download from instead of the public one."""
    keep_assets: Literal["yes", "no"] = "yes"
    """Whether downloaded objects stay in the cache. `no`: they lie in <out>/downloads (for a URL, in a temporary folder) while
    they are needed, so that `prefetch` bounds the disk; what the cache has already stays as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uids is None and not self.filters.active and not self.everything:
            raise ValueError(
                "name what to render: --uids FILE (one uid a line), --classes chair sofa …, another filter, or --everything"
            )


def main() -> int:
    """The command."""
    options = config.parse(ObjaverseConfig, "Render Objaverse's objects into captures.")
    with contextlib.closing(Spool(local_folder(options.out, "downloads"))) as spool:
        kept, limit = options.keep_assets == "yes", int(options.bounds.max_asset_mb * 1e6)
        catalogue = Objaverse(options.cache, options.mirror, spool=None if kept else spool, asset_bytes=limit)
        listed = read_uids(options.uids) if options.uids else None
        return render(options, catalogue, catalogue.select(listed, options.filters))


if __name__ == "__main__":
    config.run(main)
