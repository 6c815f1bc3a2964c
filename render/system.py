"""`python -m render.system`: whether Blender can be imported on this machine, and what to install where it cannot."""

from __future__ import annotations

import argparse
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


def check_wheel() -> int:
    """Exit code 0 when bpy imports."""
    try:
        import bpy  # noqa: F401
    except ImportError as error:
        print(advice(str(error)), file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


def check_full_blender(blender: Path, install: bool) -> int:
    """Exit code 0 when workers can run in this Blender, given the packages that they need first if asked to."""
    from render import full_blender

    try:
        (full_blender.install if install else full_blender.require)(blender)
    except full_blender.BlenderError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


def main() -> int:
    """The command. It is the first that a new environment runs, and needs none of our packages."""
    parser = argparse.ArgumentParser(
        prog="python -m render.system", description="Check whether Blender can render here."
    )
    parser.add_argument(
        "--blender", type=Path, metavar="PATH", help="a full Blender's executable, instead of the wheel bpy"
    )
    parser.add_argument(
        "--install", action="store_true", help="give that Blender's Python the packages that workers need"
    )
    options = parser.parse_args()
    if options.install and not options.blender:
        parser.error("--install needs --blender PATH; the wheel is installed by `make setup`")
    return check_full_blender(options.blender, options.install) if options.blender else check_wheel()


if __name__ == "__main__":
    sys.exit(main())
