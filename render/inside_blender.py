"""Run by a full Blender's `--python`: finds our code and packages, then runs one of our modules as `python -m` would.

    blender --background … --python render/inside_blender.py -- PACKAGES MODULE ARGUMENT …

The module `probe` is built in, since it must run where everything is missing: it prints versions, and which modules are.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path


def probe(modules: list[str]) -> None:
    """Prints Blender's, Python's and numpy's versions, and which of `modules` cannot be imported, as one line of JSON."""
    import bpy
    import numpy as np

    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    versions = {"blender": list(bpy.app.version), "python": list(sys.version_info[:3]), "numpy": np.__version__}
    print(json.dumps({**versions, "missing": missing}), flush=True)


def main() -> None:
    """What Blender runs."""
    packages, module, *arguments = sys.argv[sys.argv.index("--") + 1 :]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path.append(packages)
    if module == "probe":
        probe(arguments)
    else:
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
