"""`python -m preprocess.nerf --root DIR --out shards/`: folders with a transforms.json become shards.

Which files are understood: `preprocess.transforms`. What becomes of their worlds and pictures: `preprocess.posed`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from preprocess import filling, posed, transforms
from preprocess.filling import Views
from preprocess.matte import Matter
from preprocess.posed import PosedConfig
from turntable import config as command_line
from turntable.errors import UserError


@dataclass(frozen=True, kw_only=True)
class NerfConfig(PosedConfig):
    """Turns folders with a transforms.json into shards. The same command again adds what is missing."""


class NerfScenes:
    """Every folder at or below the root that holds a transforms.json (or transforms_train.json), as a source of objects."""

    plural = "scenes"

    def __init__(self, config: PosedConfig, matter: Matter) -> None:
        self._config, self._matter = config, matter
        self._folders: dict[str, Path] = {}
        for folder in scene_folders(config.root, transforms.is_scene):
            uid = transforms.scene_uid(folder, config.root)
            if uid in self._folders:
                raise UserError(f"{folder} and {self._folders[uid]} are both {uid}; take one of them away")
            self._folders[uid] = folder
        if not self._folders:
            raise UserError(f"--root {config.root}: no transforms.json in it or in the folders below it")

    def uids(self) -> list[str]:
        """In the order of the uids."""
        return sorted(self._folders)

    def load(self, uid: str) -> Views:
        """One scene, whole."""
        scene = transforms.read_scene(self._folders[uid], self._config.root, self._config.licence)
        return posed.load(scene, self._config, self._matter)


def scene_folders(root: Path, is_scene: object) -> list[Path]:
    """Folders at or below `root` of which `is_scene(folder)`; what lies below a scene is its own. Links are not followed."""
    assert callable(is_scene)
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder")
    found = []
    for parent, folders, _ in os.walk(root):
        if is_scene(Path(parent)):
            found.append(Path(parent))
            folders.clear()
        folders.sort()
    return found


def preprocess(config: NerfConfig) -> filling.Summary:
    """Does what is missing in `config.out`."""
    return filling.fill(config, NerfScenes(config, config.matter()))


COMMAND = filling.Command("preprocess.nerf", NerfConfig, lambda config: NerfScenes(config, config.matter()))


def main() -> int:
    """The command."""
    return COMMAND.main("Turn folders with a transforms.json into shards.")


if __name__ == "__main__":
    command_line.run(main)
