"""Torture in .blend files: hidden, instanced and generated things, scripts that want to run, libraries elsewhere.

Each is made by a Blender process of its own: to save a file with a script registered, Blender must hold that script.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

_START = """
import sys
from pathlib import Path
import bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
path = Path(sys.argv[1])
scene = bpy.context.scene

def cube(name, x=0.0, collection=None, size=1.0):
    bpy.ops.mesh.primitive_cube_add(size=size, location=(x, 0, 0))
    obj = bpy.context.object
    obj.name = name
    if collection:
        scene.collection.objects.unlink(obj)
        collection.objects.link(obj)
    return obj

def collection(name):
    made = bpy.data.collections.new(name)
    scene.collection.children.link(made)
    return made

def layer(made):
    return next(c for c in bpy.context.view_layer.layer_collection.children if c.collection == made)
"""
HIDDEN = """
cube("seen")
cube("not in renders", 50).hide_render = True
cube("only not in windows", 2).hide_viewport = True
cube("eye closed", -2).hide_set(True)
cube("camera does not see it", 60).visible_camera = False
hidden, excluded, window = collection("hidden"), collection("excluded"), collection("window")
cube("a", 70, hidden), cube("b", 80, excluded), cube("c", 4, window)
hidden.hide_render, window.hide_viewport = True, True
layer(excluded).exclude = True
"""
INSTANCED = """
parts = bpy.data.collections.new("parts")
obj = cube("part")
scene.collection.objects.unlink(obj)
parts.objects.link(obj)
for number in range(3):
    empty = bpy.data.objects.new("place", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", parts
    empty.location.x = 5 * number
    scene.collection.objects.link(empty)
"""
GENERATED = """
array = cube("row").modifiers.new("array", "ARRAY")
array.count = 4
smooth = cube("smooth", -4).modifiers.new("smooth", "SUBSURF")
smooth.levels, smooth.render_levels = 0, 2
group = bpy.data.node_groups.new("made", "GeometryNodeTree")
group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
made, out = group.nodes.new("GeometryNodeMeshCube"), group.nodes.new("NodeGroupOutput")
group.links.new(made.outputs[0], out.inputs[0])
nothing = bpy.data.objects.new("nodes", bpy.data.meshes.new("nothing"))
scene.collection.objects.link(nothing)
nothing.location.x = -8
nothing.modifiers.new("nodes", "NODES").node_group = group
bpy.ops.object.text_add(location=(0, 3, 0))
bpy.context.object.data.extrude = 0.1
bpy.ops.object.metaball_add(location=(0, -5, 0))
bpy.ops.curve.primitive_bezier_circle_add(location=(0, 8, 0))
bpy.context.object.data.bevel_depth = 0.2
"""
SCRIPTS = """
obj = cube("seen")
text = bpy.data.texts.new("auto.py")
text.write(f"open({str(path.parent / 'trace')!r}, 'w').write('it ran')")
text.use_module = True
driver = obj.driver_add("location", 0).driver
driver.expression = f"len(open({str(path.parent / 'trace')!r}, 'w').name)"
scene.use_nodes = True
writer = scene.node_tree.nodes.new("CompositorNodeOutputFile")
writer.base_path = str(path.parent / "trace")
layers = scene.node_tree.nodes.new("CompositorNodeRLayers")
scene.node_tree.links.new(layers.outputs[0], writer.inputs[0])
scene.render.use_border, scene.render.resolution_percentage = True, 10
"""
LIBRARY = """
elsewhere = path.parent.parent / "elsewhere.blend"
obj = cube("borrowed")
bpy.data.libraries.write(str(elsewhere), {obj}, path_remap="ABSOLUTE")
bpy.ops.wm.read_factory_settings(use_empty=True)
with bpy.data.libraries.load(str(elsewhere), link=True) as (_, chosen):
    chosen.objects = ["borrowed"]
bpy.context.scene.collection.objects.link(chosen.objects[0])
"""
CACHE = """
cube("seen")
bpy.ops.wm.alembic_export(filepath=str(path.parent.parent / "elsewhere.abc"), start=0, end=0, as_background_job=False)
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.wm.alembic_import(filepath=str(path.parent.parent / "elsewhere.abc"), always_add_cache_reader=True)
"""
_SAVE = "\nbpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True, relative_remap=False, compress={compress})\n"
# Some scenes keep Blender's module from ending once they are saved.
_SAVE += "import os\nos._exit(0)\n"


def saved(script: str, compress: bool = True, keep: float = 1.0) -> Callable[[Path], None]:
    """Runs `script` in a Blender of its own and saves the scene; `keep` is the share of the file that is left."""

    def write(path: Path) -> None:
        code = _START + script + _SAVE.format(compress=compress)
        made = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert path.exists(), made.stderr
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return write


CASES: tuple[tuple[str, Callable[[Path], None], tuple[str, ...], dict[str, Any]], ...] = (
    ("hidden", saved(HIDDEN), (), {"triangles": 48}),
    ("instanced", saved(INSTANCED), (), {"triangles": 36}),
    ("generated", saved(GENERATED), (), {}),
    ("scripts", saved(SCRIPTS, compress=False), (), {"triangles": 12}),
    ("library-elsewhere", saved(LIBRARY), ("bad-asset", "outside its folder"), {}),
    ("cache-elsewhere", saved(CACHE), ("bad-asset", "outside its folder"), {}),
    ("cut-off", saved(HIDDEN, compress=False, keep=0.5), ("bad-asset", "cut off"), {}),
)
"""Name, maker, reason and words of a failure (none: a capture), and what the asset record says."""
