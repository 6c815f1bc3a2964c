"""`python -m datasets.export SHARDS --format openlrm --out DIR`: shards become what other programs read.

Formats: OpenLRM's folders, folders with a transforms.json for nerfstudio and instant-ngp, tars for webdataset; each is
described in its `datasets/layout_*.py` and in docs/formats.md. An object's folder, or a tar, is complete once it has its
name; the same command again does what is missing. Every export carries ATTRIBUTION.md; `--attribution` writes that alone.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import tyro
from tqdm import tqdm

from datasets.attribution import attribution
from datasets.destinations import Destination, Folders, Tars
from datasets.exported import Exported, Files, Layout, Unexportable
from datasets.layout_nerfstudio import nerfstudio
from datasets.layout_openlrm import EXPECTED_VIEWS, openlrm
from datasets.layout_webdataset import webdataset
from datasets.shards import ShardError, ShardSet
from datasets.single_camera import one_lens
from turntable import config as command_line
from turntable.config import Location
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, UserError
from turntable.files import only_run, write_json, write_text
from turntable.outcomes import failure_path
from turntable.parallel import in_order

FREE = {"uids", "threads", "attribution", "tar_bytes"}
"""Fields that may differ between the runs that fill one folder: they change no object's content."""
LAYOUTS: dict[str, Layout] = {"openlrm": openlrm, "nerfstudio": nerfstudio, "webdataset": webdataset}


@dataclass(frozen=True)
class ExportConfig:
    """Writes shards in formats of other programs, or lists whose work is in them."""

    shards: tyro.conf.Positional[Location]
    """A folder of shards or one shard, here or at a URL."""
    format: Literal["openlrm", "nerfstudio", "webdataset"] | None = None
    """`nerfstudio` folders are instant-ngp's too."""
    out: Path | None = None
    """Folder to write to; with --attribution the file to write, or none: print."""
    size: int | None = None
    """Side of the pictures, pixels; none: the largest that is stored. Nothing is enlarged."""
    uids: Path | None = None
    """File with one uid a line: only these objects."""
    attribution: bool = False
    """Only list the objects' creators and licences."""
    tar_bytes: float = 1e9
    """A tar is closed when it holds this many bytes."""
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Objects worked on at the same time."""

    def __post_init__(self) -> None:
        if not self.attribution and (self.format is None or self.out is None):
            raise ValueError(f"--format ({', '.join(LAYOUTS)}) and --out are needed, or --attribution alone")
        if self.attribution and self.format is not None:
            raise ValueError(
                "--attribution only lists creators and licences; leave --format out (every export has the list)"
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.tar_bytes < 1 or self.threads < 1:
            raise ValueError(f"tar_bytes and threads must be at least 1, got {self.tar_bytes} and {self.threads}")


@dataclass
class Summary:
    """What a run did."""

    done: int = 0
    skipped: int = 0
    views: int = 0
    retaken: int = 0
    """Objects whose views had to be brought to one lens."""
    few_views: int = 0
    """Objects with fewer views than OpenLRM draws from."""
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    """Reason -> objects."""

    def add(self, item: Exported, config: ExportConfig) -> None:
        """Counts an object that is done."""
        self.done += 1
        self.views += item.views
        if config.format == "openlrm":
            self.few_views += item.views < EXPECTED_VIEWS
            self.retaken += not one_lens(item.cameras[1])

    def text(self, config: ExportConfig) -> str:
        """For a person."""
        lines = [f"{self.done} objects, {self.views} views exported to {config.out}; {self.skipped} were there already"]
        if self.retaken:
            lines.append(
                f"{self.retaken} of them had several lenses: their pictures were taken again with one, without depth and normals"
            )
        if self.few_views:
            lines.append(
                f"{self.few_views} have fewer than {EXPECTED_VIEWS} views: set OpenLRM's num_all_views to the smallest number"
            )
        lines += [f"{n} objects left out: {reason}, see failures/" for reason, n in sorted(self.failed.items())]
        return "\n".join(lines)


@dataclass(frozen=True)
class Failure:
    """An object that could not be exported."""

    reason: str
    """`damaged`, `bad-uid`, `too-small`, `no-single-camera`."""
    message: str


def export(config: ExportConfig) -> Summary:
    """Does what is missing in `config.out`."""
    assert config.format is not None and config.out is not None
    shards = ShardSet(config.shards)
    indices = sorted(shards.listed(config.uids))
    with only_run(config.out):
        command_line.claim_folder(config.out, config, FREE)
        destination = _destination(config)
        there = destination.present()
        missing = [index for index in indices if shards.uids[index] not in there]
        summary = Summary(skipped=len(indices) - len(missing))
        try:
            _write(config, destination, [Exported(*shards.place(index), config.size) for index in missing], summary)
        finally:
            destination.close()
            _write_lists(config, shards, destination.present())
    return summary


def _destination(config: ExportConfig) -> Destination:
    assert config.out is not None
    if config.format == "webdataset":
        return Tars(config.out, config.tar_bytes)
    return Folders(config.out, "intrinsics.npy" if config.format == "openlrm" else "transforms.json")


def _write(config: ExportConfig, destination: Destination, items: list[Exported], summary: Summary) -> None:
    assert config.format is not None and config.out is not None
    layout = LAYOUTS[config.format]
    results = in_order(lambda item: attempt(layout, item), items, config.threads)
    with contextlib.closing(results):
        for item, result in tqdm(zip(items, results, strict=True), total=len(items), unit="object", desc="export"):
            # A uid that cannot name a folder cannot name its failure's file either.
            name = re.sub(r"[^A-Za-z0-9_-]", "_", item.stated_uid)[:200]
            if isinstance(result, Failure):
                summary.failed[result.reason] += 1
                record = {"uid": item.stated_uid, "reason": result.reason, "message": result.message}
                write_json(failure_path(config.out, name), record)
                continue
            destination.add(item.uid, result)
            failure_path(config.out, name).unlink(missing_ok=True)
            summary.add(item, config)


def attempt(layout: Layout, item: Exported) -> Files | Failure:
    """An object's files, or what is wrong with it."""
    try:
        return layout(item)
    except Unexportable as error:
        return Failure(error.reason, str(error))
    except ShardError as error:
        return Failure("damaged", str(error))


def _write_lists(config: ExportConfig, shards: ShardSet, present: set[str]) -> None:
    """What stands beside the objects: whose work they are and, for OpenLRM, which they are."""
    assert config.out is not None
    here = [index for index, uid in enumerate(shards.uids) if uid in present]
    write_text(config.out / "ATTRIBUTION.md", attribution(shards.record(index) for index in here))
    if config.format == "openlrm":
        write_json(config.out / "uids.json", [shards.uids[index] for index in here])


def list_attribution(config: ExportConfig) -> None:
    """Prints the objects' creators and licences, or writes them to `config.out`."""
    shards = ShardSet(config.shards)
    text = attribution(shards.record(index) for index in sorted(shards.listed(config.uids)))
    if config.out is None:
        print(text)
        return
    if config.out.is_dir():
        raise UserError(f"--out {config.out}: is a folder; name the file to write, such as {config.out}/ATTRIBUTION.md")
    write_text(config.out, text)
    print(f"{config.out}: written")


def main() -> int:
    config = command_line.parse(
        ExportConfig, "Write shards in formats of other programs, or list whose work is in them."
    )
    if config.attribution:
        list_attribution(config)
        return EXIT_OK
    cv2.setNumThreads(1)  # the threads are ours; OpenCV's own would only get in their way
    summary = export(config)
    print(summary.text(config))
    return EXIT_ITEMS_FAILED if summary.failed else EXIT_OK


if __name__ == "__main__":
    command_line.run(main)
