"""`python -m render.folder`: renders the assets of a user's own folder into captures, as `render.objaverse` does Objaverse's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.folder import Folder
from render.command import RenderConfig, render
from render.formats import SUFFIXES
from turntable import config


@dataclass(frozen=True, kw_only=True)
class FolderConfig(RenderConfig):
    """What to render, on what, and how."""

    assets: Path
    """Folder of the assets, searched through and through; hidden files and links out of it are not rendered."""
    include: tuple[str, ...] = ()
    """Globs of the files to render, for their path below the folder or for their name ("chairs/*" "*.obj"); default: all."""
    exclude: tuple[str, ...] = ()
    """Globs of files not to render."""
    metadata: Path | None = None
    """CSV or JSON lines that state path, class, licence, name and creator of assets; what it does not state is unknown."""


def main() -> int:
    """The command."""
    options = config.parse(FolderConfig, "Render the assets of a folder into captures.")
    catalogue = Folder(options.assets, SUFFIXES, options.include, options.exclude, options.metadata)
    return render(options, catalogue, catalogue.uids())


if __name__ == "__main__":
    config.run(main)
