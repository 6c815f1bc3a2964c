"""`python -m render.objaverse`: renders Objaverse's objects into captures, by Blender workers that stay alive.

Chooses uids from the catalogue, gives each to a worker, and ends with a summary. The same command continues an interrupted run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.catalogue import read_uids
from datasets.objaverse import DEFAULT_CACHE, Objaverse
from render.command import RenderConfig, render
from turntable import config


@dataclass(frozen=True, kw_only=True)
class ObjaverseConfig(RenderConfig):
    """What to render, on what, and how."""

    uids: Path | None = None
    """Text file, one uid a line; default: all of `classes`."""
    classes: tuple[str, ...] = ()
    """LVIS classes to render; with `uids`, only those of the list that are of these classes."""
    licences: tuple[str, ...] = ()
    """Licences to render, as Sketchfab abbreviates them (by, by-sa, cc0, …); default: any."""
    cache: Path = DEFAULT_CACHE
    """Objaverse cache to read from and download into."""
    mirror: str | None = None
    """Folder or URL to download from instead of the public one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uids is None and not self.classes:
            raise ValueError("name what to render: --uids FILE (one uid a line) or --classes chair sofa …")


def main() -> int:
    """The command."""
    options = config.parse(ObjaverseConfig, "Render Objaverse's objects into captures.")
    catalogue = Objaverse(options.cache, options.mirror)
    listed = read_uids(options.uids) if options.uids else None
    return render(options, catalogue, catalogue.select(listed, options.classes, options.licences))


if __name__ == "__main__":
    config.run(main)
