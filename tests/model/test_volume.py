"""The renderer against a loop that says the same thing slowly, and against what is known in closed form."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from model import march, volume
from model.lrm import FieldConfig, TriplaneConfig
from model.triplane import Table, TriplaneField
from model.volume import Occupancy, render
from turntable import cameras
from turntable.errors import UserError


class Fog:
    """The same density and colour everywhere."""

    def __init__(self, density: float, region: Literal["ball", "box"] = "box") -> None:
        self.value = density
        self.region = region
        self.optical_path: Literal["length", "unit"] = "length"

    def parameters(self) -> list[Tensor]:
        return []

    def project(self, planes: Tensor) -> Table:
        return Table(torch.zeros(1, 1), 1)

    def evaluate(self, table: Table, points: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        colour = points.new_tensor([0.2, 0.4, 0.6]).expand(len(points), 3)
        return points.new_full((len(points),), self.value), colour

    def evaluate_density(self, table: Table, points: Tensor, owners: Tensor) -> Tensor:
        return self.evaluate(table, points, owners)[0]


class Recorder(Fog):
    """Fog that remembers the points it was asked for."""

    def evaluate(self, table: Table, points: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        self.points, self.owners = points, owners
        return super().evaluate(table, points, owners)


def slow_render(field, planes, origins, directions, samples, background, occupancy):
    """Sample by sample, ray by ray, as the formula reads: the light left over, times what a step absorbs."""

    def steps(o: Tensor, d: Tensor) -> list[tuple[float, float]]:
        near, far = slow_clip(o, d, field.region)
        if far == near:
            return []
        length = far - near if field.optical_path == "length" else 1.0
        return [(near + (i + 0.5) * (far - near) / samples, length / samples) for i in range(samples)]

    along = [[steps(o, d) for o, d in zip(*pair, strict=True)] for pair in zip(origins, directions, strict=True)]
    return slow_sums(field, planes, origins, directions, along, background, occupancy)


def slow_sums(field, planes, origins, directions, along, background, occupancy):
    """`along[b][r]`: (distance, path) of each sample of a ray, near to far."""
    colours, opacities, depths = [], [], []
    for b in range(len(origins)):
        for o, d, steps in zip(origins[b], directions[b], along[b], strict=True):
            left, colour, depth = (
                torch.ones((), dtype=o.dtype),
                torch.zeros(3, dtype=o.dtype),
                torch.zeros((), dtype=o.dtype),
            )
            for t, path in steps:
                point = o + t * d
                if occupancy is not None:
                    n = occupancy.grid.shape[-1]
                    in_grid = occupancy.grid_from_points[b].to(o.dtype) @ point
                    x, y, z = ((in_grid + 1) * n / 2).long().clamp(0, n - 1)
                    if not occupancy.grid[b, x, y, z]:
                        continue
                density, rgb = field(planes[b : b + 1], point[None, None])
                absorbed = left * (1 - torch.exp(-density[0, 0] * path))
                left = left - absorbed
                colour, depth = colour + absorbed * rgb[0, 0], depth + absorbed * t
            colours.append(colour + left * background)
            opacities.append(1 - left)
            depths.append(depth / max(1 - left, 1e-6))
    shape = origins.shape[:2]
    return torch.stack(colours).view(*shape, 3), torch.stack(opacities).view(shape), torch.stack(depths).view(shape)


def slow_clip(o: Tensor, d: Tensor, region: str) -> tuple[float, float]:
    """The part of a ray inside the region, found by walking along it in steps of 1e-3 and then by bisection."""
    start, way = o.detach().numpy(), d.detach().numpy()

    def inside(t: np.ndarray) -> np.ndarray:
        points = start + np.asarray(t)[..., None] * way
        return (np.linalg.norm(points, axis=-1) if region == "ball" else abs(points).max(-1)) <= 1

    ts = np.arange(0, 8, 1e-3)
    walk = ts[inside(ts)]
    if not len(walk):
        return 0.0, 0.0
    ends = []
    for inner, outer in ((walk[0], walk[0] - 1e-3), (walk[-1], walk[-1] + 1e-3)):
        for _ in range(50):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        ends.append(max(inner, 0.0))
    return ends[0], ends[1]


def small_field(
    seed: int,
    region: Literal["ball", "box"],
    heads: Literal["joint", "split"] = "split",
    optical_path: Literal["length", "unit"] = "length",
) -> TriplaneField:
    torch.manual_seed(seed)
    config = FieldConfig(heads, 8, density_bias=1.0, region=region, optical_path=optical_path)
    return TriplaneField(config, TriplaneConfig(channels=4)).double()


def rays(objects: int, count: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Rays from outside towards the middle; the last of each object misses."""
    generator = torch.Generator().manual_seed(seed)
    origins = (
        torch.nn.functional.normalize(torch.randn(objects, count, 3, generator=generator, dtype=dtype), dim=-1) * 2.5
    )
    targets = torch.randn(objects, count, 3, generator=generator, dtype=dtype) * 0.4
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[:, -1] = -directions[:, -1]
    return origins, directions


def turned_occupancy(objects: int, seed: int) -> Occupancy:
    rng = np.random.default_rng(seed)
    rotations = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(objects)]
    grid = torch.tensor(rng.random((objects, 8, 8, 8)) < 0.4)
    return Occupancy(grid, torch.tensor(np.stack(rotations)))


def compare_with_slow(fast: volume.Rendering, slow: tuple[Tensor, Tensor, Tensor], parameters: list[Tensor]) -> None:
    """Values, and gradients of a random mixture of them."""
    # Doubles; the bisection's ends are good to 1e-15, the sums to a few ulps.
    for ours, theirs in zip((fast.colour, fast.opacity, fast.depth), slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    weights = [torch.randn_like(part) for part in slow]
    mixed_fast = sum((w * part).sum() for w, part in zip(weights, (fast.colour, fast.opacity, fast.depth), strict=True))
    mixed_slow = sum((w * part).sum() for w, part in zip(weights, slow, strict=True))
    gradients = torch.autograd.grad(mixed_fast, parameters)
    expected = torch.autograd.grad(mixed_slow, parameters)
    assert all(gradient.abs().max() > 0 for gradient in expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("region", ["ball", "box"])
@pytest.mark.parametrize(("heads", "optical_path"), [("split", "length"), ("joint", "unit")])
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("chunk", [None, 17])
def test_agrees_with_the_slow_loop_in_values_and_gradients(region, heads, optical_path, skips, chunk):
    field = small_field(0, region, heads, optical_path)
    planes = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    origins, directions = rays(2, 5, seed=1)
    occupancy = turned_occupancy(2, seed=2) if skips else None
    fast = render(field, planes, origins, directions, 9, 0.7, occupancy, chunk=chunk)
    slow = slow_render(field, planes, origins, directions, 9, 0.7, occupancy)
    compare_with_slow(fast, slow, [planes, *field.parameters()])


@pytest.mark.parametrize("optical_path", ["length", "unit"])
def test_importance_samples_stand_for_their_spans(optical_path):
    """The slow loop is told where the samples lie, and takes what is nearer to each than to the others."""
    field = small_field(0, "box", optical_path=optical_path)
    planes = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    origins, directions = rays(2, 4, seed=1)
    marcher = march.Marcher(field, field.project(planes), None, 100, march.GRADIENT_CUT)
    distances = marcher.sampled(origins, directions, 5, 6, torch.Generator().manual_seed(0)).distances
    assert distances.shape == (2, 4, 11)

    def steps(o: Tensor, d: Tensor, ts: Tensor) -> list[tuple[Tensor, Tensor]]:
        near, far = slow_clip(o, d, "box")
        if far == near:
            return []
        edges = [near, *((ts[1:] + ts[:-1]) / 2), far]
        scale = 1.0 if optical_path == "length" else 1 / (far - near)
        return [(t, (edges[i + 1] - edges[i]) * scale) for i, t in enumerate(ts)]

    along = [[steps(*ray) for ray in zip(origins[b], directions[b], distances[b], strict=True)] for b in range(2)]
    generator = torch.Generator().manual_seed(0)
    fast = render(field, planes, origins, directions, 5, 0.7, generator=generator, importance=6)
    slow = slow_sums(field, planes, origins, directions, along, 0.7, None)
    compare_with_slow(fast, slow, [planes, *field.parameters()])


@pytest.mark.parametrize(("region", "optical_path"), [("ball", "length"), ("box", "unit")])
@pytest.mark.parametrize("chunk", [None, 4])
def test_gradients_are_those_of_finite_differences(region, optical_path, chunk):
    field = small_field(3, region, optical_path=optical_path)
    planes = torch.randn(1, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    origins, directions = rays(1, 3, seed=4)
    occupancy = turned_occupancy(1, seed=0)
    bias = field.density_head[0].bias

    def picture(planes: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        result = render(field, planes, origins, directions, 5, 0.5, occupancy, generator, chunk=chunk)
        return result.colour, result.opacity, result.depth

    assert torch.autograd.gradcheck(picture, (planes, bias))


def test_gradients_of_cameras_are_those_of_finite_differences():
    field, planes = small_field(3, "box"), torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)
    origins, directions = (part.requires_grad_() for part in rays(1, 3, seed=4))

    def opacity(origins: Tensor, directions: Tensor) -> Tensor:
        return render(field, planes, origins, directions, 4, chunk=5).opacity

    assert torch.autograd.gradcheck(opacity, (origins, directions))


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_fog_absorbs_as_the_law_says_however_many_samples(samples):
    origin, direction = torch.tensor([[[0.0, -3.0, 0.2]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    result = render(Fog(0.7), torch.zeros(1), origin, direction, samples)
    through = math.exp(-0.7 * 2)
    assert result.opacity.item() == pytest.approx(1 - through, rel=1e-5)
    expected = torch.tensor([0.2, 0.4, 0.6]) * (1 - through) + through
    torch.testing.assert_close(result.colour[0, 0], expected)


def test_a_unit_path_is_as_long_for_every_ray():
    """TripoSR's rule: the step in the exponent is a share of the ray's part in the box, whatever its length."""
    fog = Fog(0.7)
    fog.optical_path = "unit"
    origins = torch.tensor([[[0.0, -3.0, 0.2], [-3.0, -1.5, 0.0], [0.0, -3.0, 5.0]]])
    directions = torch.nn.functional.normalize(
        torch.tensor([[[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]), dim=-1
    )
    near, far = volume.clip(origins, directions, "box")
    assert (far - near)[0, 1] < 0.9 * (far - near)[0, 0] and (far == near)[0, 2]
    opacity = render(fog, torch.zeros(1), origins, directions, 16).opacity[0]
    torch.testing.assert_close(opacity, torch.tensor([1 - math.exp(-0.7)] * 2 + [0.0]))


def test_what_lies_before_a_very_dense_sample_is_not_lost():
    weights = march.sample_weights(torch.tensor([[0.5, 1e9, 1.0]]))
    expected = [1 - math.exp(-0.5), math.exp(-0.5), 0.0]
    torch.testing.assert_close(weights, torch.tensor([expected]))


def test_a_wall_is_seen_at_its_distance():
    class Wall(Fog):
        def evaluate(self, table, points, owners):
            density, colour = super().evaluate(table, points, owners)
            return density * (points[:, 1] > 0.25), colour

    origins, directions = torch.tensor([[[0.1, -3.0, 0.2]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    result = render(Wall(1e4), torch.zeros(1), origins, directions, 400)
    assert result.opacity.item() == pytest.approx(1)
    assert result.depth.item() == pytest.approx(3.25, abs=2 / 400)


def test_a_ray_that_misses_sees_the_background_and_costs_nothing():
    field = Recorder(5.0, "ball")
    origins, directions = torch.tensor([[[0.0, -3.0, 1.5]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    result = render(field, torch.zeros(1), origins, directions, 8, background=0.3)
    assert len(field.points) == 0
    assert result.colour.tolist() == [[[pytest.approx(0.3)] * 3]]
    assert result.opacity.item() == 0 and result.depth.item() == 0


@pytest.mark.parametrize("region", ["ball", "box"])
@pytest.mark.parametrize("jittered", [False, True])
def test_samples_lie_inside_the_region_one_in_each_step(region, jittered):
    origins, directions = rays(2, 50, seed=5)
    generator = torch.Generator().manual_seed(0) if jittered else None
    distances, steps = volume.sample_distances(origins, directions, 16, region, generator)
    near, _ = volume.clip(origins, directions, region)
    hit = steps > 0
    assert hit.any() and not hit.all()
    place = ((distances - near[..., None]) / steps[..., None])[hit]
    # Rounding may put the last jitter of a step on its border.
    assert (place.floor() - torch.arange(16)).abs().max() <= (1 if jittered else 0)
    assert (place >= 0).all() and (place <= 16).all()
    points = (origins[..., None, :] + distances[..., None] * directions[..., None, :])[hit]
    reach = points.norm(dim=-1) if region == "ball" else points.abs().amax(-1)
    assert reach.max() <= 1 + 1e-9


def test_a_camera_inside_the_region_sees_only_what_is_before_it():
    near, far = volume.clip(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, 1.0]]]), "box")
    assert near.item() == 0 and far.item() == 1


def test_only_occupied_points_are_evaluated_for_their_own_object():
    field = Recorder(1.0, "box")
    occupancy = turned_occupancy(3, seed=7)
    origins, directions = rays(3, 40, seed=8)
    render(field, torch.zeros(3), origins, directions, 12, occupancy=occupancy)
    for index in range(3):
        own = field.points[field.owners == index]
        alone = Occupancy(occupancy.grid[index : index + 1], occupancy.grid_from_points[index : index + 1])
        assert len(own) > 50
        assert alone.contains(own[None]).all()


def test_jitter_comes_from_the_generator_alone():
    origins, directions = rays(1, 20, seed=9)
    field, planes = small_field(1, "ball"), torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)

    def colours(seed: int) -> Tensor:
        return render(field, planes, origins, directions, 8, generator=torch.Generator().manual_seed(seed)).colour

    torch.manual_seed(1)
    first = colours(5)
    torch.manual_seed(2)
    assert torch.equal(first, colours(5))
    assert not torch.equal(first, colours(6))


def test_a_view_is_the_same_in_chunks_and_its_depth_is_planar_on_demand():
    field = small_field(2, "ball").float()
    planes = torch.randn(1, 3, 4, 6, 6)
    pose, lens = cameras.look_at(np.array([0.3, -2.6, 0.5])), cameras.intrinsics_from_fov(45.0)
    whole = volume.render_view(field, planes, pose, lens, 24, 16, chunk=10_000)
    pieces = volume.render_view(field, planes, pose, lens, 24, 16, chunk=100)
    torch.testing.assert_close(whole.colour, pieces.colour)
    uv = cameras.pixel_centres(24, 24)
    planar = volume.planar_depth(whole.depth, lens).double().numpy()
    along_ray = np.linalg.norm(cameras.backproject(uv, planar, pose, lens) - pose[:, 3], axis=-1)
    # float32 depth of about 3.
    np.testing.assert_allclose(along_ray, whole.depth.numpy(), atol=1e-5)


@pytest.mark.parametrize("region", ["ball", "box"])
@pytest.mark.parametrize("size", [4, 20, 64])
def test_rays_left_out_of_a_view_meet_nothing(region, size):
    """With an occupancy, a view renders only some of its rays; the picture is the one of all of them."""
    field = small_field(2, region).float()
    planes = torch.randn(1, 3, 4, 6, 6)
    generator = torch.Generator().manual_seed(size)
    grid = torch.rand(1, size, size, size, generator=generator) < 20 / size**3
    occupancy = Occupancy(grid, turned_occupancy(1, seed=3).grid_from_points)
    pose, lens = cameras.look_at(np.array([1.3, -2.2, 0.7])), cameras.intrinsics_from_fov(45.0)
    view = volume.render_view(field, planes, pose, lens, 32, 300, occupancy=occupancy)
    uv = torch.tensor(cameras.pixel_centres(32, 32).reshape(-1, 2), dtype=torch.float32)
    origins, directions = cameras.rays(
        uv, torch.tensor(pose, dtype=torch.float32), torch.tensor(lens, dtype=torch.float32)
    )
    every = render(field, planes, origins[None], directions[None], 300, occupancy=occupancy)
    assert (every.opacity > 0).any()
    torch.testing.assert_close(view.colour.view(-1, 3), every.colour[0])
    met = occupancy.may_meet(origins[None], directions[None], region)[0]
    assert size == 4 or not met.all()


def test_rendering_stays_in_float32_under_autocast():
    field = small_field(2, "ball").float()
    planes = torch.randn(1, 3, 4, 6, 6)
    origins, directions = rays(1, 10, seed=3, dtype=torch.float32)
    plain = render(field, planes, origins, directions, 8)
    with torch.autocast("cpu", torch.bfloat16):
        cast = render(field, planes, origins, directions, 8)
    assert torch.equal(plain.colour, cast.colour)


class Sphere(Fog):
    """Density that falls from the middle outwards."""

    def evaluate(self, table, points, owners):
        density, colour = super().evaluate(table, points, owners)
        return density * (0.5 - points.norm(dim=-1)).div(0.1).clamp(0, 1), colour


def test_normals_point_out_of_what_is_seen():
    origins, directions = rays(1, 200, seed=11, dtype=torch.float32)
    seen = render(Sphere(300.0), torch.zeros(1), origins, directions, 200, normals=True)
    assert seen.normal is not None
    hit = seen.opacity > 0.99
    assert hit.sum() > 50
    points = origins + seen.depth[..., None] * directions
    outward = torch.nn.functional.normalize(points, dim=-1)
    # Seen at a slant, a ray's light is taken up along some of the surface.
    assert ((seen.normal * outward).sum(-1)[hit] > 0.95).all()
    torch.testing.assert_close(seen.normal[hit].norm(dim=-1), torch.ones(int(hit.sum())))
    assert (seen.normal[seen.opacity == 0] == 0).all()
    view = volume.render_view(
        Sphere(300.0),
        torch.zeros(1),
        cameras.look_at(np.array([0, -2.5, 0])),
        [1.2, 1.2, 0.5, 0.5],
        9,
        200,
        normals=True,
    )
    assert view.normal is not None and view.normal[4, 4, 1] < -0.99


def test_normals_have_gradients():
    field = small_field(5, "ball")
    planes = torch.randn(1, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    origins, directions = rays(1, 3, seed=4)

    def normals(planes: Tensor) -> Tensor | None:
        return render(field, planes, origins, directions, 4, normals=True).normal

    assert torch.autograd.gradcheck(normals, (planes,))


def test_a_view_that_does_not_fit_into_memory_is_rendered_in_parts(caplog):
    class Small(TriplaneField):
        def evaluate(self, table, points, owners):
            if len(points) > 500:
                raise torch.OutOfMemoryError(f"{len(points)} points")
            return super().evaluate(table, points, owners)

        def evaluate_density(self, table, points, owners):
            if len(points) > 300:
                raise torch.OutOfMemoryError(f"{len(points)} points")
            return super().evaluate_density(table, points, owners)

    torch.manual_seed(0)
    config, triplane = FieldConfig("joint", 8, density_bias=-1.0), TriplaneConfig(channels=4)
    field, planes = Small(config, triplane), torch.randn(1, 3, 4, 6, 6)
    whole_field = TriplaneField(config, triplane)
    whole_field.load_state_dict(field.state_dict())
    pose, lens = cameras.look_at(np.array([0.3, -2.6, 0.5])), cameras.intrinsics_from_fov(45.0)
    whole = volume.render_view(whole_field, planes, pose, lens, 40, 20, importance=10)
    parts = volume.render_view(field, planes, pose, lens, 40, 20, importance=10)
    assert "out of memory" in caplog.text
    # Which samples are too light to matter may depend on the rays that are looked at together.
    torch.testing.assert_close(parts.colour, whole.colour, atol=30 * march.PICTURE_CUT.weight, rtol=0)
    torch.testing.assert_close(parts.opacity, whole.opacity, atol=30 * march.PICTURE_CUT.weight, rtol=0)


def test_fused_kernels_are_refused_where_they_cannot_run():
    origins, directions = rays(1, 4, seed=0, dtype=torch.float32)
    with pytest.raises(UserError, match=r"TriplaneField only, not for Fog.*kernel=\"plain\""):
        render(Fog(1.0), torch.zeros(1), origins, directions, 4, kernel="fused")
    field = small_field(0, "ball")
    with pytest.raises(UserError, match="64 or 128 wide, this field's 8"):
        render(field, torch.zeros(1, 3, 4, 4, 4, dtype=torch.float64), *rays(1, 4, seed=0), 4, kernel="fused")
    plain = render(Fog(1.0), torch.zeros(1), origins, directions, 4, kernel="plain")
    assert torch.equal(plain.colour, render(Fog(1.0), torch.zeros(1), origins, directions, 4).colour)
