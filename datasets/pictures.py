"""One picture a pass: how a pass's values become a PNG, and back. docs/conventions.md is the contract.

    rgba       8-bit, straight alpha, sRGB
    depth      16-bit, planar z = value × depth_scale in object units, 0 where nothing is hit
    normal     8-bit, unit shading normal in the normalised world frame = value / 127.5 - 1, black where nothing is hit
    albedo     8-bit, base colour, sRGB, black where nothing is hit
    position   16-bit, point in the normalised world frame = value × POSITION_SCALE + POSITION_OFFSET, black where nothing is hit
    material   8-bit, glTF's channels: red 255 where something is hit, green roughness × 255, blue metallic × 255
    mask       8-bit, 255 where something is hit

All but rgba belong to the ray through the pixel's centre. PNGs are treated as hostile: dimensions are checked before decoding.
"""

from __future__ import annotations

import cv2
import numpy as np

PASS_CHANNELS = {
    "rgba": (4, np.uint8),
    "depth": (1, np.uint16),
    "normal": (3, np.uint8),
    "albedo": (3, np.uint8),
    "position": (3, np.uint16),
    "material": (3, np.uint8),
    "mask": (1, np.uint8),
}
"""Pass -> (channels, type) of its encoded picture."""
MAX_PICTURE_SIDE = 8192
PNG_LEVEL = 3
"""Compression: at 512², level 3 takes a third less than level 1 for a few milliseconds, level 6 gains little more."""
POSITION_SCALE, POSITION_OFFSET = 2.2 / 65535, -1.1
"""Object units a step, and object units at 0: the unit sphere and a tenth more, so that no hit is black. A step is 3.4e-5."""


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3 or 4) uint8 or uint16, RGB(A) order -> PNG bytes."""
    swapped = picture if picture.ndim == 2 else picture[..., [2, 1, 0, 3][: picture.shape[2]]]
    ok, data = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    assert ok, picture.shape
    return data.tobytes()


def decode_png(data: bytes) -> np.ndarray:
    """PNG bytes -> array in RGB(A) order. The size is read from the header and limited before anything is decoded."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        raise ValueError("not a PNG picture")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if not (0 < width <= MAX_PICTURE_SIDE and 0 < height <= MAX_PICTURE_SIDE):
        raise ValueError(f"a picture of {width}×{height} pixels, more than {MAX_PICTURE_SIDE} a side; refused")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("a damaged PNG picture")
    return picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., [2, 1, 0, 3][: picture.shape[2]]])


def encode_depth(depth: np.ndarray, depth_scale: float) -> bytes:
    """(H, W) float planar depth in object units, 0 = nothing hit -> 16-bit PNG. A hit is never encoded as 0."""
    steps = np.where(depth > 0, np.clip(np.round(depth / depth_scale), 1, 65535), 0)
    return encode_png(steps.astype(np.uint16))


def encode_normal(normal: np.ndarray, hit: np.ndarray) -> bytes:
    """(H, W, 3) unit normals in the world frame, (H, W) bool hit -> 8-bit PNG."""
    return encode_png(np.where(hit[..., None], np.round((normal + 1) * 127.5).clip(0, 255), 0).astype(np.uint8))


def decode_normal(encoded: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 as `CaptureReader.picture` returns it -> (H, W, 3) float32 unit normals, 0 where nothing is hit."""
    normal = encoded.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.where(encoded.any(axis=-1, keepdims=True), normal / np.maximum(length, 1e-6), 0)


def encode_albedo(albedo: np.ndarray, hit: np.ndarray) -> bytes:
    """(H, W, 3) linear base colour, (H, W) bool hit -> 8-bit PNG in sRGB. Values outside [0, 1] are clipped."""
    linear = np.nan_to_num(albedo, nan=0.0).clip(0, 1)
    # IEC 61966-2-1, the sRGB transfer function.
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    return encode_png(np.where(hit[..., None], np.round(srgb * 255), 0).astype(np.uint8))


def encode_position(position: np.ndarray, hit: np.ndarray) -> bytes:
    """(H, W, 3) points in the normalised world frame, (H, W) bool hit -> 16-bit PNG. A hit is never encoded as 0."""
    steps = np.round((position - POSITION_OFFSET) / POSITION_SCALE).clip(1, 65535)
    return encode_png(np.where(hit[..., None], steps, 0).astype(np.uint16))


def decode_position(encoded: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint16 as `CaptureReader.picture` returns it -> (H, W, 3) float32 world points, NaN where nothing is hit."""
    points = (encoded * POSITION_SCALE + POSITION_OFFSET).astype(np.float32)
    return np.where(encoded.any(axis=-1, keepdims=True), points, np.float32(np.nan))


def encode_material(metallic: np.ndarray, roughness: np.ndarray, hit: np.ndarray) -> bytes:
    """(H, W) metallic and roughness in [0, 1], (H, W) bool hit -> 8-bit PNG, glTF's channels; its first, occlusion, is none."""
    values = np.stack([np.ones_like(roughness), roughness, metallic], axis=-1)
    steps = np.round(np.nan_to_num(values, nan=0.0).clip(0, 1) * 255)
    return encode_png(np.where(hit[..., None], steps, 0).astype(np.uint8))


def encode_mask(hit: np.ndarray) -> bytes:
    """(H, W) bool hit -> 8-bit PNG."""
    return encode_png(hit.astype(np.uint8) * 255)
