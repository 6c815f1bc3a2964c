"""Assets that break renderers, made by code, each with the end it must come to.

`python -m tests.render.torture` renders them all and prints the table: asset, expected, actual, message.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.captures import CaptureReader, capture_path
from datasets.catalogue import Asset
from render.command import RenderConfig, job_maker, make_workers
from render.settings import Settings
from tests.render import bad_blends
from tests.render.exported import png
from tests.render.models import BRACKET, Gltf, box_mesh, boxes, bracket, rigged
from turntable.jobs import Limits
from turntable.outcomes import remaining
from turntable.runs import Run

CAPTURE = "capture"
BOMB = 60_000
"""Side of the picture that would take 10 GB once decoded."""


@dataclass(frozen=True)
class Case:
    """One asset and its end."""

    file: str
    """Name of the file; with - instead of . its uid."""
    make: Callable[[Path], object]
    """Writes the file, and what belongs to it, to the path given."""
    end: str = CAPTURE
    """`capture`, or the reason of its failure."""
    words: str = ""
    """What the failure's message says."""
    asset: dict[str, Any] = field(default_factory=dict)
    """What the capture's asset record says, among the rest."""


def written(content: str | bytes | Callable[[], Gltf]) -> Callable[[Path], object]:
    """Writes text, bytes or a glTF."""

    def write(path: Path) -> object:
        if callable(content):
            return content().write(path)
        return path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def animated() -> Gltf:
    """One root with keyframes that put it far away, enlarged."""
    asset = Gltf()
    node = asset.node(mesh=asset.mesh(*box_mesh((0, 0, 0), (10, 10, 10))))
    asset.animate(node, "translation", [[100, 0, 0], [200, 0, 0]])
    asset.animate(node, "scale", [[3, 3, 3], [9, 9, 9]])
    return asset


def far_apart() -> Gltf:
    return boxes([((0, 0, 0), (1, 1, 1), (0.8, 0.1, 0.1)), ((30, 0, 0), (31, 1, 1), (0.1, 0.1, 0.8))])


def lit() -> Gltf:
    """A light and a camera of its own."""
    asset = bracket()
    asset.content["extensionsUsed"] = ["KHR_lights_punctual"]
    lamp = {"type": "point", "intensity": 1e6, "color": [1, 0, 0]}
    asset.content["extensions"] = {"KHR_lights_punctual": {"lights": [lamp]}}
    asset.content["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}]
    asset.node(camera=0, translation=[100, 0, 0])
    asset.node(extensions={"KHR_lights_punctual": {"light": 0}}, translation=[-100, 5, 0])
    return asset


def not_numbers() -> Gltf:
    asset = bracket()
    asset.binary = np.full(1, np.nan, np.float32).tobytes() + asset.binary[4:]
    return asset


def collapsed(axes: tuple[int, int, int]) -> Gltf:
    """A box whose sides along axes of 0 have no length."""
    asset, (corners, faces) = Gltf(), box_mesh((1, 1, 1), (2, 2, 2))
    asset.node(mesh=asset.mesh(corners * np.array(axes, np.float32), faces))
    return asset


def nothing() -> Gltf:
    asset = Gltf()
    asset.node()
    return asset


def points() -> Gltf:
    asset = Gltf()
    asset.node(mesh=asset.mesh(box_mesh((0, 0, 0), (1, 1, 1))[0], None))
    return asset


def invisible() -> Gltf:
    asset = bracket()
    for material in asset.content["materials"]:
        material["alphaMode"] = "BLEND"
        material["pbrMetallicRoughness"]["baseColorFactor"][3] = 0.0
    return asset


def crowd(count: int) -> Gltf:
    """So many nodes: one in fifty is a box, the others only lead to it, as in files from construction programs."""
    asset = Gltf()
    mesh = asset.mesh(*box_mesh((0, 0, 0), (1, 1, 1)))
    for number in range(count // 50):
        node = asset.node(root=False, mesh=mesh)
        for _ in range(48):
            node = asset.node(root=False, children=[node])
        asset.node(children=[node], translation=[2 * (number % 20), 2 * (number // 20), 0])
    return asset


def painted(picture: bytes) -> Gltf:
    """The bracket with an embedded picture as its colour."""
    asset = bracket()
    start = len(asset.binary)
    asset.binary += picture + b"\0" * (-len(picture) % 4)
    asset.content["bufferViews"].append({"buffer": 0, "byteOffset": start, "byteLength": len(picture)})
    image = {"bufferView": len(asset.content["bufferViews"]) - 1, "mimeType": "image/png"}
    asset.content |= {"images": [image], "textures": [{"source": 0}]}
    for material in asset.content["materials"]:
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    return asset


def separate(buffer: str, picture: str = "") -> Callable[[Path], None]:
    """A .gltf with its binary in `<stem>.bin`, which it calls `buffer`, and a colour that it calls `picture`."""

    def write(path: Path) -> None:
        asset = painted(b"") if picture else bracket()
        if picture:
            asset.content["images"] = [{"uri": picture}]
        asset.content["buffers"] = [{"byteLength": len(asset.binary), "uri": buffer}]
        path.write_text(json.dumps({k: v for k, v in asset.content.items() if v != []}))
        path.with_suffix(".bin").write_bytes(asset.binary)

    return write


def linked(target: str) -> Callable[[Path], None]:
    """A .gltf whose buffer is a symbolic link that leaves the folder."""

    def write(path: Path) -> None:
        separate("innocent.dat")(path)
        (path.parent / "innocent.dat").symlink_to(target)

    return write


def obj(library: str, picture: str = "", content: bytes = b"") -> Callable[[Path], None]:
    """A square with a material from `library`, whose colour is `picture`; `content` is written beside it, as that picture."""

    def write(path: Path) -> None:
        corners = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        path.write_text(f"mtllib {library}\n{corners}usemtl paint\nf 1/1 2/2 3/3 4/4\n")
        if re.fullmatch(r"\w+\.mtl", library):
            (path.parent / library).write_text(f"newmtl paint\nKd 1 1 1\nmap_Kd {picture}\n")
        if content:
            (path.parent / picture).write_bytes(content)

    return write


USD_SQUARE = """#usda 1.0
(upAxis = "Z")
def Mesh "square"{more} {{
    uniform token subdivisionScheme = "none"
    point3f[] points = [(0,0,0), (2,0,0), (2,1,0), (0,1,0)]
    int[] faceVertexCounts = [4]
    int[] faceVertexIndices = [0, 1, 2, 3]
}}
"""
DAE = """<?xml version="1.0"?>
<!DOCTYPE COLLADA [<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<COLLADA version="1.4.1"><asset><title>&secret;</title></asset></COLLADA>
"""
PLY_POINTS = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
)
WHOLE = bracket().data()

CASES: tuple[Case, ...] = (
    Case("animated-root.glb", written(animated), asset={"animations": 2}),
    Case("rigged.glb", written(rigged), asset={"triangles": 12, "armatures": 1}),
    Case("two-roots.glb", written(far_apart), asset={"triangles": 24}),
    Case("lights-and-cameras.glb", written(lit), asset={"triangles": 36}),
    Case("tiny.glb", written(lambda: boxes(BRACKET, 1e-6)), asset={"triangles": 36}),
    Case("huge.glb", written(lambda: boxes(BRACKET, 1e6)), asset={"triangles": 36}),
    Case("crowd.glb", written(lambda: crowd(2_500)), asset={"nodes": 2_500, "triangles": 600}),
    Case("twenty-thousand-nodes.glb", written(lambda: crowd(20_000)), "bad-asset", "20000 nodes, more than 10000"),
    Case("not-numbers.glb", written(not_numbers), "bad-asset", "1 of 24 vertices are not finite"),
    Case("point.glb", written(lambda: collapsed((0, 0, 0))), "empty", "lie on one point"),
    Case("line.glb", written(lambda: collapsed((1, 0, 0))), "empty", "none of its 12 triangles has an area"),
    Case("nothing.glb", written(nothing), "empty", "it holds 1 empties"),
    Case("points.glb", written(points), "empty", "8 points without faces"),
    Case("points.v1.ply", written(PLY_POINTS + "0 0 0\n1 0 0\n0 1 0\n"), "empty", "3 points without faces"),
    Case("invisible.glb", written(invisible), "empty", "materials are wholly transparent"),
    Case("cut-off.glb", written(WHOLE[: len(WHOLE) // 2]), "bad-asset", "cut off"),
    Case("cut-off.v1.ply", written(PLY_POINTS.replace("ascii", "binary_little_endian")), "bad-asset", "cut off"),
    Case("cut-off.v1.stl", written(b"\0" * 80 + b"\2\0\0\0" + b"\0" * 50), "bad-asset", "cut off, 134 of 184 bytes"),
    Case("wrong-suffix.glb", written(png(8, 8)), "bad-asset", "not a glb file but a PNG picture"),
    Case("wrong-suffix.v1.fbx", written(WHOLE), "bad-asset", "not a fbx file but a .glb file"),
    Case("wrong-suffix.v2.obj", written("just some words\n"), "bad-asset", "no vertex"),
    Case("unknown.max", written(b"3ds"), "bad-asset", ".max; assets are read from"),
    Case("page.glb", written("\n<!DOCTYPE html><html>404</html>"), "bad-asset", "an HTML page"),
    Case("void.glb", written(b""), "bad-asset", "empty"),
    Case("missing-texture.gltf", separate("missing-texture.bin", "gone.png"), asset={"textures_missing": ["gone.png"]}),
    Case("bomb.glb", written(lambda: painted(png(BOMB, BOMB, b""))), "bad-asset", "60000×60000 pixels"),
    Case("bomb.v1.obj", obj("bomb.mtl", "bomb.png", png(BOMB, BOMB, b"")), "bad-asset", "60000×60000 pixels"),
    Case("damaged-texture.glb", written(lambda: painted(png(8, 8, b"?"))), asset={"textures": 0}),
    Case("escape.gltf", separate("../../etc/passwd"), "bad-asset", "outside its folder"),
    Case("escape.v1.gltf", separate("..%2f..%2Fetc/passwd"), "bad-asset", "outside its folder"),
    Case("escape.v2.gltf", separate("/etc/passwd"), "bad-asset", "absolute path"),
    Case("escape.v3.gltf", separate("file:///etc/passwd"), "bad-asset", "an address"),
    Case("escape.v4.gltf", separate("https://example.com/a.bin"), "bad-asset", "an address"),
    Case("escape.v5.gltf", linked("/etc/passwd"), "bad-asset", "leads out of"),
    Case("escape.v6.gltf", separate("escape.v6.bin", "../../secret.png"), "bad-asset", "outside its folder"),
    Case("escape.v7.obj", obj("../../etc/passwd"), "bad-asset", "outside its folder"),
    Case("quoted.obj", obj('"../passwd"'), "bad-asset", "outside its folder"),
    Case("continued.obj", obj("\\\n ../passwd"), "bad-asset", "outside its folder"),
    Case("escape.v8.obj", obj("escape.mtl", "/etc/passwd"), asset={"textures": 0, "textures_missing": ["passwd"]}),
    Case(
        "escape.v9.usda",
        written(USD_SQUARE.format(more=" (references = @../../etc/passwd.usda@)")),
        "bad-asset",
        "outside its folder",
    ),
    Case("escape.v10.dae", written(DAE), "bad-asset", "document type definition"),
    Case("square.usda", written(USD_SQUARE.format(more="")), asset={"triangles": 2}),
    *(Case(f"{name}.blend", make, *end, asset=asset) for name, make, end, asset in bad_blends.CASES),
    Case("dies.segfault", written(b"?"), "crash", "SIGSEGV"),
    Case("never-returns.hang", written(b"?"), "timeout", "not finished"),
    Case("eats-memory.glutton", written(b"?"), "out-of-memory", "GiB"),
)
LIMITS = Limits(timeout_s=240, silence_s=240, memory_gb=2.0)
HANGING = Limits(timeout_s=8, silence_s=8, memory_gb=2.0)
"""For the asset that hangs: the others may be slow on a loaded machine."""


class Cases:
    """The cases as a catalogue, in a folder each."""

    source = "torture"

    def __init__(self, folder: Path, cases: tuple[Case, ...] = CASES) -> None:
        self.folder = folder
        self.cases = {uid(case): case for case in cases}

    def asset(self, uid: str) -> Asset:
        return Asset(uid, None, "cc0", uid, "", "")

    def fetch(self, uid: str) -> Path:
        path = self.folder / uid / self.cases[uid].file
        path.parent.mkdir(parents=True)
        self.cases[uid].make(path)
        return path

    def release(self, uid: str) -> None:
        """Kept, to be looked at."""


def uid(case: Case) -> str:
    """Its name as an id."""
    return case.file.replace(".", "-")


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    case: Case
    end: str
    message: str
    record: dict[str, Any]
    """The capture's asset record."""
    complaints: list[str]
    """What is wrong about it; empty where all is as expected."""


def run(folder: Path, cases: tuple[Case, ...] = CASES) -> list[Outcome]:
    """Renders all cases into `folder`, with one worker at a time -> how each ended, in their order."""
    catalogue, out = Cases(folder / "assets", cases), folder / "out"
    settings = Settings(views=2, resolution=32, samples=1, denoise=False)

    def output(name: str) -> Path:
        return capture_path(out, name)

    for limits in (LIMITS, HANGING):
        options = RenderConfig(out=out, workers_per_gpu=1, settings=settings, limits=limits)
        chosen = [uid(c) for c in cases if (limits is HANGING) == (c.end == "timeout")]
        workers = make_workers(options, "tests.render.faulty_worker")
        Run(out, job_maker(options, catalogue), output, workers)(*remaining(out, chosen, output), unit="asset")
    return [outcome(case, folder / "out") for case in cases]


def outcome(case: Case, out: Path) -> Outcome:
    """Reads how a case ended."""
    failure = out / "failures" / f"{uid(case)}.json"
    if failure.exists():
        record = json.loads(failure.read_text())
        complaints = [] if record["reason"] == case.end else [f"expected {case.end}"]
        complaints += [] if case.words in record["message"] else [f"the message does not say {case.words!r}"]
        return Outcome(case, record["reason"], record["message"], {}, complaints)
    path = capture_path(out, uid(case))
    if not path.exists():
        return Outcome(case, "nothing", "", {}, ["neither captured nor failed"])
    with CaptureReader(path) as reader:
        asset = reader.record["asset"]
        complaints = [] if case.end == CAPTURE else [f"expected {case.end}"]
        complaints += [f"{k} is {asset[k]!r}, not {v!r}" for k, v in case.asset.items() if asset[k] != v]
        complaints += wrong_with(reader)
    return Outcome(case, CAPTURE, "", asset, complaints)


def wrong_with(reader: CaptureReader) -> list[str]:
    """A correct capture: the asset is seen whole in every view, and its surface reaches the unit sphere and no farther."""
    complaints = []
    for number, view in enumerate(reader.view_records):
        if not view["seen"] or not view["hit"] or view["border"]:
            complaints.append(f"view {number}: {view}")
    radii = np.linalg.norm(reader.geometry().points, axis=1)
    # 100,000 points on a surface come within a few hundredths of its farthest corner.
    if not 0.95 < radii.max() < 1.002:
        complaints.append(f"its farthest surface point lies at {radii.max():.4f}")
    return complaints


def main() -> int:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder))
    print("| asset | expected | actual | message |\n|---|---|---|---|")
    for o in outcomes:
        said = "; ".join(o.complaints) or o.message.replace(folder, "").replace("\n", " ")
        print(f"| {o.case.file} | {o.case.end} | {o.end}{' **WRONG**' if o.complaints else ''} | {said[:160]} |")
    wrong = sum(bool(o.complaints) for o in outcomes)
    print(f"\n{len(outcomes)} assets, {wrong} not as expected")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
