"""The page in a real browser, headless, from drop to download; what it says of bad pictures; what it lets nobody read."""

from __future__ import annotations

import base64
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import trimesh

from model.app import MATTE_SIZE, AppConfig
from model.checkpoints import save_model
from model.lrm import LRM
from tests.browser import CHROMIUM, CHROMIUM_ARGUMENTS, free_port
from tests.conftest import ROOT
from tests.model.test_reconstruct import SMALL, TYPICAL
from turntable.report import encode_picture

QUICK = [
    "--resolution",
    "32",
    "--texture",
    "64",
    "--frames",
    "4",
    "--frame-size",
    "32",
    "--samples",
    "8",
    "--upload-mb",
    "1",
]
DROP = """([content, name]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dropped = new DataTransfer();
    dropped.items.add(new File([bytes], name, { type: "image/png" }));
    return dropped;
}"""
"""A file as the desktop hands it over."""


def disc() -> np.ndarray:
    """(64, 64, 4) uint8: a red disc, cut out."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 0] = 200
    y, x = np.mgrid[:64, :64]
    rgba[..., 3] = np.where((x - 32) ** 2 + (y - 32) ** 2 < 400, 255, 0)
    return rgba


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page of an untrained network, open in a browser: its `tab`, `port`, `requests` and console `errors`.

    Its density is near exp(-1) throughout the ball, so a level below that gives a body.
    """
    pytest.importorskip("gradio", minversion="6.20", reason="needs gradio (extra: app)")
    if not CHROMIUM:
        pytest.skip("needs Chromium, which is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra: dev)")
    checkpoint, temporary = tmp_path_factory.mktemp("run") / "model.safetensors", tmp_path_factory.mktemp("temporary")
    torch.manual_seed(0)
    save_model(checkpoint, LRM(replace(SMALL, level=0.2)), TYPICAL)
    port = free_port()
    command = [sys.executable, "-m", "model.app", "--checkpoint", checkpoint, "--port", str(port), *QUICK]
    log = (temporary.parent / "app.log").open("w+")
    server = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, stdout=log, stderr=subprocess.STDOUT
    )
    said = Path(log.name).read_text
    until(lambda: "Ctrl-C" in said() or server.poll() is not None)
    assert server.poll() is None, said()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1280, "height": 1050})
        requests: list[str] = []
        errors: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        tab.get_by_role("button", name="Reconstruct").wait_for(timeout=60_000)
        yield SimpleNamespace(tab=tab, port=port, requests=requests, errors=errors, said=said, temporary=temporary)
        browser.close()
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0, said()
    assert list(temporary.glob("turntable-*")) == [], "the page left files behind"


def until(true: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Waits for what is going to be true, and returns it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
    return value


def drop(shown: SimpleNamespace, content: bytes, name: str) -> None:
    """Drops a file on the picture's place, emptied first."""
    remove = shown.tab.get_by_label("Remove Image")
    if remove.count():
        remove.click()
    handed = shown.tab.evaluate_handle(DROP, [base64.b64encode(content).decode(), name])
    target = shown.tab.locator("#picture button[aria-dropeffect]")
    target.wait_for()
    target.dispatch_event("drop", {"dataTransfer": handed})


def test_from_drop_to_download(shown: SimpleNamespace, tmp_path: Path) -> None:
    tab = shown.tab
    tab.get_by_role("button", name="Options").click()
    for kind in ("obj", "ply"):
        tab.get_by_label(kind, exact=True).check()
    drop(shown, encode_picture(disc(), ".png"), "disc.png")
    tab.locator("#turning video").wait_for(timeout=90_000)
    assert re.search(r"[\d,]+ triangles, texture 64²", tab.inner_text("#said"))
    matte = tab.locator("#framed img")
    until(lambda: matte.evaluate("image => image.naturalWidth") == MATTE_SIZE)
    until(lambda: tab.locator("#turning video").evaluate("video => video.videoWidth") == 32)
    for index, name in enumerate(("disc.glb", "disc.obj.zip", "disc.ply")):
        with tab.expect_download() as caught:
            tab.locator("#files a").nth(index).click()
        assert caught.value.suggested_filename == name
        caught.value.save_as(tmp_path / name)
    zipfile.ZipFile(tmp_path / "disc.obj.zip").extractall(tmp_path)
    loaded = {kind: trimesh.load(tmp_path / f"disc.{kind}", force="mesh") for kind in ("glb", "obj", "ply")}
    assert len({len(mesh.faces) for mesh in loaded.values()}) == 1 and len(loaded["glb"].faces) > 100
    assert loaded["glb"].visual.uv is not None and loaded["obj"].visual.material.image is not None


def test_the_mesh_is_drawn(shown: SimpleNamespace) -> None:
    """More than the ground's one colour in the middle of the canvas."""
    canvas = shown.tab.locator("#shape canvas")
    canvas.wait_for()

    def colours() -> float:
        drawn = cv2.imdecode(np.frombuffer(canvas.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        height, width = drawn.shape[:2]
        return float(drawn[height // 4 : -height // 4, width // 4 : -width // 4].std())

    until(lambda: colours() > 5)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("letter.png", b"Dear Sir", "not a picture that can be read"),
        (
            "<img src=x onerror=document.title=1>'&.png",
            b"<script>document.title=1</script>",
            "not a picture that can be read",
        ),
        ("cut.png", encode_picture(disc(), ".png")[:90], "damaged picture"),
        ("photo.png", encode_picture(disc()[..., :3], ".png"), "“The object is found by”"),
        ("large.png", bytes(1_100_000), "exceed the maximum allowed size"),
        ("nothing.png", encode_picture(np.zeros((64, 64, 4), np.uint8), ".png"), "transparent"),
    ],
)
def test_bad_pictures_are_refused_in_words(shown: SimpleNamespace, name: str, content: bytes, reason: str) -> None:
    drop(shown, content, name)
    words = shown.tab.get_by_test_id("toast-text")
    words.wait_for(timeout=60_000)
    said = words.inner_text()
    assert reason in said
    assert str(shown.temporary) not in said and "Traceback" not in shown.said()
    assert not re.search(r"&#?\w+;", said) and shown.tab.title() == "Turntable"
    shown.tab.get_by_test_id("toast-close").click()
    words.wait_for(state="detached")


def test_nothing_leaves_the_machine(shown: SimpleNamespace) -> None:
    """Not by the browser: no fonts, scripts or statistics of others."""
    local = (f"http://127.0.0.1:{shown.port}/", f"ws://127.0.0.1:{shown.port}/", "data:", "blob:")
    assert len(shown.requests) > 10
    assert [url for url in shown.requests if not url.startswith(local)] == []
    assert shown.errors == []


@pytest.mark.parametrize("path", ["/etc/passwd", "setup.cfg", "model/app.py"])
def test_other_files_are_not_handed_out(shown: SimpleNamespace, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shown.port, timeout=30)
    connection.request("GET", f"/gradio_api/file={path}")
    assert connection.getresponse().status in (403, 404)


@pytest.mark.parametrize("wrong", [{"port": 0}, {"mattes": ()}, {"frame_size": 33}, {"upload_mb": 0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AppConfig(Path("x"), **wrong)
