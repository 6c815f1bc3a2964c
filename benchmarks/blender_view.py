"""Pictures of a file that Blender's own importer has read: `python -m benchmarks.blender_view FILE.glb VIEWS.json OUT`.

VIEWS.json: a list of {"world_from_camera": 3×4, "intrinsics": [fx, fy, cx, cy], "size": pixels}, as Turntable's cameras are, in
Blender's world. Writes OUT/000.png … The colours are shown unlit, as the file has them: base colour straight to the film.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy
from mathutils import Matrix

IMPORTERS = {".glb": "import_scene.gltf", ".obj": "wm.obj_import", ".ply": "wm.ply_import"}


def load(path: Path) -> None:
    """The file alone in an empty scene, by the importer's defaults."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    room, name = IMPORTERS[path.suffix].split(".")
    getattr(getattr(bpy.ops, room), name)(filepath=str(path))


def show_base_colour() -> None:
    """Every material glows in its base colour and takes no light; what has no material shows its vertex colours."""
    for shape in (thing for thing in bpy.data.objects if thing.type == "MESH"):
        if not shape.data.materials:
            shape.data.materials.append(bpy.data.materials.new("vertex colours"))
    for material in bpy.data.materials:
        material.use_nodes = True
        nodes, links = material.node_tree.nodes, material.node_tree.links
        shader = next((node for node in nodes if node.type == "BSDF_PRINCIPLED"), None)
        glow, output = nodes.new("ShaderNodeEmission"), next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
        if shader and shader.inputs["Base Color"].links:
            links.new(shader.inputs["Base Color"].links[0].from_socket, glow.inputs["Color"])
        else:
            links.new(nodes.new("ShaderNodeVertexColor").outputs["Color"], glow.inputs["Color"])
        links.new(glow.outputs[0], output.inputs["Surface"])


def add_camera(view: dict) -> None:
    lens = bpy.data.cameras.new("camera")
    camera = bpy.data.objects.new("camera", lens)
    bpy.context.collection.objects.link(camera)
    camera.matrix_world = Matrix([*view["world_from_camera"], [0, 0, 0, 1]])
    fx, _, cx, cy = view["intrinsics"]
    lens.sensor_fit, lens.sensor_width, lens.lens = "HORIZONTAL", 1.0, fx
    lens.shift_x, lens.shift_y, lens.clip_start = 0.5 - cx, cy - 0.5, 0.01
    bpy.context.scene.camera = camera


def main() -> None:
    file, views, out = map(Path, sys.argv[1:4])
    load(file)
    show_base_colour()
    scene = bpy.context.scene
    scene.render.engine, scene.cycles.samples, scene.cycles.max_bounces = "CYCLES", 16, 0
    scene.cycles.use_denoising, scene.render.threads_mode, scene.render.threads = False, "FIXED", 1
    scene.view_settings.view_transform, scene.render.film_transparent = "Standard", True
    for index, view in enumerate(json.loads(views.read_text())):
        add_camera(view)
        scene.render.resolution_x = scene.render.resolution_y = view["size"]
        scene.render.filepath = str(out / f"{index:03d}.png")
        bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main()
