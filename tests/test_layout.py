"""The house rules that a machine can check: who may import whom, how long files and functions are, what is installed."""

from __future__ import annotations

import ast
import configparser
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("turntable", "datasets", "render", "preprocess", "model", "train")
MAY_IMPORT: dict[str, set[str]] = {
    "turntable": set(),
    "datasets": {"turntable"},
    "render": {"turntable", "datasets"},
    "preprocess": {"turntable", "datasets"},
    # A photo is treated as the training pictures were; rendered views leave as captures, whose format `datasets` owns.
    "model": {"turntable", "preprocess.matte", "datasets.captures", "datasets.pictures"},
    "train": {"turntable", "datasets", "model"},
}
"""The table of the architecture: room -> the rooms, or single modules, it may import beside itself."""
HEAVY: dict[str, set[str]] = {
    "bpy": {"render"},
    "bmesh": {"render"},
    "mathutils": {"render"},
    "torch": {"model", "train", "datasets.samples", "datasets.augmentation", "preprocess.networks", "preprocess.tiles"},
    "spandrel": {"preprocess"},
    "rembg": {"preprocess"},
    "onnxruntime": {"preprocess"},
    "pycolmap": {"preprocess"},
    "viser": {"datasets.page", "datasets.page_server"},
    "triton": {"model.kernels"},
    "gradio": {"model.app"},
}
"""Package -> the rooms or single modules that may import it."""
LONGEST_FILE = 600
LONGEST_FUNCTION = 80


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> set[str]:
    """Every dotted name that the file imports, wherever the statement stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def under(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(a + ".") for a in allowed)


def violations(root: Path) -> list[str]:
    """Imports below `root` that the architecture does not allow, as `module imports name`."""
    found = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            module = module_name(path, root)
            for name in sorted(imported(ast.parse(path.read_text()))):
                top = name.partition(".")[0]
                wrong_room = top in ROOMS and top != room and not under(name, MAY_IMPORT[room])
                wrong_package = top in HEAVY and not under(module, HEAVY[top])
                if wrong_room or wrong_package:
                    found.append(f"{module} imports {name}")
    return found


def test_imports_go_one_way() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("render/a.py", "from model.lrm import LRM", "render.a imports model.lrm.LRM"),
        ("render/a.py", "import train.loop", "render.a imports train.loop"),
        ("turntable/a.py", "from datasets import captures", "turntable.a imports datasets.captures"),
        ("turntable/a.py", "def f():\n    import torch", "turntable.a imports torch"),
        ("datasets/shards.py", "import torch", "datasets.shards imports torch"),
        ("train/a.py", "import bpy", "train.a imports bpy"),
        ("model/a.py", "from preprocess import captures", "model.a imports preprocess.captures"),
    ],
)
def test_an_import_the_wrong_way_is_found(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(line + "\n")
    assert violations(tmp_path) == [complaint]


def test_allowed_imports_pass(tmp_path: Path) -> None:
    for file, line in {
        "model/a.py": "from preprocess.matte import matte\nimport torch",
        "datasets/samples.py": "import torch",
    }.items():
        path = tmp_path / file
        path.parent.mkdir()
        path.write_text(line + "\n")
    assert violations(tmp_path) == []


def python_files() -> list[Path]:
    return [p for room in (*ROOMS, "tests", "benchmarks") for p in sorted((ROOT / room).rglob("*.py"))]


def test_files_and_functions_can_be_read_without_scrolling() -> None:
    too_long = []
    for path in python_files():
        text = path.read_text()
        if text.count("\n") > LONGEST_FILE:
            too_long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert too_long == []


def test_package_files_are_empty() -> None:
    """An `__init__.py` with code would run on import, and would let our `datasets` be taken for Hugging Face's."""
    assert [str(p) for p in python_files() if p.name == "__init__.py" and p.read_text().strip()] == []


def test_only_turntable_is_installed() -> None:
    """`datasets` or `model` in site-packages would overwrite other people's packages."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["packages"].split() == ["turntable"]
    site = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    assert not any((site / room).exists() for room in ("render", "preprocess", "model", "train"))


def test_system_packages_are_the_same_everywhere() -> None:
    packages = (ROOT / "system-packages.txt").read_text().split()
    assert packages == sorted(packages)
    assert " ".join(packages) in (ROOT / "README.md").read_text()
    assert "system-packages.txt" in (ROOT / "Dockerfile").read_text()


def test_every_module_is_in_the_readme_tree() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [
        str(p.relative_to(ROOT))
        for room in ROOMS
        for p in sorted((ROOT / room).glob("*.py"))
        if p.name != "__init__.py" and p.name not in readme
    ]
    assert missing == []
