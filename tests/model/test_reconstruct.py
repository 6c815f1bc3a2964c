"""From a picture to files that open, through the command itself; and where the camera is put."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from model import pipeline, video
from model import reconstruct as module
from model.checkpoints import load_checkpoint, save_model
from model.hub import BUNDLED, DEFAULT
from model.lrm import LRM, DecoderConfig, EncoderConfig, FieldConfig, LRMConfig, TriplaneConfig, camera_numbers
from model.photograph import Photograph, find_object, frame_object, upright_from_canonical
from model.photos import read_picture
from model.pipeline import Model, Stages, SurfaceSettings
from model.reconstruct import ReconstructConfig, reconstruct
from model.results import OutputSettings
from tests.model import foreign
from tests.preprocess.onnx_networks import write_network
from turntable import cameras, framing
from turntable.errors import EXIT_ITEMS_FAILED, EXIT_OK, EXIT_USAGE, UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = LRMConfig(
    EncoderConfig("vit", 32, 16, 16, 1, 2),
    DecoderConfig(1, 16, 2, tokens=4, camera_width=8),
    TriplaneConfig(2, 4),
    FieldConfig(width=8),
)
TYPICAL = {"camera_distance": 2.4, "camera_focal": 1.3}
QUICK = [
    "--resolution",
    "24",
    "--level",
    "0.2",
    "--frames",
    "6",
    "--frame-size",
    "32",
    "--samples",
    "8",
    "--texture",
    "64",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained network. Its density is near exp(-1) throughout the ball, so a level below that gives a body."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_model(path, LRM(SMALL), TYPICAL)
    return path


@pytest.fixture
def photo(tmp_path) -> Path:
    """A red disc on nothing, right of the middle."""
    y, x = np.mgrid[:60, :80]
    rgba = np.zeros((60, 80, 4), np.uint8)
    rgba[np.hypot(x - 55, y - 28) < 15] = (200, 30, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "disc.png")
    return tmp_path / "disc.png"


def frame_photo(picture: np.ndarray, photograph: Photograph, lrm: LRM, extra: dict):
    return frame_object(find_object(picture, photograph), photograph, lrm, extra)


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "model.reconstruct", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_writes_files_that_open(photo, checkpoint, tmp_path):
    out = tmp_path / "out"
    done = command(photo, "--checkpoint", checkpoint, "--out", out, *QUICK)
    assert done.returncode == EXIT_OK, done.stderr
    assert "triangles in" in done.stdout and "1 reconstructed" in done.stdout
    stages = ["read", "matte", "frame", "planes", "mesh", "texture", "write", "views", "video"]
    assert all(f"{stage} 0" in done.stdout or f"{stage} " in done.stdout for stage in stages)
    files = {"mesh.glb", "turntable.mp4", "preview.png"}
    assert {path.name for path in out.iterdir()} == {*files, "config.json", "reconstruction.json", ".lock"}
    body = trimesh.load(out / "mesh.glb", force="mesh")
    body.merge_vertices(merge_tex=True, merge_norm=True)
    assert len(body.faces) > 100 and body.is_watertight
    assert body.visual.material.baseColorTexture.size == (64, 64)
    with Image.open(out / "preview.png") as preview:
        assert preview.size[0] > 6 * 32
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(out / "turntable.mp4"))
    meta = next(frames)
    assert meta["size"] == (32, 32) and meta["codec"] == "h264" and "yuv420p" in meta["pix_fmt"]
    assert len(list(frames)) == 6
    assert json.loads((out / "config.json").read_text())["config"]["surface"]["level"] == 0.2


def test_of_several_pictures_the_bad_are_named_and_the_rest_done(photo, checkpoint, tmp_path, monkeypatch, capsys):
    opaque = tmp_path / "opaque.png"
    Image.fromarray(np.full((20, 20, 4), 255, np.uint8)).save(opaque)
    (tmp_path / "page.png").write_text("<html>")
    blank = tmp_path / "blank.png"
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(blank)
    arguments = [
        opaque,
        photo,
        tmp_path / "page.png",
        blank,
        "--checkpoint",
        checkpoint.parent,
        "--out",
        tmp_path / "out",
        *QUICK,
    ]
    monkeypatch.setattr(sys, "argv", ["reconstruct", *map(str, arguments)])
    assert module.main() == EXIT_ITEMS_FAILED
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"disc"}
    said = capsys.readouterr()
    assert "1 reconstructed, 3 failed" in said.out
    assert all(f"{reason}: 1 (" in said.out for reason in ("no-matte", "unreadable", "no-subject"))
    complaints = said.err
    assert "opaque.png: the picture has an alpha channel that is opaque everywhere" in complaints
    assert "page.png: not a picture" in complaints
    assert "blank.png: the matte is empty" in complaints


def test_a_photo_without_a_matte_goes_through_a_network_given_by_path(checkpoint, photo, tmp_path):
    bright = write_network(tmp_path / "bright.onnx", gain=30)
    rgba = np.array(Image.open(photo)).astype(float)
    share = rgba[..., 3:] / 255
    opaque = (share * [255, 240, 200] + (1 - share) * 30).astype(np.uint8)
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    lrm, extra = load_checkpoint(checkpoint)
    by_network = Photograph(matte=f"rembg:u2net_custom={bright}")
    found, expected = (
        frame_photo(opaque, by_network, lrm, extra),
        frame_photo(rgba.astype(np.uint8), Photograph(), lrm, extra),
    )
    # The network's edge is soft and so its box a pixel of the photo wider all round. That is a pixel of the 32 × 32 here too, and
    # the disc's outline is 85 long: 85 / 1024 · 255 = 21 on average. A wrong matte differs by 100.
    difference = np.abs(found.rgba[..., 3].astype(int) - expected.rgba[..., 3])
    assert difference.mean() < 30
    assert reconstruct(tmp_path / "opaque.png", (lrm, extra), by_network, 24, 0.2).faces.shape[0] > 0
    with pytest.raises(UserError, match="no alpha channel"):
        frame_photo(opaque, Photograph(), lrm, extra)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--matte", "magic"], "magic"),
        (["--device", "abacus"], "--device abacus"),
        (["--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_line(photo, checkpoint, tmp_path, monkeypatch, change, message):
    opaque = tmp_path / "opaque.jpg"
    Image.new("RGB", (20, 20)).save(opaque)
    picture = opaque if "--matte" in change else photo
    arguments = [picture, "--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK, *change]
    monkeypatch.setattr(sys, "argv", ["reconstruct", *map(str, arguments)])
    with pytest.raises(UserError, match=message):
        module.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--level", "0"], "level is a density"),
        (["--frame-size", "33"], "must be even"),
        (["--fov", "200"], "fov must lie"),
        (["--elevation", "91"], "elevation must lie"),
    ],
)
def test_values_without_sense_are_refused_on_the_command_line(
    photo, checkpoint, tmp_path, monkeypatch, capsys, change, message
):
    arguments = [photo, "--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK, *change]
    monkeypatch.setattr(sys, "argv", ["reconstruct", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_a_picture_alone_is_enough(photo, tmp_path):
    """The model that comes with the project, and a folder of the picture's own."""
    done = command(photo, *QUICK, cwd=tmp_path)
    assert done.returncode == EXIT_OK, done.stderr
    record = json.loads((tmp_path / "reconstructions" / "disc" / "reconstruction.json").read_text())
    assert record["checkpoint"]["name"] == DEFAULT
    assert BUNDLED[DEFAULT].stat().st_size < 25e6
    assert (BUNDLED[DEFAULT].parent / "README.md").is_file()  # whose data it was made of


def test_a_picture_without_matte_says_what_to_do_and_exits_as_usage(checkpoint, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "plain.jpg")
    done = command(tmp_path / "plain.jpg", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert done.returncode == EXIT_USAGE
    assert "plain.jpg" in done.stderr and "--matte" in done.stderr and "Traceback" not in done.stderr


def test_from_python_a_file_and_its_pixels_give_the_same_mesh(photo, checkpoint):
    from_file = reconstruct(photo, checkpoint, resolution=24, level=0.2)
    from_pixels = reconstruct(np.asarray(Image.open(photo)), checkpoint, resolution=24, level=0.2)
    np.testing.assert_array_equal(from_file.vertices, from_pixels.vertices)
    assert from_file.colours.shape == from_file.vertices.shape


def test_elevation_turns_the_result_upright(photo, checkpoint):
    lying = reconstruct(photo, checkpoint, resolution=24, level=0.2)
    upright = reconstruct(photo, checkpoint, Photograph(elevation=30.0), resolution=24, level=0.2)
    np.testing.assert_allclose(
        upright.vertices, cameras.transform(upright_from_canonical(30.0), lying.vertices), atol=1e-6
    )


@pytest.mark.parametrize("elevation", [-20.0, 0.0, 35.0, 90.0])
def test_upright_is_the_inverse_of_making_canonical(elevation):
    """The camera that looks from that elevation, made canonical and turned back, is where it was."""
    camera = cameras.look_at(cameras.spherical_position(0, elevation, 2.5))
    if elevation == 90.0:  # look_at has its own idea of up there; this is the limit from below.
        camera = cameras.look_at(cameras.spherical_position(0, 90 - 1e-6, 2.5))
    canonical = cameras.compose(cameras.canonical_from_world(camera), camera)
    np.testing.assert_allclose(canonical[:, 3], [0, -2.5, 0], atol=1e-9)
    np.testing.assert_allclose(cameras.compose(upright_from_canonical(elevation), canonical), camera, atol=1e-6)


def framed(photo: Path, **known: float):
    return frame_photo(np.asarray(Image.open(photo)), Photograph(**known), LRM(SMALL), TYPICAL)


@pytest.mark.parametrize("family", ["openlrm", "triposr"])
def test_published_layouts_are_reconstructed_with(photo, family, tmp_path):
    """Through the same loader; the picture is prepared as the family's authors do."""
    folder = getattr(foreign, f"write_{family}")(tmp_path / family)
    lrm, extra = load_checkpoint(folder)
    framed = frame_photo(read_picture(photo), Photograph(), lrm, extra)
    size = lrm.config.encoder.image_size
    assert framed.rgba.shape == (size, size, 4)
    filled = np.ptp(np.flatnonzero((framed.rgba[..., 3] > 127).any(axis=0))) + 1
    # A pixel of the photo at either end, which is enlarged.
    assert filled / size == pytest.approx({"openlrm": 0.8, "triposr": 0.85}[family], abs=0.06)
    given = torch.from_numpy(framing.on_background(framed.rgba, {"openlrm": 1.0, "triposr": 0.5}[family]))
    camera = camera_numbers(*(torch.tensor(a[None]).float() for a in (framed.canonical_from_camera, framed.intrinsics)))
    if family == "openlrm":
        assert camera[0].tolist() == [1, 0, 0, 0, 0, 0, -1, -2, 0, 1, 0, 0, 0.75, 0.75, 0.5, 0.5]
    with torch.no_grad():
        expected = lrm.planes(given.permute(2, 0, 1)[None], camera)
    assert torch.equal(pipeline.encode(Model(lrm, extra, ""), [framed], [Stages()])[0], expected)
    assert len(reconstruct(photo, folder, resolution=24, level=0.01).faces) > 20


def test_a_network_that_is_told_no_camera_says_so(photo, tmp_path):
    folder = foreign.write_triposr(tmp_path / "x")
    for known in ({"fov": 40.0}, {"distance": 2.0}):
        with pytest.raises(UserError, match=r"not told a camera.*leave --fov and --distance out"):
            reconstruct(photo, folder, Photograph(**known))


def test_the_level_is_the_checkpoints_unless_another_is_given(photo, tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "model.safetensors", LRM(replace(SMALL, level=0.2)), TYPICAL)
    own = reconstruct(photo, tmp_path, resolution=24)
    assert len(own.faces) == len(reconstruct(photo, tmp_path, resolution=24, level=0.2).faces) > 20
    with pytest.raises(UserError, match="below the level 50"):
        reconstruct(photo, tmp_path, resolution=24, level=50.0)


def test_an_unknown_camera_is_the_typical_one(photo):
    result = framed(photo)
    assert result.intrinsics.tolist() == [1.3, 1.3, 0.5, 0.5]
    np.testing.assert_allclose(result.canonical_from_camera, [[1, 0, 0, 0], [0, 0, -1, -2.4], [0, 1, 0, 0]], atol=1e-12)


def test_of_distance_and_lens_the_missing_one_follows(photo):
    """A framed object fills the same share, so focal length and distance grow together."""
    by_distance = framed(photo, distance=4.8)
    assert by_distance.intrinsics[0] == pytest.approx(2.6)
    by_lens = framed(photo, fov=40.0)
    assert by_lens.distance / by_lens.intrinsics[0] == pytest.approx(2.4 / 1.3)


def test_a_known_camera_is_kept_and_the_object_lies_where_the_picture_shows_it(photo):
    result = framed(photo, fov=50.0, distance=3.0)
    # The disc lies right of the middle and a little above: the square's principal point is left and below its middle.
    assert result.intrinsics[2] < 0.4 and result.intrinsics[3] > 0.5
    side = round(29 / 0.85)  # the disc is 29 pixels wide
    assert result.intrinsics[0] == pytest.approx(cameras.intrinsics_from_fov(50.0)[0] * 80 / side)
    np.testing.assert_allclose(result.canonical_from_camera[:, 3], [0, -3, 0], atol=1e-12)
    uv, depth = cameras.project(np.zeros((1, 3)), result.canonical_from_camera, result.intrinsics)
    np.testing.assert_allclose(uv, [[0.5, 0.5]], atol=1e-12)
    assert depth[0] > 0


def test_a_checkpoint_without_a_typical_camera_asks_for_one(photo):
    picture = np.asarray(Image.open(photo))
    with pytest.raises(UserError, match="give both --fov and --distance"):
        frame_photo(picture, Photograph(), LRM(SMALL), {})
    assert frame_photo(picture, Photograph(fov=40.0, distance=3.0), LRM(SMALL), {}).distance == pytest.approx(3)


def test_the_ring_goes_once_around_the_upright_object():
    poses = video.ring(8, 20.0, 2.5, cameras.invert(upright_from_canonical(35.0)))
    upright = [cameras.compose(upright_from_canonical(35.0), pose) for pose in poses]
    np.testing.assert_allclose([cameras.elevation_deg(pose) for pose in upright], 20.0)
    np.testing.assert_allclose(upright[0], cameras.look_at(cameras.spherical_position(0, 20.0, 2.5)), atol=1e-9)
    np.testing.assert_allclose(upright[2], cameras.look_at(cameras.spherical_position(90, 20.0, 2.5)), atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (ReconstructConfig, {"inputs": ()}),
        (ReconstructConfig, {"batch": 0}),
        (OutputSettings, {"samples": 0}),
        (OutputSettings, {"frame_size": 7}),
        (OutputSettings, {"format": ()}),
        (OutputSettings, {"views": -1}),
        (SurfaceSettings, {"resolution": 4}),
        (SurfaceSettings, {"floaters": 1.0}),
        (SurfaceSettings, {"faces": -1}),
        (SurfaceSettings, {"texture": 8}),
        (SurfaceSettings, {"texture": 100_000}),
    ],
)
def test_settings_without_sense_are_refused(settings, change):
    required = {"inputs": (Path("a.png"),), "checkpoint": Path("c"), "out": Path("o")}
    sensible = settings(**required) if settings is ReconstructConfig else settings()
    with pytest.raises(ValueError):
        replace(sensible, **change)


def test_normals_of_a_ball_point_at_the_camera_in_its_middle():
    from model.volume import Rendering

    pose, lens = cameras.look_at(np.array([0, -3.0, 0])), cameras.intrinsics_from_fov(45.0)
    origins, directions = cameras.rays(cameras.pixel_centres(65, 65).reshape(-1, 2), pose, lens)
    middle = -(origins * directions).sum(1)
    offset = 1 - ((origins + middle[:, None] * directions) ** 2).sum(1)
    distance = torch.tensor(np.where(offset > 0, middle - np.sqrt(np.maximum(offset, 0)), 0).reshape(65, 65))
    ball = Rendering(torch.zeros(65, 65, 3), (distance > 0).double(), distance)
    shown = video.normal_picture(ball, pose, lens).astype(float) / 127.5 - 1
    # Camera axes: x right, y up, z towards the viewer. Eight bits and differences over two pixels.
    np.testing.assert_allclose(shown[32, 32], [0, 0, 1], atol=0.02)
    assert shown[32, 45, 0] > 0.3 and abs(shown[32, 45, 1]) < 0.1
    assert shown[20, 32, 1] > 0.3 and abs(shown[20, 32, 0]) < 0.1
    assert (shown[0, 0] == 1).all()
