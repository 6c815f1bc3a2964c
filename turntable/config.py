"""Configuration: frozen dataclasses become command lines, and every output folder holds the one that wrote it."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shlex
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from turntable.errors import EXIT_DISK_FULL, EXIT_INTERRUPTED, EXIT_USAGE, DiskFullError, UserError
from turntable.files import location, read_json, write_json

Config = TypeVar("Config")
Location = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        instance_from_str=lambda words: location(words[0]),
        is_instance=lambda value: hasattr(value, "joinpath"),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A folder of this machine or a URL that fsspec knows, as `turntable.files.location` gives it."""


def parse(config_type: type[Config], description: str, args: list[str] | None = None) -> Config:
    """The command line as `config_type`. A value that the dataclass refuses (ValueError) becomes a `UserError`.

    Nested dataclasses are flattened: `--views 32`, not `--rig.views 32`.
    """
    try:
        return tyro.cli(
            config_type,
            prog=f"python -m {_module_name()}",
            description=description,
            args=args,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _module_name() -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else Path(getattr(main, "__file__", "turntable")).stem


def resolved(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values, nested dataclasses as nested dicts, paths as strings."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def restored(config_type: type[Config], values: dict[str, Any]) -> Config:
    """The inverse of `resolved`: nested dataclasses from dicts, tuples from lists, paths from strings."""
    types = typing.get_type_hints(config_type)
    return config_type(**{name: _restored_value(types[name], value) for name, value in values.items()})


def _restored_value(wanted: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return restored(wanted, value)
    if isinstance(value, list):
        return tuple(_restored_value(None, part) for part in value)
    if isinstance(value, str) and Path in (wanted, *typing.get_args(wanted)):
        return location(value)
    return value


def write_config(folder: Path, config: Any) -> None:
    """`folder/config.json`: the command that wrote the folder and its resolved configuration."""
    write_json(folder / "config.json", {"command": shlex.join(sys.orig_argv[1:]), "config": resolved(config)})


def claim_folder(folder: Path, config: Any, free_fields: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Takes `folder` for output by `config`, or continues one that the same configuration began.

    `free_fields` are the top-level fields that may differ between the runs that fill one folder (number of workers, list
    of items). Anything else that differs is a `UserError`: one folder never mixes two settings. A field that there was not yet
    when the folder was begun had what is its default now.
    """
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error
    if path.exists():
        before, now = _completed(type(config), read_json(path)["config"]), resolved(config)
        differing = [k for k in {**before, **now} if k not in free_fields and before.get(k) != now.get(k)]
        if differing:
            strangers = before.keys() - now.keys()
            if len(strangers) > len(before) / 2:
                raise UserError(f"{folder} was written by another command ({path}); choose another --out")
            changes = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in sorted(differing))
            raise UserError(
                f"{folder} was written with other settings ({changes}); use the same settings or another --out"
            )
    try:
        write_config(folder, config)
    except OSError as error:
        if isinstance(error, DiskFullError):
            raise
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out")


def _completed(config_type: type, values: dict[str, Any]) -> dict[str, Any]:
    """`values` of an older configuration with the fields that came since; as they are where there are fields no more."""
    try:
        return resolved(restored(config_type, values))
    except (KeyError, TypeError, ValueError):
        return values


def run(main: Callable[[], int]) -> None:
    """Runs a command's `main` and exits with its code. A user's error is one line on stderr, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code = main()
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = EXIT_USAGE
    except DiskFullError as error:
        print(f"DiskFullError: {error.strerror}", file=sys.stderr)
        code = EXIT_DISK_FULL
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) went away: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = errno.EPIPE
    sys.exit(code)
