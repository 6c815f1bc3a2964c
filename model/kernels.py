"""Triton kernels that march along rays through a triplane field, forward and backward. `model.fused` calls them.

One program takes BLOCK rays of one object. Each row of its block is one ray, which steps from sample to sample at its own
pace: it first skips the samples that count for nothing (a look-up each), then all rows are evaluated together, one sample a row:

    first   (BLOCK, W)   the weighted sum of twelve rows of the table (`TriplaneField.project`: three planes' four texels)
    z, z, …  (BLOCK, W)   the hidden layers, `tl.dot` with (W, W) matrices
    raw     (BLOCK, 16)  column 0 the density's logit, columns 1 to 3 the colour's; the rest is padding that tl.dot asks for
    value   (BLOCK, 16)  columns 1, r, g, b, t: what a sample's weight multiplies in the five sums of a ray

With x = σ δ the optical thickness of a sample and τ the thickness of all before it, its weight is w = exp(-τ) (1 - exp(-x)),
and a ray's sums are A = Σ w v. A ray ends where exp(-τ) falls to STOP.

Backward: the loss L reaches a ray through G = ∂L/∂A. With a = G · v of each sample,

    ∂L/∂v_i = w_i G    and    ∂L/∂x_i = exp(-τ_i - x_i) a_i - Σ_{j>i} w_j a_j,    Σ_{j>i} w_j a_j = G · A - Σ_{j≤i} w_j a_j

so the second pass marches forward too, with everything recomputed; only A, five numbers a ray, is kept between the passes.

Layout. rays: (B, R, RAY) origin, direction and, with a grid, both again in the grid's frame. distances (B, R, S); paths
(B, R, S) or (B, R, 1). table: (B · 3 · size², COLUMNS). grid: (B, cells³) uint8. sums: (B, R, 5). mlp, for each head: bias (W),
then for each further hidden layer its matrix (W inputs, W outputs) and bias (W), then the output matrix (W, 16); at the end
the bias (16) of raw.

Gradients are added atomically: many rays share a texel, and all programs share the MLP, of whose gradient there are COPIES
(program p adds to copy p mod COPIES) so that they seldom wait for one another. The order of additions, and with it the last
bits, differs from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _point(ray, t, mask, FRAME: tl.constexpr):
    """Rays (pointers) at distances t -> x, y, z; FRAME 0 is the field's, 6 the grid's."""
    x = tl.load(ray + FRAME, mask, 0.0) + t * tl.load(ray + FRAME + 3, mask, 0.0)
    y = tl.load(ray + FRAME + 1, mask, 0.0) + t * tl.load(ray + FRAME + 4, mask, 0.0)
    z = tl.load(ray + FRAME + 2, mask, 0.0) + t * tl.load(ray + FRAME + 5, mask, 0.0)
    return x, y, z


@triton.jit
def _voxel(coordinate, cells):
    return tl.minimum(tl.maximum((coordinate + 1) * (cells * 0.5), 0.0), cells - 1.0).to(tl.int32)


@triton.jit
def _empty(step, samples, ray, distance, path, grid, cells, PATH: tl.constexpr, GRID: tl.constexpr):
    """Rows whose present sample counts for nothing: its path is 0, or its voxel is empty."""
    mask = step < samples
    empty = tl.load(path + (step if PATH else 0), mask, 1.0) == 0
    if GRID:
        x, y, z = _point(ray, tl.load(distance + step, mask, 0.0), mask, 6)
        voxel = (_voxel(x, cells) * cells + _voxel(y, cells)) * cells + _voxel(z, cells)
        empty = empty | (tl.load(grid + voxel, mask, 1) == 0)
    return mask & empty


@triton.jit
def _seek(step, samples, ray, distance, path, grid, cells, PATH: tl.constexpr, GRID: tl.constexpr):
    """Moves each row on to its next sample that counts."""
    searching = _empty(step, samples, ray, distance, path, grid, cells, PATH, GRID)
    while tl.max(searching.to(tl.int32), 0) > 0:
        step += searching.to(tl.int32)
        searching = searching & _empty(step, samples, ray, distance, path, grid, cells, PATH, GRID)
    return step


@triton.jit
def _along(x, y, z, axis: tl.constexpr, sign: tl.constexpr):
    """A point's coordinate along a plane's columns or rows."""
    if axis == 0:
        return x * sign
    elif axis == 1:
        return y * sign
    else:
        return z * sign


@triton.jit
def _neighbours(coordinate, size):
    """The two texels around a coordinate and their linear weights, 0 beyond the plane. Texel i lies at -1 + (2i + 1) / size."""
    texel = (coordinate + 1) * (size * 0.5) - 0.5
    low = tl.floor(texel)
    share = texel - low
    near = tl.where((low >= 0) & (low < size), 1 - share, 0.0)
    far = tl.where((low >= -1) & (low < size - 1), share, 0.0)
    index = tl.minimum(tl.maximum(low, -1.0), size * 1.0).to(tl.int32)
    return (tl.maximum(tl.minimum(index, size - 1), 0), tl.minimum(index + 1, size - 1)), (near, far)


@triton.jit
def _gather(
    table, x, y, z, mask, size, AXES: tl.constexpr, SIGNS: tl.constexpr, COLUMNS: tl.constexpr, W: tl.constexpr
):
    """Points -> (BLOCK, W): the table interpolated; `table` points to the first of the W columns."""
    units = tl.arange(0, W)[None, :]
    total = tl.zeros([x.shape[0], W], tl.float32)
    for plane in tl.static_range(3):
        columns, across = _neighbours(_along(x, y, z, AXES[2 * plane], SIGNS[2 * plane]), size)
        rows, down = _neighbours(_along(x, y, z, AXES[2 * plane + 1], SIGNS[2 * plane + 1]), size)
        for corner in tl.static_range(4):
            texel = (plane * size + rows[corner // 2]) * size + columns[corner % 2]
            weight = down[corner // 2] * across[corner % 2]
            total += weight[:, None] * tl.load(table + texel[:, None] * COLUMNS + units, mask[:, None], 0.0)
    return total


@triton.jit
def _scatter(
    table, change, x, y, z, mask, size, AXES: tl.constexpr, SIGNS: tl.constexpr, COLUMNS: tl.constexpr, W: tl.constexpr
):
    """The transpose of `_gather`: adds change (BLOCK, W) to the texels around the points."""
    units = tl.arange(0, W)[None, :]
    for plane in tl.static_range(3):
        columns, across = _neighbours(_along(x, y, z, AXES[2 * plane], SIGNS[2 * plane]), size)
        rows, down = _neighbours(_along(x, y, z, AXES[2 * plane + 1], SIGNS[2 * plane + 1]), size)
        for corner in tl.static_range(4):
            texel = (plane * size + rows[corner // 2]) * size + columns[corner % 2]
            weight = down[corner // 2] * across[corner % 2]
            reached = (mask & (weight != 0))[:, None]
            tl.atomic_add(table + texel[:, None] * COLUMNS + units, weight[:, None] * change, reached, sem="relaxed")


@triton.jit
def _activate(z, SILU: tl.constexpr):
    return z * tl.sigmoid(z) if SILU else tl.maximum(z, 0.0)


@triton.jit
def _before_activation(change, z, SILU: tl.constexpr):
    """The gradient of an activation's result -> of its argument z."""
    if SILU:
        s = tl.sigmoid(z)
        return change * s * (1 + z * (1 - s))
    else:
        return tl.where(z > 0, change, 0.0)


@triton.jit
def _head(first, mlp, W: tl.constexpr, LAYERS: tl.constexpr, SILU: tl.constexpr, PRECISION: tl.constexpr):
    """first (BLOCK, W) -> (BLOCK, 16) without its bias, and the arguments of all activations, LAYERS + 1 of (BLOCK, W)."""
    units = tl.arange(0, W)
    square = units[:, None] * W + units[None, :]
    z = first + tl.load(mlp + units)[None, :]
    kept = (z,)
    for layer in tl.static_range(LAYERS):
        matrix = mlp + W + layer * (W * W + W)
        product = tl.dot(_activate(z, SILU), tl.load(matrix + square), input_precision=PRECISION)
        z = product + tl.load(matrix + W * W + units)[None, :]
        kept = kept + (z,)  # type: ignore[assignment]  # noqa: RUF005 (Triton knows no stars)
    wide = units[:, None] * 16 + tl.arange(0, 16)[None, :]
    last = tl.load(mlp + W + LAYERS * (W * W + W) + wide)
    return tl.dot(_activate(z, SILU), last, input_precision=PRECISION), kept


@triton.jit
def _head_backward(
    change, kept, mlp, gradient, W: tl.constexpr, LAYERS: tl.constexpr, SILU: tl.constexpr, PRECISION: tl.constexpr
):
    """The gradient of `_head`'s result -> of `first`; those of its weights are added to `gradient`."""
    units = tl.arange(0, W)
    square = units[:, None] * W + units[None, :]
    end = W + LAYERS * (W * W + W)
    wide = units[:, None] * 16 + tl.arange(0, 16)[None, :]
    input = tl.trans(_activate(kept[LAYERS], SILU))
    tl.atomic_add(gradient + end + wide, tl.dot(input, change, input_precision=PRECISION), sem="relaxed")
    back = tl.dot(change, tl.trans(tl.load(mlp + end + wide)), input_precision=PRECISION)
    change = _before_activation(back, kept[LAYERS], SILU)
    for done in tl.static_range(LAYERS):
        at = W + (LAYERS - 1 - done) * (W * W + W)
        below = kept[LAYERS - 1 - done]
        tl.atomic_add(gradient + at + W * W + units, tl.sum(change, 0), sem="relaxed")
        product = tl.dot(tl.trans(_activate(below, SILU)), change, input_precision=PRECISION)
        tl.atomic_add(gradient + at + square, product, sem="relaxed")
        back = tl.dot(change, tl.trans(tl.load(mlp + at + square)), input_precision=PRECISION)
        change = _before_activation(back, below, SILU)
    tl.atomic_add(gradient + units, tl.sum(change, 0), sem="relaxed")
    return change


@triton.jit
def _density(logit, EXP: tl.constexpr):
    if EXP:  # held where `model.triplane` holds it
        return tl.exp(tl.minimum(logit, 80.0))
    else:
        return tl.where(logit > 20, logit, tl.log(1 + tl.exp(tl.minimum(logit, 20.0))))


@triton.jit
def _density_slope(logit, EXP: tl.constexpr):
    return tl.exp(tl.minimum(logit, 15.0)) if EXP else tl.sigmoid(logit)


@triton.jit
def _absorbed(thickness):
    """1 - exp(-x), by its series where the difference would lose digits."""
    x = tl.minimum(thickness, 0.0625)
    series = x * (1 - x * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x / 120))))
    return tl.where(thickness < 0.0625, series, 1 - tl.exp(-thickness))


@triton.jit
def _inside(x, y, z, BALL: tl.constexpr):
    """As `TriplaneField` has it: a ray's first and last points lie on the border but for rounding."""
    reach = x * x + y * y + z * z if BALL else tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z))
    return reach <= 1 + 1e-5


@triton.jit
def _values(raw, t, MARGIN: tl.constexpr):
    """(BLOCK, 16): 1, r, g, b, t, and zeros."""
    column = tl.arange(0, 16)[None, :]
    colour = tl.sigmoid(raw) * (1 + 2 * MARGIN) - MARGIN
    return tl.where(column == 0, 1.0, tl.where(column < 4, colour, tl.where(column == 4, t[:, None], 0.0)))


@triton.jit
def march(
    sums, rays, distances, paths, table, mlp, grid, ray_count, samples, size, cells,
    STOP: tl.constexpr, PATH: tl.constexpr, RAY: tl.constexpr, GRID: tl.constexpr, AXES: tl.constexpr, SIGNS: tl.constexpr,
    BALL: tl.constexpr, SPLIT: tl.constexpr, W: tl.constexpr, LAYERS: tl.constexpr, COLOUR_LAYERS: tl.constexpr,
    SILU: tl.constexpr, EXP: tl.constexpr, BIAS: tl.constexpr, MARGIN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Rays -> sums. Grid of programs: (blocks of rays, objects)."""
    COLUMNS: tl.constexpr = 2 * W if SPLIT else W
    owner = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = row < ray_count
    index = owner * ray_count + row
    ray, distance = rays + index * RAY, distances + index * samples
    path = paths + index * (samples if PATH else 1)
    table += owner * 3 * size * size * COLUMNS
    grid += owner * cells * cells * cells
    SECOND: tl.constexpr = W + LAYERS * (W * W + W) + 16 * W
    END: tl.constexpr = SECOND + (W + COLOUR_LAYERS * (W * W + W) + 16 * W if SPLIT else 0)
    column = tl.arange(0, 16)
    bias = tl.load(mlp + END + column)[None, :]
    total = tl.zeros([BLOCK, 16], tl.float32)
    tau = tl.zeros([BLOCK], tl.float32)
    step = tl.where(exists, 0, samples)
    step = _seek(step, samples, ray, distance, path, grid, cells, PATH, GRID)
    while tl.min(step, 0) < samples:
        active = step < samples
        t = tl.load(distance + step, active, 0.0)
        x, y, z = _point(ray, t, active, 0)
        raw, _ = _head(_gather(table, x, y, z, active, size, AXES, SIGNS, COLUMNS, W), mlp, W, LAYERS, SILU, PRECISION)
        if SPLIT:
            second = _gather(table + W, x, y, z, active, size, AXES, SIGNS, COLUMNS, W)
            more, _ = _head(second, mlp + SECOND, W, COLOUR_LAYERS, SILU, PRECISION)
            raw += more
        raw += bias
        logit = tl.sum(tl.where(column[None, :] == 0, raw, 0.0), 1) + BIAS
        length = tl.load(path + (step if PATH else 0), active & _inside(x, y, z, BALL), 0.0)
        thickness = _density(logit, EXP) * length
        weight = tl.exp(-tau) * _absorbed(thickness)
        total += weight[:, None] * _values(raw, t, MARGIN)
        tau += thickness
        step = tl.where(tl.exp(-tau) > STOP, step + 1, samples)
        step = _seek(step, samples, ray, distance, path, grid, cells, PATH, GRID)
    tl.store(sums + index[:, None] * 5 + column[None, :], total, exists[:, None] & (column[None, :] < 5))


@triton.jit
def march_backward(
    change, sums, table_gradient, mlp_gradient, rays, distances, paths, table, mlp, grid, ray_count, samples, size, cells,
    COPIES: tl.constexpr,
    STOP: tl.constexpr, PATH: tl.constexpr, RAY: tl.constexpr, GRID: tl.constexpr, AXES: tl.constexpr, SIGNS: tl.constexpr,
    BALL: tl.constexpr, SPLIT: tl.constexpr, W: tl.constexpr, LAYERS: tl.constexpr, COLOUR_LAYERS: tl.constexpr,
    SILU: tl.constexpr, EXP: tl.constexpr, BIAS: tl.constexpr, MARGIN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """change (B, R, 5), the gradient of sums -> gradients of table and MLP (COPIES, numbers), which start as zeros."""
    COLUMNS: tl.constexpr = 2 * W if SPLIT else W
    owner = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = row < ray_count
    index = owner * ray_count + row
    ray, distance = rays + index * RAY, distances + index * samples
    path = paths + index * (samples if PATH else 1)
    table += owner * 3 * size * size * COLUMNS
    table_gradient += owner * 3 * size * size * COLUMNS
    grid += owner * cells * cells * cells
    SECOND: tl.constexpr = W + LAYERS * (W * W + W) + 16 * W
    END: tl.constexpr = SECOND + (W + COLOUR_LAYERS * (W * W + W) + 16 * W if SPLIT else 0)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    mlp_gradient += (program % COPIES) * (END + 16)
    column = tl.arange(0, 16)
    bias = tl.load(mlp + END + column)[None, :]
    stored = exists[:, None] & (column[None, :] < 5)
    towards = tl.load(change + index[:, None] * 5 + column[None, :], stored, 0.0)
    behind = tl.sum(towards * tl.load(sums + index[:, None] * 5 + column[None, :], stored, 0.0), 1)
    tau = tl.zeros([BLOCK], tl.float32)
    bias_gradient = tl.zeros([16], tl.float32)
    step = tl.where(exists, 0, samples)
    step = _seek(step, samples, ray, distance, path, grid, cells, PATH, GRID)
    while tl.min(step, 0) < samples:
        active = step < samples
        t = tl.load(distance + step, active, 0.0)
        x, y, z = _point(ray, t, active, 0)
        first = _gather(table, x, y, z, active, size, AXES, SIGNS, COLUMNS, W)
        raw, kept = _head(first, mlp, W, LAYERS, SILU, PRECISION)
        if SPLIT:
            second = _gather(table + W, x, y, z, active, size, AXES, SIGNS, COLUMNS, W)
            more, kept_second = _head(second, mlp + SECOND, W, COLOUR_LAYERS, SILU, PRECISION)
            raw += more
        raw += bias
        logit = tl.sum(tl.where(column[None, :] == 0, raw, 0.0), 1) + BIAS
        length = tl.load(path + (step if PATH else 0), active & _inside(x, y, z, BALL), 0.0)
        thickness = _density(logit, EXP) * length
        weight = tl.exp(-tau) * _absorbed(thickness)
        gain = tl.sum(towards * _values(raw, t, MARGIN), 1)
        tau += thickness
        behind -= weight * gain
        to_logit = (tl.exp(-tau) * gain - behind) * length * _density_slope(logit, EXP)
        s = tl.sigmoid(raw)
        to_colour = weight[:, None] * towards * (1 + 2 * MARGIN) * s * (1 - s)
        to_raw = tl.where(column[None, :] == 0, to_logit[:, None], tl.where(column[None, :] < 4, to_colour, 0.0))
        to_raw = tl.where(active[:, None], to_raw, 0.0)
        bias_gradient += tl.sum(to_raw, 0)
        to_first = _head_backward(to_raw, kept, mlp, mlp_gradient, W, LAYERS, SILU, PRECISION)
        _scatter(table_gradient, to_first, x, y, z, active, size, AXES, SIGNS, COLUMNS, W)
        if SPLIT:
            to_second = _head_backward(
                to_raw, kept_second, mlp + SECOND, mlp_gradient + SECOND, W, COLOUR_LAYERS, SILU, PRECISION
            )
            _scatter(table_gradient + W, to_second, x, y, z, active, size, AXES, SIGNS, COLUMNS, W)
        step = tl.where(tl.exp(-tau) > STOP, step + 1, samples)
        step = _seek(step, samples, ray, distance, path, grid, cells, PATH, GRID)
    tl.atomic_add(mlp_gradient + END + column, bias_gradient, sem="relaxed")
