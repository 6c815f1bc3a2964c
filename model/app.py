"""A local page: `python -m model.app [--checkpoint runs/x]`. Drop a picture; see its matte, the object turning, its mesh; download.

A thin page over `model.pipeline`. It answers this machine only, loads nothing of the internet and tells nobody anything;
pictures and results lie in a temporary folder that goes when the page ends, and each an hour after it was made.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from model import mesh_files, pipeline, preview, video
from model.hub import DEFAULT
from model.photograph import Photograph, typical_elevation
from model.pipeline import Model, Reconstruction, Source, Stages, SurfaceSettings
from model.texture import TexturedMesh
from preprocess.matte import Device, check
from turntable import config
from turntable.errors import EXIT_OK, UserError

STAGES = ("read", "matte", "frame", "planes", "mesh", "texture", "write", "video")
"""In their order, for the progress bar."""
FILES_LIVE_S = 3600
MATTE_SIZE = 256
FPS = 12
MATTE_LABEL = "The object is found by"
FONT = ("ui-sans-serif", "system-ui", "sans-serif")
MONOSPACE = ("ui-monospace", "monospace")
"""What the visitor's machine has; gradio's own would come over the net."""
CSS = """
.gradio-container { width: 100% !important; max-width: 1240px !important; margin: 0 auto !important; }
#head h1 { margin: 0; } #head p { margin: .1rem 0 0; color: var(--body-text-color-subdued); }
#said { min-height: 3.6rem; padding: .3rem .2rem; } #said b { font-weight: 600; } #said .doubt { color: #b45309; }
#framed img { width: 100%; height: 100%; object-fit: contain; }
"""


@dataclass(frozen=True)
class AppConfig:
    """Opens a page at http://127.0.0.1:7860 that makes objects of pictures; Ctrl-C ends it."""

    checkpoint: Path = Path(DEFAULT)
    """A checkpoint, the folder of a training run or with a published model's files, or a name: turntable:furniture (small, and here
    already), openlrm:mix-base-1.1 (obj or mix; small, base or large), triposr."""
    mattes: tuple[str, ...] = ("alpha", "rembg:u2net", "rembg:isnet-general-use")
    """The ways of finding the object that the page offers, see `preprocess.matte`; the first is chosen at first."""
    matte_device: Device = "cpu"
    """Where a matting network runs."""
    device: str = "auto"
    """`cpu`, `cuda`, …; auto: a GPU where there is one."""
    surface: SurfaceSettings = SurfaceSettings()
    """What the page's settings are at first."""
    host: str = "127.0.0.1"
    """The address to listen at. Any but this machine's own lets everyone who reaches it use the page, without a password."""
    port: int = 7860
    """The port to listen at."""
    upload_mb: int = 50
    """MiB, the largest file that is taken."""
    frames: int = 36
    """Frames of the turning object's video."""
    frame_size: int = 256
    """Pixels, the side of the video's frames; even."""
    samples: int = 64
    """Samples a ray of the video."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must lie in 1 … 65535, got {self.port}")
        if not self.mattes:
            raise ValueError("mattes must name one way of finding the object at least")
        if min(self.upload_mb, self.frames, self.samples) < 1:
            raise ValueError(
                f"upload_mb, frames, samples must be at least 1, got {self.upload_mb}, {self.frames}, {self.samples}"
            )
        if self.frame_size < 2 or self.frame_size % 2:
            raise ValueError(f"frame_size must be even and at least 2, got {self.frame_size}")


@dataclass(frozen=True)
class Wish:
    """What the page's visitor asks for."""

    picture: Path
    photograph: Photograph
    surface: SurfaceSettings
    formats: tuple[str, ...]
    """Beside glb: obj, ply."""


@dataclass
class Shown:
    """What there is to see so far of a reconstruction."""

    said: str
    """HTML."""
    matte: np.ndarray | None = None
    """(S, S, 3) uint8."""
    glb: Path | None = None
    downloads: tuple[Path, ...] = ()
    turning: Path | None = None
    """A video."""


def reconstructed(model: Model, wish: Wish, options: AppConfig, folder: Path, stages: Stages) -> Iterator[Shown]:
    """What to show, after each step that there is something new to see of; files go into `folder`. Raises `UserError`."""
    source = Source(wish.picture.stem, wish.picture)
    framed = pipeline.prepare(model, source, wish.photograph, stages)
    doubts = "".join(f"<br><span class=doubt>{escape(note)}</span>" for note in framed.notes)
    shown = Shown(f"The picture as the network is given it{doubts}", preview.on_squares(framed.rgba, MATTE_SIZE))
    yield shown
    (planes,) = pipeline.encode(model, [framed], [stages])
    result = pipeline.surface(model, source, framed, planes, wish.surface, stages)
    with stages("write"):
        shown.glb = folder / f"{source.name}.glb"
        mesh_files.write(shown.glb, result.surface)
        others = [written(result, folder / f"{source.name}.{suffix}") for suffix in wish.formats]
        shown.downloads = (shown.glb, *others)
    shown.said = f"{summary(result)}{doubts}"
    yield shown
    with stages("video"):
        shown.turning = folder / "turntable.mp4"
        frames = preview.turntable_frames(result, options.frames, options.frame_size, options.samples)
        video.write_video(shown.turning, frames, options.frame_size, FPS)
    shown.said = f"{summary(result)}{doubts}"
    yield shown


def written(result: Reconstruction, path: Path) -> Path:
    """The surface in a file's format; .obj, which is several files, as a .zip of them."""
    if path.suffix != ".obj":
        mesh_files.write(path, result.surface)
        return path
    inner = path.with_suffix("") / path.name
    inner.parent.mkdir()
    mesh_files.write(inner, result.surface)
    return Path(shutil.make_archive(str(path), "zip", inner.parent))


def summary(result: Reconstruction) -> str:
    """HTML: what came of it, and how long each stage took."""
    surface = result.surface
    skin = f"texture {surface.texture.shape[0]}²" if isinstance(surface, TexturedMesh) else "colours at vertices"
    times = " · ".join(
        f"{name}&nbsp;{seconds:.1f}&nbsp;s" for name, seconds in result.seconds.items() if seconds > 0.05
    )
    total = sum(result.seconds.values())
    return f"<b>{len(result.shape.faces):,} triangles, {skin}, {total:.1f} s</b><br>{times}"


@contextmanager
def refusals_in_words(picture: Path) -> Iterator[None]:
    """What the pipeline refuses, as the page says it: of the uploaded file its name, not where it was put."""
    import gradio as gr

    try:
        yield
    except (UserError, ValueError) as error:
        words = escape(str(error).replace(str(picture), picture.name))
        if getattr(error, "reason", "") == "no-matte":
            words += f" Here that is the field “{MATTE_LABEL}”."
        raise gr.Error(words, duration=None, title="This did not work", print_exception=False) from error


def build(model: Model, options: AppConfig, folder: Path) -> Any:
    """The page, a `gradio.Blocks`; results go into folders below `folder`."""
    import gradio as gr

    first, elevation = options.surface, typical_elevation(model.extra)
    sizes = sorted({0, 512, 1024, 2048, 4096, first.texture})
    with gr.Blocks(title="Turntable", analytics_enabled=False, delete_cache=(600, FILES_LIVE_S)) as page:
        gr.Markdown(f"# Turntable\nA picture to a textured mesh, by `{model.name}` on {model.device}.", elem_id="head")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picture = gr.Image(label="Picture", height=300, sources=["upload", "clipboard"], elem_id="picture")
                # The file as it was dropped: `model.photos` reads it with its own limits, and says what is wrong with it.
                picture.preprocess = lambda payload: payload and payload.path  # type: ignore
                matte = gr.Dropdown(list(options.mattes), label=MATTE_LABEL, elem_id="matte")
                angle = gr.Slider(-90, 90, elevation, step=1, label="Elevation, degrees")
                start = gr.Button("Reconstruct", variant="primary", elem_id="start")
                with gr.Accordion("Options", open=False):
                    resolution = gr.Slider(32, 512, first.resolution, step=32, label="Points of the grid along a side")
                    faces = gr.Number(first.budget, precision=0, minimum=0, label="Triangles at most; 0: no limit")
                    texture = gr.Dropdown(sizes, value=first.texture, label="Texture: texels along a side; 0: none")
                    photo = gr.Checkbox(first.project_photo, label="Colours of the picture where it sees the surface")
                    formats = gr.CheckboxGroup(["obj", "ply"], label="Also as")
            with gr.Column(scale=2, min_width=500):
                said = gr.HTML("Drop a picture of one object.", elem_id="said")
                shape = gr.Model3D(
                    label="Mesh", height=440, clear_color=(0.96, 0.97, 0.98, 1), interactive=False, elem_id="shape"
                )
                with gr.Row():
                    framed = gr.Image(
                        label="Matte", format="png", buttons=[], interactive=False, height=270, elem_id="framed"
                    )
                    turning = gr.Video(
                        label="Views", autoplay=True, loop=True, buttons=[], height=270, elem_id="turning"
                    )
                files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="files")

        def run(
            given: str | None, how: str, angle: float, resolution: int, faces: int, texture: int, photo: bool,
            formats: list[str], progress: Any = gr.Progress(),  # noqa: B008 (how gradio knows it)
        ) -> Iterator[list[Any]]:  # fmt: skip
            if not given:
                raise gr.Error("Drop a picture first.", title="No picture", print_exception=False)
            stages = Stages(
                lambda name: progress(STAGES.index(name) / len(STAGES) if name in STAGES else None, desc=name)
            )
            # gradio takes copies of what it is to show, and forgets them by `delete_cache`.
            with tempfile.TemporaryDirectory(dir=folder) as place, refusals_in_words(Path(given)):
                wish = Wish(
                    Path(given),
                    Photograph(how, options.matte_device, elevation=angle),
                    replace(first, resolution=resolution, faces=faces or 0, texture=texture, project_photo=photo),
                    tuple(formats),
                )
                yield ["", None, None, None, None]
                for now in reconstructed(model, wish, options, Path(place), stages):
                    files = [str(file) for file in now.downloads] or None
                    yield [now.said, now.matte, now.glb and str(now.glb), files, now.turning and str(now.turning)]

        inputs = [picture, matte, angle, resolution, faces, texture, photo, formats]
        outputs = [said, framed, shape, files, turning]
        gr.on([start.click, picture.upload], run, inputs, outputs, show_progress_on=said, api_visibility="private")
    return page


def open_page(model: Model, options: AppConfig, folder: Path) -> Any:
    """Starts the page's server, all of whose files go below `folder`, and returns it, a `gradio.Blocks`."""
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.environ.update(quiet, GRADIO_TEMP_DIR=str(folder / "cache"))
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("the page needs gradio: pip install -e .[app]") from error
    work = folder / "work"
    work.mkdir()
    page = build(model, options, work).queue(api_open=False, max_size=16, default_concurrency_limit=1)
    try:
        page.launch(
            server_name=options.host,
            server_port=options.port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=options.upload_mb << 20,
            theme=gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONOSPACE),
            css=CSS,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError as error:
        raise UserError(f"cannot listen at {options.host}:{options.port} ({error}); choose another --port") from error
    return page


def main() -> int:
    options = config.parse(AppConfig, __doc__ or "")
    for how in options.mattes:
        check(how)
    model = pipeline.load(options.checkpoint, options.device)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the page, the folder goes
    with tempfile.TemporaryDirectory(prefix="turntable-") as folder:
        page = open_page(model, options, Path(folder))
        print(f"{options.checkpoint}: http://{options.host}:{options.port}/; Ctrl-C ends the page", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            page.close()
    return EXIT_OK


if __name__ == "__main__":
    config.run(main)
