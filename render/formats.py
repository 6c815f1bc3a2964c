"""The formats that assets are read from. Needs no Blender."""

from __future__ import annotations

SUFFIXES: tuple[str, ...] = (
    ".glb",
    ".gltf",
    ".obj",
    ".fbx",
    ".stl",
    ".ply",
    ".usd",
    ".usda",
    ".usdc",
    ".usdz",
    ".dae",
    ".abc",
    ".blend",
)
"""Suffixes of asset files, lower case, in the order in which one is preferred where a folder has the same asset twice."""
