"""`python -m render.system`: whether Blender can be imported on this machine, and what to install where it cannot."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from turntable.errors import EXIT_OK, EXIT_USAGE

PACKAGES_FILE = Path(__file__).resolve().parent.parent / "system-packages.txt"
"""Debian and Ubuntu packages with the libraries that bpy links to; the README and the Dockerfile use the same list."""


def advice(error: str) -> str:
    """One sentence for an ImportError's message: which library is missing and what installs it."""
    missing = re.match(r"(\S+\.so\S*): cannot open shared object file", error)
    if missing is None:
        return f"Blender (bpy) does not import: {error}; it needs Python 3.11 and its wheel: run `make setup`."
    packages = " ".join(PACKAGES_FILE.read_text().split())
    return (
        f"Blender needs the system library {missing[1]}, which is not here; install it: sudo apt-get install {packages}"
    )


def main() -> int:
    """Exit code 0 when bpy imports."""
    try:
        import bpy  # noqa: F401
    except ImportError as error:
        print(advice(str(error)), file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
