"""The page in a real browser, headless: what it shows, where it puts a viewer's eye, whom it lets in."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from datasets import browse, page_server
from datasets.captures import View, capture_path, write_capture
from datasets.objects import Objects
from datasets.pictures import encode_depth, encode_png
from tests.browser import CHROMIUM, CHROMIUM_ARGUMENTS, free_port
from tests.conftest import ROOT
from tests.datasets import synthetic
from turntable import cameras
from turntable.errors import UserError

WINDOW = {"width": 1100, "height": 700}
HOSTILE = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>{1+1}"""
"""A name that somebody may have given a model on the internet."""
VIEWS = 5


@pytest.fixture(scope="module")
def viser() -> None:
    """Skips where viser is missing or too old."""
    pytest.importorskip("viser", minversion="1.1", reason="needs viser 1.1 (extra: browse)")


def write_objects(folder: Path) -> None:
    """Three captures. The first has a hostile name and pictures whose principal point is off the middle, as cut-outs have."""
    synthetic.write_captures(folder, 3, views=VIEWS, resolution=96)
    capture = synthetic.make_capture(synthetic.uid_of(0), 0, VIEWS, 96, points=12_000)
    views = []
    for view in capture.views:
        lens = view.intrinsics + np.array([0, 0, 0.07, -0.05])
        rgba, depth, _ = synthetic.render(synthetic.scene(0), view.world_from_camera, lens, 96)
        images = {"rgba": encode_png(rgba), "depth": encode_depth(depth, synthetic.DEPTH_SCALE)}
        views.append(View(view.world_from_camera, lens, images, view.record))
    named = replace(capture, views=views, record={**capture.record, "name": HOSTILE, "lvis_class": "chair"})
    write_capture(capture_path(folder, capture.uid), named)


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browse") / "captures"
    write_objects(folder)
    return folder


@pytest.fixture(scope="module")
def shown(captures: Path, viser: None) -> Iterator[SimpleNamespace]:
    """The page of `captures`, open in a browser: `tab`, the `page` behind it, its `port`, `requests` and console `errors`."""
    if not CHROMIUM:
        pytest.skip("needs Chromium, which is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra: dev)")
    from datasets.page import Page

    port = free_port()
    server = page_server.start_server("127.0.0.1", port)
    page = Page(server, Objects(captures), size=96, points=12_000)
    page.choose(0)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        tab = browser.new_page(viewport=WINDOW)
        requests: list[str] = []
        errors: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda line: errors.append(line.text) if is_error(line) else None)
        tab.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        tab.get_by_text("next", exact=True).wait_for(timeout=60_000)
        until(lambda: server.get_clients())
        yield SimpleNamespace(tab=tab, page=page, port=port, requests=requests, errors=errors, server=server)
        browser.close()
    server.stop()


def is_error(line: Any) -> bool:
    """Whether a line of the console is one, other than of a picture that another took the place of while it was loaded."""
    return line.type == "error" and not line.location["url"].startswith("blob:")


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits for what is going to be true, and returns it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
    return value


def client(shown: SimpleNamespace) -> Any:
    return next(iter(shown.server.get_clients().values()))


def text(shown: SimpleNamespace) -> str:
    return shown.tab.inner_text("body")


def test_the_page_tells_the_object_and_how_well_it_fits(shown) -> None:
    shown.tab.get_by_text(synthetic.uid_of(0), exact=True).first.wait_for()
    until(lambda: "surface points on the matte" in text(shown))
    assert all(word in text(shown) for word in ("chair", "cc0", f"{VIEWS} views of 96 pixels", "100.0 %"))
    assert "disagree" not in text(shown)


def test_what_others_wrote_is_text(shown) -> None:
    until(lambda: HOSTILE in text(shown))
    assert shown.tab.title() != "owned"


def test_cameras_stand_around_the_object(shown) -> None:
    """What is drawn is not blank, and shows the colours of the pictures and of the frusta."""
    until(lambda: len(np.unique(picture(shown).reshape(-1, 3), axis=0)) > 2000)
    red, _, blue = np.moveaxis(picture(shown).astype(int), -1, 0)
    # One chosen camera in orange and four others in blue, lines of two pixels. Neither colour is in the pictures.
    assert (red - blue > 120).sum() > 100
    assert (blue - red > 50).sum() > 200


def picture(shown: SimpleNamespace) -> np.ndarray:
    """(H, W, 3) uint8: the window without its panel."""
    data = shown.tab.screenshot(clip=shown.tab.locator("canvas").first.bounding_box())
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def stand_back(shown: SimpleNamespace) -> None:
    shown.tab.get_by_text("stand back", exact=True).click()
    until(lambda: np.linalg.norm(client(shown).camera.position) > 5)


def test_a_click_on_a_picture_puts_the_eye_where_its_camera_is(shown) -> None:
    stand_back(shown)
    eye = client(shown).camera
    poses = shown.page.shown.stored.world_from_camera
    # The camera nearest to the viewer: nothing stands before its picture.
    view = int(np.linalg.norm(poses[:, :, 3] - eye.position, axis=1).argmin())
    from viser import transforms

    from datasets import overlays

    plane = overlays.picture_plane(*shown.page.shown.camera(view), shown.page.controls.frustum.value)
    turned = transforms.SO3(eye.wxyz).as_matrix() @ cameras.OPENGL_FROM_OPENCV
    lens = cameras.intrinsics_from_fov(2 * np.rad2deg(np.arctan(np.tan(eye.fov / 2) * eye.aspect)), eye.aspect)
    uv, _ = cameras.project(plane.centre[None], np.concatenate([turned, eye.position[:, None]], axis=1), lens)
    canvas = shown.tab.locator("canvas").first.bounding_box()
    spot = uv[0] * (canvas["width"], canvas["height"]) + (canvas["x"], canvas["y"])
    shown.tab.mouse.click(*spot)

    def stands_there() -> bool:
        camera = client(shown).camera
        rotation = transforms.SO3(camera.wxyz).as_matrix() @ cameras.OPENGL_FROM_OPENCV
        # The browser keeps its eye in 32-bit numbers.
        return np.allclose(np.c_[rotation, camera.position], poses[view], atol=1e-3)

    until(stands_there)
    assert shown.page.controls.view.value == view


def from_a_camera(shown: SimpleNamespace, view: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) bool: what the browser draws of the surface points from a camera's place; and what the view's matte says there."""
    from datasets.page import quaternion

    pose, lens = shown.page.shown.camera(view)
    alpha = shown.page.shown.pictures[view][..., 3]
    side, fov_deg = 400, 50.0
    rendered = client(shown).get_render(
        side, side, wxyz=quaternion(pose[:, :3]), position=pose[:, 3], fov=np.deg2rad(fov_deg), transport_format="png"
    )
    uv = cameras.pixel_centres(side, side)
    directions = cameras.camera_directions(uv, cameras.intrinsics_from_fov(fov_deg))
    there = np.stack([directions[..., 0], -directions[..., 1]], axis=-1) * lens[:2] + lens[2:]
    inside = ((there >= 0) & (there < 1)).all(axis=-1)
    pixels = np.where(inside[..., None], there * 96, 0).astype(int)
    return rendered[..., 3] > 128, inside & (alpha[pixels[..., 1], pixels[..., 0]] > 128)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_the_browser_draws_the_points_where_the_matte_is(shown) -> None:
    """viser's own conventions, tried: drawn from a camera's place, the cloud of points has the outline of its matte."""
    stand_back(shown)
    controls = shown.page.controls
    controls.style.value, controls.bounds.value, controls.point_size.value = "none", False, 0.004
    for view in range(VIEWS):
        drawn, expected = from_a_camera(shown, view)
        # The discs that stand for points widen the outline by a pixel or two.
        assert iou(drawn, expected) > 0.85, view
    controls.style.value, controls.bounds.value = "on white", True


def test_next_and_search_find_other_objects(shown) -> None:
    shown.tab.get_by_text("next", exact=True).click()
    until(lambda: "Scene 1" in text(shown) and HOSTILE not in text(shown))
    until(lambda: "2 of 3" in text(shown))
    search = shown.tab.get_by_role("textbox").first
    search.fill(synthetic.uid_of(2)[:6])
    until(lambda: "Scene 2" in text(shown) and "1 of 1 found, 3 in all" in text(shown))
    search.fill("chair")
    until(lambda: HOSTILE in text(shown))
    search.fill("no such thing")
    until(lambda: "no object" in text(shown))
    search.fill("")
    until(lambda: "1 of 3" in text(shown))


def test_the_page_asks_nothing_of_the_internet(shown) -> None:
    own = (f"http://127.0.0.1:{shown.port}/", f"blob:http://127.0.0.1:{shown.port}/", "data:")
    assert [url for url in shown.requests if not url.startswith(own)] == []
    assert shown.errors == []


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://evil.example", 403), ("http://localhost.evil.example:8080", 403), ("http://localhost:9000", 101)],
)
def test_pages_of_others_are_not_let_in(shown, origin: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shown.port, timeout=10)
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    connection.request("GET", "/", headers={"Connection": "Upgrade", "Upgrade": "websocket", "Origin": origin, **key})
    assert connection.getresponse().status == status
    connection.close()


def test_files_of_the_machine_are_not_given_out(shown) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shown.port, timeout=10)
    connection.request("GET", "/" + "../" * 20 + "etc/hostname")
    assert connection.getresponse().status == 404


def test_a_damaged_object_is_said_and_the_next_one_shown(tmp_path: Path, viser: None) -> None:
    from datasets.page import Page

    synthetic.write_captures(tmp_path, 2, views=2, resolution=32)
    first = capture_path(tmp_path, synthetic.uid_of(0))
    first.write_bytes(first.read_bytes()[:3000])
    server = page_server.start_server("127.0.0.1", free_port())
    try:
        page = Page(server, Objects(tmp_path), size=32, points=100)
        page.choose(0)
        assert page.shown is None and "not a whole zip archive" in page.controls.status.content
        page.choose(1)
        assert page.shown is not None and page.shown.stored.uid == synthetic.uid_of(1)
    finally:
        server.stop()


def test_objects_without_a_surface_get_their_mattes_hull(captures: Path) -> None:
    from datasets.page import read

    stored = replace(Objects(captures).open(0), geometry=None, depth=None)
    shown = read(stored, size=96, points=5000)
    assert shown.surface.normals is None and 1000 < len(shown.surface.points) <= 5000
    assert min(shown.fit) > 0.99
    assert shown.colours("pictures").shape == shown.surface.points.shape and len(shown.depth_points(0, 10)[0]) == 0
    wrong = replace(stored, world_from_camera=stored.world_from_camera * [1, -1, 1, 1])
    assert min(read(wrong, size=96, points=5000).fit) < 0.95


def test_a_taken_port_is_an_error(captures: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen"):
            page_server.check_port("127.0.0.1", port)


@pytest.mark.parametrize(
    ("version", "message"), [(None, "needs viser.*extra: browse"), ("0.2.23", "viser 0.2.23 is installed.*viser>=1.1")]
)
def test_a_missing_or_old_viser_is_an_error(monkeypatch: pytest.MonkeyPatch, version: str | None, message: str) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise page_server.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(page_server.importlib.metadata, "version", installed)
    with pytest.raises(UserError, match=message):
        page_server.check_viser()


def test_a_uid_may_be_shortened(captures: Path) -> None:
    objects = Objects(captures)
    assert browse.first_object(objects, None) == 0
    assert browse.first_object(objects, synthetic.uid_of(2)[:2]) == 2
    with pytest.raises(UserError, match="--uid 0: 3 of 3 objects"):
        browse.first_object(objects, "0")


def test_the_command_serves_until_interrupted(captures: Path, viser: None) -> None:
    port = free_port()
    command = [sys.executable, "-m", "datasets.browse", str(captures), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = next(line for line in process.stdout if "Ctrl-C" in line)
        assert "3 objects" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
