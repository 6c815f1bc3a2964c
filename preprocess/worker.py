"""One process of preprocessing: a list of uids in, shards out. Started by `turntable.jobs.Worker`, never by hand.

A job is a number that nobody else has, and uids. What of them no shard of that number holds yet is laid into new shards of
that number, so a job may be given again, whole or in parts, whatever became of the process that had it before.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import cv2

from datasets.packing import number_of
from datasets.shards import ShardSet, shard_paths
from preprocess.filling import Command, Failure, Filling, Source, laid_out
from preprocess.open_shards import OpenShards, names_under
from preprocess.upscale import Upscaler
from turntable.config import restored
from turntable.files import UploadError
from turntable.jobs import ItemError, serve


def do_job(
    config: Filling, source: Source, upscaler: Upscaler, job: dict[str, Any], beat: Callable[[str], None]
) -> dict[str, Any]:
    """A job -> `laid`: uid -> views in which nothing is seen; `failed`: uid -> reason and message; names of the `shards` made."""
    before = [path for path in shard_paths(config.out) if number_of(path) == job["number"]]
    there = set(ShardSet(before).uids) if before else set()
    laid: dict[str, int] = dict.fromkeys([uid for uid in job["uids"] if uid in there], 0)
    failed: dict[str, list[str]] = {}
    finished: list[str] = []
    names = names_under(job["number"], {path.name for path in before})
    shards = OpenShards(config.out, names, config.shard_bytes, config.settings(), finished)
    todo = [uid for uid in job["uids"] if uid not in there]
    try:
        for uid, result in laid_out(config, source, upscaler, todo, shards):
            beat(f"{uid}, {len(laid) + len(failed) + 1} of {len(job['uids'])}")
            if isinstance(result, Failure):
                failed[uid] = [result.reason, result.message]
            else:
                laid[uid] = result.empty_views
        shards.close()
    except UploadError as error:
        raise ItemError("upload", str(error)) from error
    finally:
        shards.discard()
    return {"laid": laid, "failed": failed, "shards": finished}


def main() -> None:
    """`python -m preprocess.worker preprocess.captures '{…}'`: the command's module, and its configuration as JSON."""
    module, values = sys.argv[1:]
    prepared: list[tuple[Filling, Source, Upscaler]] = []

    def prepare() -> dict[str, Any]:
        cv2.setNumThreads(1)
        command: Command[Any] = importlib.import_module(module).COMMAND
        config = restored(command.config, json.loads(values))
        upscaler = config.upscaler()
        prepared.append((config, command.source(config), upscaler))
        # A node with other networks under the same names is refused.
        return {"matte": config.matter().identity, "upscaling": upscaler.identity.get("sha256")}

    serve(lambda job, beat: do_job(*prepared[0], job, beat), prepare)


if __name__ == "__main__":
    main()
