"""What a surface is made of, read from its material's shader nodes and handed to the geometry render.

Cycles has no pass for base colour, metallic and roughness (its own "diffuse colour" is black on metals), so each material's
values are wired into shader outputs (AOVs) of the geometry render. In the same render a surface either is there or is not: one
whose opacity is at least a half stops the ray, any other lets it through. Cycles left alone would decide that by chance, pixel by
pixel, and would add up the AOVs of all that the ray passes.

Followed are groups, mixed and added shaders. Any shader with a colour counts with it: a Principled, metallic and glossy one with
their own values, an emission with its light's colour, others as rough and not metallic. A shader without a colour (a volume, a
script) gives black albedo.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import bpy

ALBEDO, MATERIAL = "turntable albedo", "turntable material"
"""Names of the AOVs: linear base colour; (0, roughness, metallic)."""
OPAQUE = 0.499
"""A surface more opaque than this stops the ray: one half, and what rounding leaves of it."""
GREY = 0.8
"""Cycles' own colour of a surface without a material."""


@dataclass(frozen=True)
class Surface:
    """Where a tree of shader nodes keeps what a surface is made of: outputs of nodes in that tree."""

    albedo: bpy.types.NodeSocket
    metallic: bpy.types.NodeSocket
    roughness: bpy.types.NodeSocket
    opacity: bpy.types.NodeSocket | None
    """None: opaque everywhere."""
    normal: bpy.types.NodeSocket | None
    """None: the mesh's own."""


def expose(objects: Iterable[bpy.types.Object], values: bool) -> None:
    """Makes all materials of `objects` binary (there or not); with `values`, also gives them the outputs `ALBEDO` and `MATERIAL`.

    To be called once, after the last colour picture: it changes how transparent materials look.
    """
    seen: set[bpy.types.NodeTree] = set()
    for material in _materials(objects, values):
        _use_nodes(material)
        place = _surface_input(material.node_tree)
        if place is None or place[0] in seen:
            continue
        tree, surface_input = place
        seen.add(tree)
        surface = read(tree, surface_input)
        if surface is not None:
            _wire(tree, surface_input, surface, values)


def _materials(objects: Iterable[bpy.types.Object], values: bool) -> list[bpy.types.Material]:
    """The materials in use. With `values`, objects that have none are given one that looks the same."""
    found, plain = {}, None
    for obj in objects:
        if obj.data is None or not hasattr(obj.data, "materials"):
            continue
        if (values and not all(slot.material for slot in obj.material_slots)) or not obj.material_slots:
            plain = plain or _plain_material()
            _fill_slots(obj, plain)
        for slot in obj.material_slots:
            if slot.material:
                found[slot.material.name_full] = slot.material
    return list(found.values())


def _plain_material() -> bpy.types.Material:
    material = bpy.data.materials.new("plain")
    material.diffuse_color = (GREY, GREY, GREY, 1)
    return material


def _fill_slots(obj: bpy.types.Object, material: bpy.types.Material) -> None:
    if not obj.material_slots:
        obj.data.materials.append(material)
    for slot in obj.material_slots:
        slot.material = slot.material or material


def _use_nodes(material: bpy.types.Material) -> None:
    """A material without nodes is one colour to Cycles, matt."""
    if material.use_nodes and material.node_tree:
        return
    colour = tuple(material.diffuse_color)
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    shader, output = tree.nodes.new("ShaderNodeBsdfDiffuse"), tree.nodes.new("ShaderNodeOutputMaterial")
    shader.inputs["Color"].default_value = colour
    tree.links.new(shader.outputs[0], output.inputs["Surface"])


def _surface_input(tree: bpy.types.NodeTree) -> tuple[bpy.types.NodeTree, bpy.types.NodeSocket] | None:
    """The input that takes the whole surface's shader, in the innermost group that makes it; None without a surface."""
    output = tree.get_output_node("CYCLES")
    place = output and output.inputs["Surface"]
    while place:
        source = _source(place)
        if source is None or source.node.type != "GROUP":
            return (tree, place) if source else None
        tree = source.node.node_tree
        inner = next((n for n in tree.nodes if n.type == "GROUP_OUTPUT" and n.is_active_output), None) if tree else None
        place = inner and next((s for s in inner.inputs if s.identifier == source.identifier), None)
    return None


def _source(place: bpy.types.NodeSocket) -> bpy.types.NodeSocket | None:
    """The output that feeds an input, through reroutes."""
    while place.is_linked:
        source = place.links[0].from_socket
        if source.node.type != "REROUTE":
            return source
        place = source.node.inputs[0]
    return None


def read(tree: bpy.types.NodeTree, place: bpy.types.NodeSocket) -> Surface | None:
    """What the shader that feeds the input `place` is made of; None where it has no colour."""
    source = _source(place)
    node = source.node if source else None
    if node is None:
        return None
    if node.type == "MIX_SHADER":
        return _mixed(tree, node)
    if node.type == "ADD_SHADER":
        parts = [(_source(p), read(tree, p)) for p in node.inputs]
        found = [(s.node.type == "EMISSION", part) for s, part in parts if s and part]
        # Light that a surface gives off by itself is the lesser part of what it is.
        return min(found, key=lambda item: item[0])[1] if found else None
    return _single(tree, node)


def _single(tree: bpy.types.NodeTree, node: bpy.types.Node) -> Surface | None:
    colour = node.inputs.get("Base Color") or node.inputs.get("Color")
    if colour is None or node.type in ("BSDF_TRANSPARENT", "HOLDOUT"):
        return None
    metallic, roughness = node.inputs.get("Metallic"), node.inputs.get("Roughness")
    matt = node.type in ("BSDF_DIFFUSE", "EMISSION")  # a diffuse shader's roughness is another quantity
    alpha = node.inputs.get("Alpha")
    opaque = alpha is None or (not alpha.is_linked and alpha.default_value >= 1)
    normal = node.inputs.get("Normal")
    return Surface(
        _output(tree, colour),
        _output(tree, metallic) if metallic else _number(tree, node.type in ("BSDF_GLOSSY", "BSDF_METALLIC")),
        _output(tree, roughness) if roughness and not matt else _number(tree, 1),
        None if opaque else _output(tree, alpha),
        _source(normal) if normal else None,
    )


def _mixed(tree: bpy.types.NodeTree, node: bpy.types.Node) -> Surface | None:
    """The mixture of two shaders. One without a colour lends only its transparency."""
    share, first, second = node.inputs
    a, b = read(tree, first), read(tree, second)
    one, zero = _number(tree, 1), _number(tree, 0)
    opacities = [
        (part.opacity or one) if part else (zero if _is_transparent(place) else one)
        for part, place in ((a, first), (b, second))
    ]
    opaque = not any(_is_transparent(p) for p in (first, second)) and not any(s.opacity for s in (a, b) if s)
    opacity = None if opaque else _mix(tree, "FLOAT", _output(tree, share), *opacities)
    if not (a and b):
        part = a or b
        return part and Surface(part.albedo, part.metallic, part.roughness, opacity, part.normal)
    fraction = _output(tree, share)
    return Surface(
        _mix(tree, "RGBA", fraction, a.albedo, b.albedo),
        _mix(tree, "FLOAT", fraction, a.metallic, b.metallic),
        _mix(tree, "FLOAT", fraction, a.roughness, b.roughness),
        opacity,
        a.normal or b.normal,
    )


def _is_transparent(place: bpy.types.NodeSocket) -> bool:
    source = _source(place)
    return source is not None and source.node.type == "BSDF_TRANSPARENT"


def _output(tree: bpy.types.NodeTree, place: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    """An output with an input's value: the one that feeds it, or a constant."""
    source = _source(place)
    if source:
        return source
    if place.type != "RGBA":
        return _number(tree, place.default_value)
    node = tree.nodes.new("ShaderNodeRGB")
    node.outputs[0].default_value = tuple(place.default_value)
    return node.outputs[0]


def _number(tree: bpy.types.NodeTree, value: float) -> bpy.types.NodeSocket:
    node = tree.nodes.new("ShaderNodeValue")
    node.outputs[0].default_value = float(value)
    return node.outputs[0]


def _mix(tree: bpy.types.NodeTree, kind: str, share: object, a: object, b: object) -> bpy.types.NodeSocket:
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type = kind
    suffix = {"FLOAT": "Float", "RGBA": "Color"}[kind]
    for name, source in (("Factor_Float", share), (f"A_{suffix}", a), (f"B_{suffix}", b)):
        tree.links.new(source, next(s for s in node.inputs if s.identifier == name))
    return next(s for s in node.outputs if s.identifier == f"Result_{suffix}")


def _wire(tree: bpy.types.NodeTree, place: bpy.types.NodeSocket, surface: Surface, values: bool) -> None:
    there = _binary(tree, place, surface) if surface.opacity else None
    if not values:
        return
    pack = tree.nodes.new("ShaderNodeCombineXYZ")
    tree.links.new(surface.roughness, pack.inputs["Y"])
    tree.links.new(surface.metallic, pack.inputs["Z"])
    for name, source in ((ALBEDO, surface.albedo), (MATERIAL, pack.outputs[0])):
        output = tree.nodes.new("ShaderNodeOutputAOV")
        output.aov_name = name
        tree.links.new(_scaled(tree, source, there) if there else source, output.inputs["Color"])


def _binary(tree: bpy.types.NodeTree, place: bpy.types.NodeSocket, surface: Surface) -> bpy.types.NodeSocket:
    """Replaces the shader at `place` by one that is there or not -> 1 or 0."""
    step = tree.nodes.new("ShaderNodeMath")
    step.operation = "GREATER_THAN"
    tree.links.new(surface.opacity, step.inputs[0])
    step.inputs[1].default_value = OPAQUE
    mix, matt = tree.nodes.new("ShaderNodeMixShader"), tree.nodes.new("ShaderNodeBsdfDiffuse")
    if surface.normal:
        tree.links.new(surface.normal, matt.inputs["Normal"])
    tree.links.new(step.outputs[0], mix.inputs[0])
    tree.links.new(tree.nodes.new("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
    tree.links.new(matt.outputs[0], mix.inputs[2])
    tree.links.new(mix.outputs[0], place)
    return step.outputs[0]


def _scaled(tree: bpy.types.NodeTree, vector: object, factor: object) -> bpy.types.NodeSocket:
    """Nothing of a surface that lets the ray through: Cycles adds the outputs of all that the ray meets."""
    node = tree.nodes.new("ShaderNodeVectorMath")
    node.operation = "SCALE"
    tree.links.new(vector, node.inputs[0])
    tree.links.new(factor, node.inputs["Scale"])
    return node.outputs[0]
