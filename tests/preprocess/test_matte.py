"""Mattes by rembg's own code with a tiny network: what it gives, where it runs, what it must refuse."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rembg

from preprocess import matte, sessions
from preprocess.cutout import MatteError
from tests.preprocess.onnx_networks import write_network, write_sam

HEIGHT, WIDTH = 90, 160


def lamp(x: float = 70, y: float = 40, radius: float = 24) -> np.ndarray:
    """A bright disc with an edge of one pixel on dark, noisy ground, (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    ground = rng.uniform(20, 60, (HEIGHT, WIDTH, 3))
    share = disc(x, y, radius)[..., None]
    return (share * [250, 240, 200] + (1 - share) * ground).round().astype(np.uint8)


def disc(x: float = 70, y: float = 40, radius: float = 24) -> np.ndarray:
    """(H, W) in [0, 1]."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return (radius + 0.5 - np.hypot(column - x, row - y)).clip(0, 1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "bright.onnx")


def test_the_object_is_found_as_rembg_itself_finds_it(network: Path) -> None:
    rgba = matte.find(f"rembg:u2net_custom={network}")(lamp())
    assert rgba.shape == (HEIGHT, WIDTH, 4) and rgba.dtype == np.uint8
    theirs = rembg.new_session("u2net_custom", model_path=str(network), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(rgba[..., 3], rembg.remove(lamp(), session=theirs, only_mask=True))
    found, true = rgba[..., 3] > 127, disc() > 0.5
    # The disc's edge goes through about 150 of its 1,800 pixels; half of these may fall on either side.
    assert (found & true).sum() / (found | true).sum() > 0.95


def test_edges_stay_soft_and_lose_the_old_background(network: Path) -> None:
    rgba = matte.find(f"rembg:u2net_custom={network}")(lamp())
    alpha = rgba[..., 3]
    soft = (alpha > 25) & (alpha < 230)
    assert soft.sum() > 60  # about one a pixel of the disc's outline, which has 150
    # On white and on black alike a pixel errs by alpha times the error of its colour. The disc has one colour.
    error = np.abs(rgba[..., :3].astype(float) - [250, 240, 200]).mean(axis=-1)
    kept = np.abs(lamp().astype(float) - [250, 240, 200]).mean(axis=-1)
    assert (alpha * error / 255)[soft].mean() < 0.5 * (alpha * kept / 255)[soft].mean()
    assert not rgba[alpha == 0].any()


def test_it_runs_where_it_was_asked_to(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = sessions.Rembg("u2net_custom", str(network))
    assert way.identity["network"] == "u2net_custom" and list(way.identity["sha256"]) == ["bright.onnx"]
    inner = sessions._session("u2net_custom", network, "cpu").inner_session.session
    assert inner.get_providers() == ["CPUExecutionProvider"]
    assert not inner._enable_fallback  # onnxruntime would also fall back in the middle of a run
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("what follows is about an onnxruntime without a GPU")
    with pytest.raises(
        MatteError, match=r"cuda: this onnxruntime has no CUDAExecutionProvider.*onnxruntime-gpu"
    ) as caught:
        _ = sessions.Rembg("u2net_custom", str(network), "cuda").identity
    assert caught.value.reason == "no-device"
    # An onnxruntime with CUDA whose libraries do not load says that it has CUDA, and then runs on the CPU.
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(MatteError) as caught:
        matte.find(f"rembg:u2net_custom={network}", "cuda")(lamp())
    assert caught.value.reason == "no-device"


@pytest.mark.parametrize("probability", [True, False], ids=["probabilities", "logits"])
def test_a_picture_without_an_object_is_not_turned_into_noise(tmp_path: Path, probability: bool) -> None:
    path = write_network(tmp_path / "n.onnx", probability, gain=1.0, level=2.5)
    way = sessions.Rembg("u2net_custom", str(path))
    ground = lamp(x=-100)
    theirs = rembg.new_session("u2net_custom", model_path=str(path), providers=["CPUExecutionProvider"])
    stretched = np.asarray(rembg.remove(ground, session=theirs, only_mask=True))
    assert np.ptp(stretched) > 120  # which is what must not happen here
    with pytest.raises(MatteError, match=r"scene/1\.jpg: no object found by u2net_custom") as caught:
        way(ground, "scene/1.jpg")
    assert caught.value.reason == "no-subject"


@pytest.mark.parametrize("value", [0, 40, 255])
def test_a_picture_of_one_colour_has_no_object(network: Path, value: int) -> None:
    with pytest.raises(MatteError, match="no object") as caught:
        matte.find(f"rembg:u2net_custom={network}")(np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    assert caught.value.reason == "no-subject"


def test_threads_share_one_session_and_get_their_own_mattes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], onnxruntime.InferenceSession

    def counted(*arguments: object, **options: object) -> object:
        made.append(threading.get_ident())
        return real(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    path = write_network(tmp_path / "n.onnx")
    pictures = [lamp(30 + 5 * k, 40, 14 + k) for k in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: matte.find(f"rembg:u2net_custom={path}")(picture), pictures))
    assert len(made) == 1
    for picture, rgba in zip(pictures, found, strict=True):
        np.testing.assert_array_equal(rgba, matte.find(f"rembg:u2net_custom={path}")(picture))


class Slow:
    """In onnxruntime's place: gives back what it was given, slowly, and counts how many runs overlap."""

    def __init__(self) -> None:
        self.running = self.most = 0

    def run(self, value: float) -> list[np.ndarray]:
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(0.01)
        self.running -= 1
        return [np.full((1, 1, 2, 2), value)]


def test_runs_of_a_session_do_not_overlap_and_each_thread_sees_its_own_output() -> None:
    slow = Slow()
    watched, together = sessions.Watched(slow), threading.Barrier(4)

    def work(value: float) -> float:
        watched.run(value)
        together.wait(5)  # until all others have run as well
        return float(watched.raw[0, 0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    assert slow.most == 1


def test_a_true_matte_is_kept(network: Path) -> None:
    rgba = np.dstack([lamp(), np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))])
    assert matte.find(f"rembg:u2net_custom={network}")(rgba) is rgba
    opaque = np.dstack([lamp(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    assert (matte.find(f"rembg:u2net_custom={network}")(opaque)[..., 3] == 0).any()


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        ("magic", "unknown", "there is alpha, rembg:NAME, masks:DIR"),
        ("rembg:", "unknown", "there is alpha"),
        ("rembg:u3net", "unknown", "rembg has no such network; there is .*birefnet-general.*u2net, u2net_custom"),
        ("rembg:u2net_cloth_seg", "unknown", "no such network"),
        ("rembg:u2net=x.onnx", "unknown", "takes no argument"),
        ("rembg:u2net_custom", "unknown", "=FILE.onnx"),
        ("rembg:u2net_custom=absent.onnx", "no-model", "absent.onnx: no such file"),
        ("rembg:sam=0.2,0.1,0.8", "unknown", "a box is X0,Y0,X1,Y1"),
        ("rembg:sam=0.8,0.1,0.2,0.9", "unknown", "a box is"),
        ("rembg:sam=0,0,640,480", "unknown", "a box is"),
        ("masks:absent", "missing-mask", "absent: no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(how: str, reason: str, words: str) -> None:
    with pytest.raises(MatteError, match=words) as caught:
        matte.check(how)
    assert caught.value.reason == reason


def test_a_file_that_is_no_such_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    cut = write_network(tmp_path / "cut.onnx").read_bytes()[:150]
    (tmp_path / "cut.onnx").write_bytes(cut)
    write_network(tmp_path / "small.onnx", side=64)
    for name in ("text", "cut", "small"):
        way = matte.find(f"rembg:u2net_custom={tmp_path / name}.onnx")
        with pytest.raises(MatteError, match=rf"{name}.onnx: not a network that rembg can use") as caught:
            _ = way.identity
        assert caught.value.reason == "no-model"


def test_an_error_inside_the_network_names_the_picture(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx", fails_above=1.5)
    way = matte.find(f"rembg:u2net_custom={path}")
    _ = way.identity
    with pytest.raises(MatteError, match=r"failed on a picture of 160×90 pixels \(\[ONNXRuntimeError\]") as caught:
        way(lamp(radius=300))
    assert caught.value.reason == "network-failed"


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)], ids=["landscape", "portrait"])
def test_sam_is_given_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    write_sam(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    way = matte.find("rembg:sam=0.25,0.1,0.75,0.9")
    found = way(picture)[..., 3] > 127
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    height, width = shape
    # A pixel's width: rembg's own pictures shift by half a pixel where they are scaled, and ours softens the edge by one.
    np.testing.assert_allclose([rows[0], rows[-1] + 1], [0.1 * height, 0.9 * height], atol=1.01)
    np.testing.assert_allclose([columns[0], columns[-1] + 1], [0.25 * width, 0.75 * width], atol=1.01)
    assert way.identity["box"] == [0.25, 0.1, 0.75, 0.9] and len(way.identity["sha256"]) == 2
    assert sessions._session("sam", None, "cpu").decoder.session.get_providers() == ["CPUExecutionProvider"]
