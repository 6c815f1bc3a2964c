"""What a benchmark leaves behind: its figures, the command and the settings that gave them, and the machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from turntable import config
from turntable.files import write_json


def write(path: Path, options: Any, result: Any, device: str | None = None) -> None:
    """`path`, a JSON file. Of absolute paths only the name is kept: where files lie on a machine is nobody's business."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": device or "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    command = shlex.join(map(_named, sys.orig_argv[1:]))
    settings = _shown(config.resolved(options))
    write_json(path, {"command": command, "config": settings, "machine": machine, "result": result})


def _named(word: str) -> str:
    return Path(word).name if Path(word).is_absolute() else word


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shown(part) for part in value]
    return _named(value) if isinstance(value, str) else value
