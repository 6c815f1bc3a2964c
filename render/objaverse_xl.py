"""`python -m render.objaverse_xl`: renders files of Objaverse-XL into captures, as `render.objaverse` does Objaverse 1.0's."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets.annotations import XLFilters, read_annotations
from datasets.catalogue import read_uids
from datasets.objaverse_xl import DEFAULT_CACHE, ObjaverseXL, obtain_annotations
from datasets.spool import Spool
from render.command import RenderConfig, render
from render.formats import SUFFIXES
from turntable import config
from turntable.files import local_folder


@dataclass(frozen=True, kw_only=True)
class ObjaverseXLConfig(RenderConfig):
    """What to render, on what, and how."""

    annotations: tuple[Path, ...] = ()
    """Annotation tables (.parquet); default: those of `source`, downloaded into the cache."""
    filters: XLFilters = field(default_factory=XLFilters)
    """Which files to render."""
    uids: Path | None = None
    """Text file, one SHA-256 a line; default: all that the filters let pass."""
    cache: Path = DEFAULT_CACHE
    """Folder to keep annotations and files in."""
    mirror: str | None = None
    """Folder or URL to download from instead of the hosts themselves; below it each host has a folder of its name."""
    keep_assets: Literal["yes", "no"] = "yes"
    """Whether downloaded files stay in the cache. `no`: they lie in <out>/downloads (for a URL, in a temporary folder) while
    they are needed, so that `prefetch` bounds the disk; what the cache has already stays as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.annotations and not self.filters.source:
            raise ValueError("name what to render: --annotations FILE.parquet, or --source github … to have its table")


def main() -> int:
    """The command."""
    options = config.parse(ObjaverseXLConfig, "Render files of Objaverse-XL into captures.")
    tables = options.annotations or obtain_annotations(options.filters.source, options.cache, options.mirror)
    entries = read_annotations(tables, options.filters, SUFFIXES)
    listed = read_uids(options.uids) if options.uids else list(entries)
    with contextlib.closing(Spool(local_folder(options.out, "downloads"))) as spool:
        kept, limit = options.keep_assets == "yes", int(options.bounds.max_asset_mb * 1e6)
        catalogue = ObjaverseXL(
            entries, options.cache, options.mirror, spool=None if kept else spool, asset_bytes=limit
        )
        return render(options, catalogue, listed)


if __name__ == "__main__":
    config.run(main)
