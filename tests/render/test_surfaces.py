"""What surfaces are made of: a cube's known values, cut-outs and glass, in the passes that one geometry render gives."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import cv2
import numpy as np
import pytest

from datasets.captures import CaptureReader
from datasets.pictures import decode_png, decode_position, encode_png
from datasets.verify import check_capture
from render import scene
from render.lights import Lights
from render.passes import Seen, Studio
from render.rigs import Camera
from render.settings import Settings
from render.worker import Job, render_asset
from tests.render.models import Gltf, box_mesh, boxes, bracket
from turntable import cameras

SIZE = 48
ALL = ("rgba", "depth", "normal", "albedo", "position", "material", "mask")
FRONT = Camera(cameras.look_at(np.array([0.0, -2.8, 0.0])), cameras.intrinsics_from_fov(50.0))
ONE_STEP = 1 / 255 + 1e-6
CUBE = 1 / np.sqrt(3)


def cube(**material: Any) -> Gltf:
    """A cube from -1 to 1 with a glTF material."""
    gltf = boxes([((-1, -1, -1), (1, 1, 1), (1, 1, 1))])
    gltf.content["materials"][0] = material
    return gltf


def look(gltf: Gltf, folder: Path, change: Callable[[bpy.types.Material], None] | None = None) -> Seen:
    """The geometry render from the front, after `change` of the first material in Blender."""
    scene.load(gltf.write(folder / "model.glb"))
    if change:
        change(bpy.data.materials[0])
    with Studio(Settings(resolution=SIZE, passes=ALL), Lights(1.0, ()), "cpu") as studio:
        return studio.geometry(FRONT)


def middle(seen: Seen) -> tuple[list[float], float, float]:
    """Albedo, metallic and roughness behind the picture's middle."""
    at = (SIZE // 2, SIZE // 2)
    return [float(v) for v in seen.albedo[at]], float(seen.metallic[at]), float(seen.roughness[at])


def surface(colour: tuple[float, ...], metallic: float = 0.0, roughness: float = 0.9) -> dict[str, Any]:
    return {"baseColorFactor": list(colour), "metallicFactor": metallic, "roughnessFactor": roughness}


def test_values_of_a_metal_are_its_own(tmp_path: Path) -> None:
    seen = look(cube(pbrMetallicRoughness=surface((0.8, 0.4, 0.1, 1), 1.0, 0.3)), tmp_path)
    albedo, metallic, roughness = middle(seen)
    assert albedo == pytest.approx([0.8, 0.4, 0.1], abs=ONE_STEP)
    assert metallic == pytest.approx(1, abs=ONE_STEP) and roughness == pytest.approx(0.3, abs=ONE_STEP)


def test_light_that_a_surface_gives_off_is_not_its_albedo(tmp_path: Path) -> None:
    glowing = cube(pbrMetallicRoughness=surface((0.2, 0.3, 0.4, 1)), emissiveFactor=[1, 1, 1])
    assert middle(look(glowing, tmp_path))[0] == pytest.approx([0.2, 0.3, 0.4], abs=ONE_STEP)


def test_an_unlit_surface_counts_with_its_colour(tmp_path: Path) -> None:
    unlit = cube(pbrMetallicRoughness=surface((0.2, 0.3, 0.4, 1)), extensions={"KHR_materials_unlit": {}})
    unlit.content["extensionsUsed"] = ["KHR_materials_unlit"]
    seen = look(unlit, tmp_path)
    albedo, metallic, roughness = middle(seen)
    assert albedo == pytest.approx([0.2, 0.3, 0.4], abs=ONE_STEP) and (metallic, roughness) == (0, 1)
    assert seen.hit[SIZE // 2, SIZE // 2]


def test_a_surface_without_material_is_grey_and_looks_as_before(tmp_path: Path) -> None:
    bare = cube()
    del bare.content["meshes"][0]["primitives"][0]["material"]
    path = bare.write(tmp_path / "model.glb")
    pictures = []
    for passes in (("rgba",), ALL):
        scene.load(path)
        with Studio(Settings(resolution=SIZE, passes=passes, samples=4), Lights(1.0, ()), "cpu") as studio:  # type: ignore[arg-type]
            pictures.append(studio.colour(FRONT, 0))
            seen = studio.geometry(FRONT) if len(passes) > 1 else None
    assert seen and middle(seen) == (pytest.approx([0.8] * 3, abs=ONE_STEP), 0, 1)
    assert np.array_equal(*pictures)


@pytest.mark.parametrize(("alpha", "there"), [(0.3, False), (0.49, False), (0.5, True), (0.7, True)])
def test_a_blended_surface_is_there_or_not(tmp_path: Path, alpha: float, there: bool) -> None:
    # Every pixel the same: left to Cycles, chance decides a pixel, and values of all layers are added up.
    gltf = cube(pbrMetallicRoughness=surface((1, 0, 0, alpha), 0.0, 0.5), alphaMode="BLEND", doubleSided=True)
    corners, faces = box_mesh((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
    gltf.node(mesh=gltf.mesh(corners, faces, (0, 0, 1)))
    seen = look(gltf, tmp_path)
    centre = slice(SIZE // 2 - 3, SIZE // 2 + 3)
    assert np.allclose(seen.depth[centre, centre], 2.8 - CUBE * (1 if there else 0.5), atol=1e-5)
    assert np.allclose(seen.albedo[centre, centre], [1, 0, 0] if there else [0, 0, 1], atol=ONE_STEP)
    assert np.allclose(seen.roughness[centre, centre], 0.5 if there else 0.9, atol=ONE_STEP)


def test_cut_outs_are_holes(tmp_path: Path) -> None:
    # A texture whose right half is clear, on one square.
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[:, 4:, 3] = 0
    picture = cv2.imencode(".png", texture)[1].tobytes()
    gltf = Gltf()
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    gltf.node(mesh=gltf.mesh(square, np.array([[0, 1, 2], [0, 2, 3]])))
    attributes = gltf.content["meshes"][0]["primitives"][0]["attributes"]
    attributes["TEXCOORD_0"] = gltf.accessor(np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32), "VEC2")
    gltf.content["bufferViews"].append({"buffer": 0, "byteOffset": len(gltf.binary), "byteLength": len(picture)})
    gltf.binary += picture + b"\0" * (-len(picture) % 4)
    gltf.content["images"] = [{"bufferView": len(gltf.content["bufferViews"]) - 1, "mimeType": "image/png"}]
    gltf.content["samplers"] = [{"magFilter": 9728, "minFilter": 9728}]  # nearest: no half-way opacities
    gltf.content["textures"] = [{"source": 0, "sampler": 0}]
    coloured = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0}
    gltf.content["materials"][0] = {"pbrMetallicRoughness": coloured, "alphaMode": "MASK", "doubleSided": True}
    seen = look(gltf, tmp_path)
    rows, half = slice(SIZE // 2 - 6, SIZE // 2 + 6), SIZE // 2
    assert seen.hit[rows, half - 8 : half].all() and not seen.hit[rows, half : half + 8].any()
    assert np.allclose(seen.albedo[rows, half - 8 : half], 1, atol=ONE_STEP)


def _in_a_group(material: bpy.types.Material) -> None:
    """Rebuilds the material as a group that holds a mixture of a metal and a clear shader."""
    group = bpy.data.node_groups.new("inside", "ShaderNodeTree")
    group.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    metal, clear = group.nodes.new("ShaderNodeBsdfPrincipled"), group.nodes.new("ShaderNodeBsdfTransparent")
    mix, result = group.nodes.new("ShaderNodeMixShader"), group.nodes.new("NodeGroupOutput")
    metal.inputs["Base Color"].default_value = (0.1, 0.6, 0.2, 1)
    metal.inputs["Metallic"].default_value = 1
    metal.inputs["Roughness"].default_value = 0.25
    mix.inputs[0].default_value = 0.8
    group.links.new(clear.outputs[0], mix.inputs[1])
    group.links.new(metal.outputs[0], mix.inputs[2])
    group.links.new(mix.outputs[0], result.inputs[0])
    tree = material.node_tree
    node = tree.nodes.new("ShaderNodeGroup")
    node.node_tree = group
    tree.links.new(node.outputs[0], tree.get_output_node("CYCLES").inputs["Surface"])


def _of_two_shaders(material: bpy.types.Material) -> None:
    """A quarter of white matt, three quarters of black gloss."""
    tree = material.node_tree
    matt, gloss = tree.nodes.new("ShaderNodeBsdfDiffuse"), tree.nodes.new("ShaderNodeBsdfAnisotropic")
    matt.inputs["Color"].default_value, gloss.inputs["Color"].default_value = (1, 1, 1, 1), (0, 0, 0, 1)
    gloss.inputs["Roughness"].default_value = 0.2
    mix = tree.nodes.new("ShaderNodeMixShader")
    mix.inputs[0].default_value = 0.75
    tree.links.new(matt.outputs[0], mix.inputs[1])
    tree.links.new(gloss.outputs[0], mix.inputs[2])
    tree.links.new(mix.outputs[0], tree.get_output_node("CYCLES").inputs["Surface"])


def _without_nodes(material: bpy.types.Material) -> None:
    material.use_nodes = False
    material.diffuse_color = (0.3, 0.2, 0.1, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_in_a_group, ([0.1, 0.6, 0.2], 1, 0.25)),
        (_of_two_shaders, ([0.25] * 3, 0.75, 0.25 * 1 + 0.75 * 0.2)),
        (_without_nodes, ([0.3, 0.2, 0.1], 0, 1)),
    ],
)
def test_shaders_are_followed(tmp_path: Path, change: Any, expected: tuple[list[float], float, float]) -> None:
    seen = look(cube(), tmp_path, change)
    albedo, metallic, roughness = middle(seen)
    assert albedo == pytest.approx(expected[0], abs=ONE_STEP)
    assert metallic == pytest.approx(expected[1], abs=ONE_STEP) and roughness == pytest.approx(
        expected[2], abs=ONE_STEP
    )


def capture(folder: Path, **settings: Any) -> Path:
    path = bracket().write(folder / "bracket.glb")
    job = Job("abc", path, folder / "abc.zip", Settings(views=2, resolution=SIZE, samples=1, **settings), {})
    render_asset(job, None, 1, lambda where: None)
    return job.out


def test_every_pass_arrives_in_the_capture(tmp_path: Path) -> None:
    path = capture(tmp_path, passes=ALL)
    with zipfile.ZipFile(path) as archive:
        frames = json.loads(archive.read("transforms.json"))["frames"]
        names = set(archive.namelist())
    assert all(
        frame[f"{name}_file_path" if name != "rgba" else "file_path"] in names for frame in frames for name in ALL
    )
    with CaptureReader(path) as reader:
        assert reader.passes == list(ALL)
        for view in range(len(reader)):
            depth, hit = reader.depth(view), reader.picture("mask", view) == 255
            assert np.array_equal(hit, depth > 0) and hit.any() and not hit.all()
            uv = cameras.pixel_centres(SIZE, SIZE)[hit]
            pose, lens = reader.world_from_camera[view], reader.intrinsics[view]
            points = decode_position(reader.picture("position", view))
            # Half a step of depth (4e-5 a step) and of position (3.4e-5).
            assert np.allclose(points[hit], cameras.backproject(uv, depth[hit], pose, lens), atol=1e-4)
            assert np.isnan(points[~hit]).all()
            albedo, material = reader.picture("albedo", view), reader.picture("material", view)
            # The bracket's three colours in sRGB: linear 0.8 is 231, 0.7 is 218, 0.2 is 124, 0.1 is 89.
            assert {tuple(c) for c in albedo[hit].tolist()} <= {(231, 89, 89), (89, 218, 89), (89, 124, 231)}
            assert (material[hit] == [255, 230, 0]).all()
            assert not albedo[~hit].any() and not material[~hit].any()


def test_colour_alone_renders_no_geometry_and_the_same_colour(tmp_path: Path) -> None:
    for name in ("some", "all", "none"):
        (tmp_path / name).mkdir()
    alone, some = capture(tmp_path / "none", passes=("rgba",)), capture(tmp_path / "some", passes=("mask",))
    everything = capture(tmp_path / "all", passes=ALL)
    with CaptureReader(alone) as a, CaptureReader(some) as b, CaptureReader(everything) as c:
        assert a.passes == ["rgba"] and b.passes == ["rgba", "mask"]
        assert a.encoded("rgba", 1) == b.encoded("rgba", 1) == c.encoded("rgba", 1)
        assert all(view["hit"] > 0 for view in a.view_records)


def test_verify_finds_passes_that_do_not_fit_together(tmp_path: Path) -> None:
    path = capture(tmp_path, passes=ALL)
    sound = tmp_path / "ab" / "abc.zip"
    sound.parent.mkdir()
    path.rename(sound)
    assert check_capture(sound).problems == []
    for name, words in (("mask", "differ in whether"), ("position", "position and depth are")):
        wrong = tmp_path / name / "ab" / "abc.zip"
        wrong.parent.mkdir(parents=True)
        with zipfile.ZipFile(sound) as old, zipfile.ZipFile(wrong, "w") as new:
            for entry in old.namelist():
                content = old.read(entry)
                if entry == f"{name}/001.png":
                    picture = decode_png(content)
                    # A mask of everything; positions a hundredth of a unit to the side.
                    picture = picture | 255 if name == "mask" else np.where(picture, picture + 300, 0).astype(np.uint16)
                    content = encode_png(picture)
                new.writestr(entry, content)
        problems = check_capture(wrong).problems
        assert problems and all("view 1" in problem and words in problem for problem in problems), problems
