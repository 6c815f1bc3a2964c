"""Shapes whose answers are known: spheres, boxes, holes of a stated width, slivers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from turntable import cameras, geometry

RES = geometry.SOLID_RESOLUTION
VOXEL = 2 / RES


def box_mesh(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (8, 3) and faces (12, 3), outward."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    vertices = np.asarray(low) + corners * (np.asarray(high) - np.asarray(low))
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return vertices, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def sphere_mesh(radius: float, rings: int = 48) -> tuple[np.ndarray, np.ndarray]:
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij"
    )
    points = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=-1)
    index = np.arange(points[..., 0].size).reshape(points.shape[:2])
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(t, axis=-1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    return radius * points.reshape(-1, 3), faces


def box_with_slit(width_voxels: float) -> tuple[np.ndarray, np.ndarray]:
    """A hollow box of half side 0.5 whose top (z = 0.5) is missing a strip of the stated width, all along y."""
    vertices, faces = box_mesh(np.full(3, -0.5), np.full(3, 0.5))
    keep = ~(vertices[faces][..., 2] == 0.5).all(axis=1)
    gap = width_voxels * VOXEL / 2
    # The strip's edges run through voxel centres' borders: x = 0 is a border between voxels, so the gap is whole voxels.
    strips = []
    for x0, x1 in ((-0.5, -gap), (gap, 0.5)):
        strips.append(np.array([[x0, -0.5, 0.5], [x1, -0.5, 0.5], [x1, 0.5, 0.5], [x0, 0.5, 0.5]]))
    all_vertices = np.concatenate([vertices, *strips])
    more = np.array([[8, 9, 10], [8, 10, 11], [12, 13, 14], [12, 14, 15]])
    return all_vertices, np.concatenate([faces[keep], more])


def test_surface_samples_are_uniform_by_area_and_lie_on_the_mesh() -> None:
    vertices, faces = box_mesh([-0.5, -0.25, -0.1], [0.5, 0.25, 0.1])
    points, normals = geometry.sample_surface(vertices, faces, 60_000, np.random.default_rng(0))
    half = np.array([0.5, 0.25, 0.1])
    on_side = np.isclose(np.abs(points), half, atol=1e-9)
    assert on_side.any(axis=1).all() and (np.abs(points) <= half + 1e-9).all()
    areas = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    share = [(np.abs(normals[:, axis]) > 0.5).mean() for axis in range(3)]
    # 60,000 draws: the standard deviation of a share is below 0.002.
    np.testing.assert_allclose(share, areas / areas.sum(), atol=0.01)
    top = points[normals[:, 2] > 0.5]
    np.testing.assert_allclose(top[:, :2].mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(top[:, :2].var(axis=0), half[:2] ** 2 / 3, rtol=0.03)
    outward = (points / half * normals).max(axis=1)
    assert outward.min() > 0.99


def test_sampling_is_a_function_of_the_generator_and_skips_degenerate_faces() -> None:
    vertices, faces = box_mesh(np.full(3, -0.5), np.full(3, 0.5))
    with_points = np.concatenate([faces, [[0, 0, 0], [1, 1, 2]]])
    first, normals = geometry.sample_surface(vertices, with_points, 1000, np.random.default_rng(5))
    again, _ = geometry.sample_surface(vertices, with_points, 1000, np.random.default_rng(5))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(normals).all()
    for nothing in (np.zeros((0, 3), int), np.array([[0, 0, 0]])):
        with pytest.raises(ValueError, match="without area"):
            geometry.sample_surface(vertices, nothing, 10, np.random.default_rng(0))


def test_voxels_and_their_centres_are_inverse() -> None:
    centres = geometry.voxel_centres(8)
    expected = np.array([[x, y, z] for x in range(8) for y in range(8) for z in range(8)])
    np.testing.assert_array_equal(geometry.voxel_indices(centres, 8), expected)
    np.testing.assert_array_equal(geometry.voxel_indices(np.array([[1.0, -1.0, 1.0]]), 8), [[7, 0, 7]])


@pytest.mark.parametrize("radius", [0.3, 0.8])
def test_the_solid_of_a_sphere(radius: float) -> None:
    solid = geometry.solid_grid(*sphere_mesh(radius))
    distance = np.linalg.norm(geometry.voxel_centres(RES), axis=1).reshape(solid.shape)
    # A voxel's half diagonal is 0.87 voxels; the facets of 48 rings sag by less than a hundredth of a voxel's side.
    assert solid[distance < radius - 0.05 * VOXEL].all()
    assert not solid[distance > radius + VOXEL].any()


def test_a_hollow_box_is_filled_and_a_closed_slit_does_not_leak() -> None:
    inside = np.array([[0.0, 0.0, 0.0]])
    centre = tuple(geometry.voxel_indices(inside, RES)[0])
    filled = geometry.solid_grid(*box_mesh(np.full(3, -0.5), np.full(3, 0.5)))
    assert filled[centre]
    assert geometry.solid_grid(*box_with_slit(2))[centre]  # two voxels are closed
    leaking = geometry.solid_grid(*box_with_slit(4))  # four are not
    assert not leaking[centre]
    surface = geometry.surface_grid(*box_with_slit(4))
    assert leaking[surface].all()


def test_closing_adds_nothing_to_the_outside_of_a_closed_box() -> None:
    solid = geometry.solid_grid(*box_mesh(np.full(3, -0.5), np.full(3, 0.5)))
    expected = (np.abs(geometry.voxel_centres(RES)) < 0.5 + VOXEL).all(axis=1).reshape(solid.shape)
    assert not (solid & ~expected).any()


def test_matter_at_the_boxs_walls_does_not_seal_the_outside() -> None:
    """A plate through the whole box leaves both sides outside; the closing's margin must not count as matter."""
    vertices = np.array([[-1, -1, 0.003], [1, -1, 0.003], [1, 1, 0.003], [-1, 1, 0.003]], dtype=float)
    solid = geometry.solid_grid(vertices, np.array([[0, 1, 2], [0, 2, 3]]))
    assert solid.any(axis=(0, 1)).sum() == 1


def test_a_sliver_is_covered_without_holes() -> None:
    """A triangle a thousand times longer than wide: its voxels are those that a dense line of points touches."""
    vertices = np.array([[-0.9, -0.8, -0.7], [0.9, 0.8, 0.7], [0.9, 0.8002, 0.7]])
    grid = geometry.surface_grid(vertices, np.array([[0, 1, 2]]))
    t = np.linspace(0, 1, 20_000)[:, None]
    line = vertices[0] + t * (vertices[1] - vertices[0])
    # Points every half voxel can step over a voxel's corner: nearly all, never a gap of a whole voxel.
    touched = np.unique(geometry.voxel_indices(line, RES), axis=0)
    assert grid[tuple(touched.T)].mean() > 0.8
    from scipy import ndimage

    assert ndimage.label(grid, structure=np.ones((3, 3, 3)))[1] == 1


def test_surface_voxels_miss_only_what_the_surface_grazes() -> None:
    """Against many random points: no voxel too many, and every voxel that holds a fair piece of the surface."""
    rng = np.random.default_rng(1)
    vertices, faces = rng.uniform(-0.9, 0.9, (12, 3)), np.arange(12).reshape(4, 3)
    grid = geometry.surface_grid(vertices, faces, 32)
    points, _ = geometry.sample_surface(vertices, faces, 400_000, rng)
    hits = np.zeros((32,) * 3)
    np.add.at(hits, tuple(geometry.voxel_indices(points, 32).T), 1)
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    in_voxel_sides = hits / len(points) * area / (2 / 32) ** 2
    # Rows half a voxel apart, points half a voxel apart: a piece of half a voxel's side always holds one of them.
    assert in_voxel_sides[~grid].max() < 0.5
    # 1,000 random points a voxel: one that none of them found holds next to nothing, and few can be so.
    assert (grid & (hits == 0)).sum() <= 0.01 * grid.sum()


def test_batches_do_not_change_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = sphere_mesh(0.7, rings=16)
    whole = geometry.surface_grid(vertices, faces, 64)
    scan = geometry._scan_lines
    monkeypatch.setattr(geometry, "_scan_lines", lambda corners, spacing: scan(corners, spacing, budget=100))
    np.testing.assert_array_equal(geometry.surface_grid(vertices, faces, 64), whole)


def test_coarsen_is_any_and_refuses_what_does_not_divide() -> None:
    rng = np.random.default_rng(0)
    fine = rng.random((8, 8, 8)) < 0.05
    coarse = geometry.coarsen(fine, 4)
    for i in np.ndindex(4, 4, 4):
        x, y, z = (2 * k for k in i)
        assert coarse[i] == fine[x : x + 2, y : y + 2, z : z + 2].any()
    np.testing.assert_array_equal(geometry.coarsen(fine, 8), fine)
    for resolution in (3, 16):
        with pytest.raises(ValueError, match="divide"):
            geometry.coarsen(fine, resolution)


def test_packing_is_reversible_and_as_documented() -> None:
    solid = np.random.default_rng(0).random((RES,) * 3) < 0.3
    packed = geometry.pack_solid(solid)
    assert packed.shape == (262144,) and packed.dtype == np.uint8
    np.testing.assert_array_equal(geometry.unpack_solid(packed), solid)
    one = np.zeros((RES,) * 3, bool)
    one[0, 0, 1] = True  # z fastest, first voxel in the highest bit
    assert geometry.pack_solid(one)[0] == 0b01000000


def views_of_sphere(radius: float, count: int, size: int = 96) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Mattes of a ball at the origin, drawn from the formula: a ray hits when it passes closer than the radius."""
    rng = np.random.default_rng(0)
    lens = cameras.intrinsics_from_fov(50)
    mattes, poses = [], []
    for _ in range(count):
        pose = cameras.look_at(cameras.spherical_position(rng.uniform(0, 360), rng.uniform(-60, 60), 2.6))
        origins, directions = cameras.rays(cameras.pixel_centres(size, size).reshape(-1, 2), pose, lens)
        miss = np.linalg.norm(np.cross(origins, directions), axis=1)
        mattes.append((miss < radius).reshape(size, size).astype(np.uint8) * 255)
        poses.append(pose)
    return mattes, np.stack(poses), np.tile(lens, (count, 1))


def test_the_visual_hull_holds_the_object_and_shrinks_with_views() -> None:
    distance = np.linalg.norm(geometry.voxel_centres(64), axis=1).reshape((64,) * 3)
    volumes = []
    for count in (1, 4, 16):
        hull = geometry.visual_hull(*views_of_sphere(0.5, count))
        assert hull[distance <= 0.5].all()
        volumes.append(hull.sum())
    assert volumes[0] > volumes[1] > volumes[2]
    # 16 views: what is left reaches no farther than the fattening (a voxel's diagonal, 0.05, and 1.5 pixels, 0.05) and
    # the corners between so many silhouettes.
    assert distance[geometry.visual_hull(*views_of_sphere(0.5, 16))].max() < 0.75


def test_the_visual_hull_never_loses_a_thin_rod() -> None:
    """A matte one pixel wide: the voxels along the rod must stay."""
    lens, size = cameras.intrinsics_from_fov(50), 64
    rod = np.stack([np.zeros(200), np.zeros(200), np.linspace(-0.9, 0.9, 200)], axis=1) + np.array([0.1, 0.05, 0])
    mattes, poses = [], []
    for azimuth in (0, 50, 100, 200):
        pose = cameras.look_at(cameras.spherical_position(azimuth, 15, 2.6))
        uv, _ = cameras.project(rod, pose, lens)
        matte = np.zeros((size, size), np.uint8)
        column, row = (uv * size).astype(int).T
        matte[row, column] = 255
        mattes.append(matte)
        poses.append(pose)
    hull = geometry.visual_hull(mattes, np.stack(poses), np.tile(lens, (4, 1)))
    assert hull[tuple(geometry.voxel_indices(rod, 64).T)].all()


def test_the_visual_hull_is_that_of_the_slow_definition() -> None:
    """Voxel by voxel and view by view, in plain arithmetic."""
    mattes, poses, lenses = views_of_sphere(0.5, 3, size=40)
    hull = geometry.visual_hull(mattes, poses, lenses, 12).reshape(-1)
    for voxel, centre in enumerate(geometry.voxel_centres(12).astype(float)):
        expected = True
        for matte, pose, lens in zip(mattes, poses, lenses, strict=True):
            (uv,), (depth,) = cameras.project(centre[None], pose, lens)
            column, row = np.floor(uv * 40).astype(int)
            if depth <= 0 or not (0 <= column < 40 and 0 <= row < 40):
                continue
            reach = np.sqrt(3) / 12 * lens[0] * 40 / (np.linalg.norm(pose[:, 3]) - 1) + 1
            rows, columns = np.nonzero(matte)
            expected &= bool((np.hypot(rows - row, columns - column) <= reach).any())
        assert hull[voxel] == expected


def test_what_lies_just_outside_a_picture_is_not_ruled_out_by_it() -> None:
    """A view in which nothing is seen says nothing of points a fraction of a pixel beyond its border."""
    pose = cameras.look_at(np.array([0.0, -2.0, 0.0]))
    centres = geometry.voxel_centres(16)
    lens = np.array([4.0, 4.0, 0.5, 0.5])  # a narrow view: most of the box lies outside
    uv, _ = cameras.project(centres.astype(float), pose, lens)
    inside = ((uv >= 0) & (uv < 1)).all(axis=1)
    hull = geometry.visual_hull([np.zeros((8, 8), np.uint8)], pose[None], lens[None], 16)
    np.testing.assert_array_equal(hull.reshape(-1), ~inside)


def test_an_empty_matte_leaves_nothing_where_it_looks() -> None:
    mattes, poses, lenses = views_of_sphere(0.5, 2)
    hull = geometry.visual_hull([mattes[0], mattes[1] * 0], poses, lenses)
    assert not hull[24:40, 24:40, 24:40].any()


def test_iou() -> None:
    a = np.zeros((4, 4, 4), bool)
    b = a.copy()
    assert geometry.iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert geometry.iou(a, b) == pytest.approx(1 / 3)


def fibonacci_sphere(count: int, radius: float = 0.5) -> np.ndarray:
    k = np.arange(count) + 0.5
    polar, around = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    return radius * np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=1)


def test_distance_of_concentric_spheres_is_the_difference_of_their_radii() -> None:
    inner, outer = fibonacci_sphere(20_000, 0.4), fibonacci_sphere(20_000, 0.5)
    result = geometry.surface_distance(inner, inner / 0.4, outer, outer / 0.5)
    # The nearest sample is at most a sample spacing (0.012) aside: sqrt(0.1² + 0.012²) - 0.1 < 0.001.
    assert result.chamfer == pytest.approx(0.1, abs=0.001)
    assert result.normal_consistency == pytest.approx(1, abs=0.01)
    assert result.f_score[0.05] == 0 and result.f_score[0.2] == 1


def test_a_shifted_sphere_has_the_mean_distance_of_the_formula() -> None:
    """From a point of the shifted sphere to the other: | |p + s| - r |, averaged over the sphere, here by quadrature."""
    radius, shift = 0.5, 0.1
    a = fibonacci_sphere(20_000, radius)
    b = a + np.array([0, 0, shift])
    result = geometry.surface_distance(a, a / radius, b, a / radius)
    cosine = np.linspace(-1, 1, 20_001)
    expected = np.abs(np.sqrt(radius**2 + shift**2 + 2 * radius * shift * cosine) - radius).mean()
    assert result.chamfer == pytest.approx(expected, rel=0.01)
    share = (np.abs(np.sqrt(radius**2 + shift**2 + 2 * radius * shift * cosine) - radius) < 0.05).mean()
    assert result.f_score[0.05] == pytest.approx(share, abs=0.01)
    assert result.f_score[0.2] == 1


def test_distance_is_symmetric_and_ignores_the_sign_of_normals() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    na, nb = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    one, other = geometry.surface_distance(a, na, b, nb), geometry.surface_distance(b, nb, a, -na)
    assert one.chamfer == pytest.approx(other.chamfer)
    assert one.normal_consistency == pytest.approx(other.normal_consistency)
    near_b = np.linalg.norm(a[:, None] - b[None], axis=2)
    slow = (near_b.min(axis=1).mean() + near_b.min(axis=0).mean()) / 2
    assert one.chamfer == pytest.approx(slow)


def test_alignment_undoes_a_turn_about_the_up_axis() -> None:
    rng = np.random.default_rng(0)
    vertices, faces = box_mesh([-0.6, -0.3, -0.2], [0.5, 0.2, 0.5])
    target, _ = geometry.sample_surface(vertices, faces, 3000, rng)
    arm, _ = geometry.sample_surface(*box_mesh([0.3, 0.2, 0.1], [0.45, 0.8, 0.25]), 800, rng)
    target = np.concatenate([target, arm])
    angle = np.deg2rad(133)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = (target @ turn.T) * 0.8 + [0.05, -0.1, 0.02]
    found = geometry.align_upright(moved, target)
    # Point to point: nearest neighbours become the true partners at the end, then the fit is exact.
    np.testing.assert_allclose(cameras.transform(found, moved), target, atol=5e-3)


def test_closing_is_scipy_s_closing_with_a_cube() -> None:
    rng = np.random.default_rng(3)
    for share in (0.01, 0.1, 0.3):
        grid = np.pad(rng.random((20, 20, 20)) < share, 2)
        slow = ndimage.binary_closing(grid, structure=np.ones((3, 3, 3), dtype=bool))
        assert np.array_equal(~geometry._spread(~geometry._spread(grid)), slow)
