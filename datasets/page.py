"""The page of `datasets.browse`: one object at a time, in viser.

Everything that is drawn comes out of `datasets.overlays` as arrays; this module puts it on the page and answers clicks. The
page's scene and controls are shared by all who look at it, the viewpoint is everyone's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets import overlays, page_text
from datasets.objects import Objects, StoredObject
from datasets.page_controls import EVERY_CLASS, NO_PICTURE, NOTHING, Catalogue, Controls
from datasets.show import evenly
from turntable import cameras, framing
from turntable.errors import UserError

HULL_VIEWS = 24
"""Most views that a surface takes its colours from, and that a visual hull is made of where there is no surface."""
OVERVIEW_FOV = np.deg2rad(50.0)
CHOSEN, OTHER, FAINT = (230, 120, 20), (70, 90, 120), (170, 170, 170)


@dataclass(frozen=True)
class Surface:
    """What stands for the object's surface."""

    points: np.ndarray
    """(N, 3) float64, object units, world frame."""
    normals: np.ndarray | None
    """(N, 3), or None of a visual hull."""

    @property
    def name(self) -> str:
        """For people."""
        return "visual hull of the mattes" if self.normals is None else "surface points"


@dataclass(frozen=True)
class Shown:
    """An object with all that its page needs, read."""

    stored: StoredObject
    pictures: list[np.ndarray]
    """One a view, (H, W, 4) uint8."""
    surface: Surface
    found: list[overlays.Agreement]
    """One a view."""

    @property
    def fit(self) -> list[float]:
        """One a view: how well cameras, matte and surface fit, in [0, 1]. A hull may be larger than a matte that it is not made of."""
        return [f.covered if self.surface.normals is None else min(f.on_matte, f.covered) for f in self.found]

    def camera(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """world_from_camera (3, 4) and intrinsics (4,)."""
        return self.stored.world_from_camera[view], self.stored.intrinsics[view]

    def depth_points(self, view: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """A view's depth as at most `count` points with colours; none where no depth is stored."""
        if not self.stored.depth:
            return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
        return overlays.depth_points(self.stored.depth(view), *self.camera(view), self.pictures[view], count)

    def colours(self, kind: str) -> np.ndarray:
        """(N, 3) uint8 of the surface's points: their `normals`, or what the `pictures` show there."""
        points, normals = self.surface.points, self.surface.normals
        if kind == "normals" and normals is not None:
            return overlays.normal_colours(normals)
        views = evenly(len(self.pictures), HULL_VIEWS)
        poses, lenses = self.stored.world_from_camera[views], self.stored.intrinsics[views]
        return overlays.picture_colours(points, normals, poses, lenses, [self.pictures[view] for view in views])


def read(stored: StoredObject, size: int, points: int) -> Shown:
    """Reads an object's pictures at `size` pixels and at most `points` points of its surface, and compares the two."""
    pictures = [stored.rgba(view, size) for view in range(len(stored.world_from_camera))]
    surface = _surface(stored, pictures, points)
    found = [
        overlays.agreement(surface.points, pose, lens, picture[..., 3])
        for pose, lens, picture in zip(stored.world_from_camera, stored.intrinsics, pictures, strict=True)
    ]
    return Shown(stored, pictures, surface, found)


def _surface(stored: StoredObject, pictures: list[np.ndarray], count: int) -> Surface:
    if stored.geometry:
        shape = stored.geometry()
        chosen = evenly(len(shape.points), count)
        return Surface(shape.points[chosen].astype(np.float64), shape.normals[chosen].astype(np.float64))
    views = evenly(len(pictures), HULL_VIEWS)
    mattes = [pictures[view][..., 3] for view in views]
    points = overlays.hull_points(stored.world_from_camera[views], stored.intrinsics[views], mattes)
    return Surface(points[evenly(len(points), count)], None)


class Page:
    """The scene, the controls, and which object and view they show."""

    def __init__(self, server: Any, objects: Objects, size: int, points: int) -> None:
        """`size`: side of the pictures at first, pixels. `points`: most surface points drawn."""
        self._server, self._scene = server, server.scene
        self._objects, self._catalogue = objects, Catalogue(objects)
        self._points, self._size = points, size
        self._lock, self._busy = threading.RLock(), False
        self._index, self._marked = -1, -1
        self._looks_through = False
        self.shown: Shown | None = None
        """The object on the page; None where it cannot be read."""
        self.controls = Controls(server.gui, size)
        self._draw_world()
        self._connect()
        server.on_client_connect(self.stand_back)
        threading.Thread(target=self._read_catalogue, daemon=True).start()

    def _connect(self) -> None:
        controls = self.controls
        for control, action in (
            (controls.search, self._find),
            (controls.of_class, self._find),
            (controls.chosen, self._choose_listed),
            (controls.view, self._draw_view),
            (controls.style, self._draw_cameras),
            (controls.size, self._change_size),
            (controls.count, self._draw_cameras),
            (controls.frustum, self._draw_cameras),
            (controls.colours, self._draw_surface),
            (controls.point_size, self._draw_surface),
            (controls.depth, self._draw_view),
            (controls.bounds, self._draw_bounds),
        ):
            control.on_update(lambda _, action=action: self._do(action))
        controls.step.on_click(lambda _: self._do(lambda: self._go(1 if controls.step.value == "next" else -1)))
        walk = {"look through": self.look_through, "stand back": self.stand_back}
        controls.walk.on_click(lambda event: walk[controls.walk.value](event.client))

    def _do(self, action: Callable[[], None]) -> None:
        """Acts on what a viewer did: one thing at a time; what is wrong with the data is said on the page.

        Controls that an action sets call back as if a viewer had touched them, and are not listened to.
        """
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                action()
            except UserError as error:
                self.controls.status.content = page_text.warning(str(error))
            finally:
                self._busy = False

    # Which object

    def choose(self, index: int) -> None:
        """Shows an object. If it cannot be read the page says why, and shows none."""
        self._do(lambda: self._show(index))

    def _choose_listed(self) -> None:
        label = self.controls.chosen.value
        if label != NOTHING:
            self._show(self._catalogue.offered(self._index)[label])

    def _go(self, step: int) -> None:
        if self._catalogue.matches:
            self._show(self._catalogue.beside(self._index, step))

    def _find(self) -> None:
        self._catalogue.find(self.controls.search.value, self.controls.of_class.value)
        if self._catalogue.matches and self._index not in self._catalogue.matches:
            self._show(self._catalogue.matches[0])
        self._list()

    def _read_catalogue(self) -> None:
        """Classes and names come with the records; nothing else waits for them."""
        classes = self._catalogue.read()

        def offer() -> None:
            self.controls.of_class.options = [EVERY_CLASS, *classes]
            self._list()

        with self._lock:
            self._do(offer)

    def _list(self) -> None:
        offered = self._catalogue.offered(self._index)
        self.controls.chosen.options = list(offered) or [NOTHING]
        if self._index in offered.values():
            self.controls.chosen.value = self._catalogue.label(self._index)
        if self.shown or not offered:
            self.controls.status.content = self._catalogue.account(self._index)

    def _show(self, index: int) -> None:
        if index == self._index:
            return
        self._index, self.shown, self._marked = index, None, -1
        for name in ("/surface", "/depth", "/cameras", "/behind"):
            self._scene.remove_by_name(name)
        controls = self.controls
        controls.beside.image, controls.figures.content = NO_PICTURE, ""
        controls.record.content = page_text.small(self._objects.uids[index])
        self._list()
        stored = self._objects.open(index)
        size = min(stored.sizes, key=lambda stored: abs(stored - self._size))
        self.shown = read(stored, size, self._points)
        controls.size.options = [str(size) for size in stored.sizes]
        controls.size.value = str(size)
        controls.show_counts(len(self.shown.pictures))
        controls.depth.disabled = stored.depth is None
        controls.record.content = page_text.record_html(stored)
        self._list()
        self._draw()

    def _change_size(self) -> None:
        self._size = int(self.controls.size.value)
        if self.shown:
            self.shown = read(self.shown.stored, self._size, self._points)
            self._draw()

    # What is drawn

    def _draw(self) -> None:
        self._draw_surface()
        self._draw_cameras()
        self._draw_view()

    def _draw_world(self) -> None:
        scene = self._scene
        scene.set_up_direction("+z")
        self._axes = scene.add_frame("/axes", axes_length=1.25, axes_radius=0.006, origin_radius=0.0)
        for axis, name in enumerate("xyz"):
            scene.add_label(f"/axes/{name}", name, position=tuple(1.32 * np.eye(3)[axis]))
        scene.add_label("/axes/front", "front, azimuth 0", position=(0.0, -1.15, -1.0))
        self._box = self._lines("/box", overlays.box_lines(), FAINT, 1.0)
        self._sphere = self._lines("/sphere", overlays.sphere_lines(), FAINT, 1.0)

    def _lines(self, name: str, segments: np.ndarray, colour: tuple[int, int, int], pixels: float) -> Any:
        return self._scene.add_line_segments(name, segments, colour, thickness=pixels, thickness_units="screen")

    def _draw_bounds(self) -> None:
        self._axes.visible = self._box.visible = self._sphere.visible = self.controls.bounds.value

    def _draw_surface(self) -> None:
        kind = self.controls.colours.value
        self._scene.remove_by_name("/surface")
        if self.shown and kind != "none":
            self._cloud("/surface", self.shown.surface.points, self.shown.colours(kind))

    def _cloud(self, name: str, points: np.ndarray, colours: np.ndarray) -> None:
        size = self.controls.point_size.value
        self._scene.add_point_cloud(
            name, points, colours, point_size=size, point_shape="circle", point_shading="flat", precision="float32"
        )

    def _draw_cameras(self) -> None:
        self._scene.remove_by_name("/cameras")
        self._scene.add_frame("/cameras", show_axes=False, visible=not self._looks_through)
        if self.shown and self.controls.style.value != "none":
            for view in {*self._frusta(), self.controls.view.value}:
                self._draw_camera(view)
        self._marked = self.controls.view.value

    def _frusta(self) -> list[int]:
        """The views whose cameras are drawn, chosen or not."""
        return evenly(len(self.shown.pictures), self.controls.count.value) if self.shown else []

    def _draw_camera(self, view: int) -> None:
        assert self.shown
        pose, lens = self.shown.camera(view)
        depth, style = self.controls.frustum.value, self.controls.style.value
        colour = CHOSEN if view == self.controls.view.value else OTHER
        self._lines(f"/cameras/{view}", overlays.frustum(pose, lens, depth), colour, 2.0)
        if style != "outlines":
            picture = self._stand(f"/cameras/{view}/picture", _styled(self.shown.pictures[view], style), view, depth)
            picture.on_click(lambda event: self._clicked(event.client, view))

    def _stand(self, name: str, picture: np.ndarray, view: int, depth: float) -> Any:
        """A picture at planar depth `depth` before its camera."""
        assert self.shown
        plane = overlays.picture_plane(*self.shown.camera(view), depth)
        return self._scene.add_image(
            name,
            picture,
            plane.width,
            plane.height,
            wxyz=quaternion(plane.rotation),
            position=plane.centre,
            cast_shadow=False,
            receive_shadow=False,
        )

    def _draw_view(self) -> None:
        """Everything that belongs to the chosen view."""
        if not self.shown:
            return
        view, surface, distance = self.controls.view.value, self.shown.surface, None
        self._scene.remove_by_name("/depth")
        if self.controls.depth.value and self.shown.stored.depth:
            points, colours = self.shown.depth_points(view, self._points)
            self._cloud("/depth", points, colours)
            distance = overlays.off_surface(points, surface.points)
        self.controls.beside.image = overlays.overlay(
            surface.points, *self.shown.camera(view), self.shown.pictures[view]
        )
        self.controls.figures.content = page_text.view_html(
            self.shown.stored, view, surface.name, self.shown.found[view], self.shown.fit, distance
        )
        self._mark(view)
        if self._looks_through:
            for client in self._server.get_clients().values():
                self._put_eye(client, view)

    def _mark(self, view: int) -> None:
        """Colours the chosen view's frustum, and the one before as all others."""
        before, self._marked = self._marked, view
        if before == view or self.controls.style.value == "none":
            return
        self._draw_camera(view)
        if before in self._frusta():
            self._draw_camera(before)
        else:
            self._scene.remove_by_name(f"/cameras/{before}")

    # Viewpoints

    def _clicked(self, client: Any, view: int) -> None:
        self.controls.view.value = view
        self.look_through(client)

    def look_through(self, client: Any) -> None:
        """Puts a viewer's eye where the chosen camera is, the picture behind the object: picture and points coincide."""
        with self._lock:
            if self.shown:
                self._looks_through = True
                self._draw_cameras()
                self._put_eye(client, self.controls.view.value)

    def _put_eye(self, client: Any, view: int) -> None:
        assert self.shown
        pose, lens = self.shown.camera(view)
        distance = float(np.linalg.norm(pose[:, 3]))
        self._stand("/behind", _styled(self.shown.pictures[view], "on white"), view, distance + 1.5)
        fov = overlays.fitting_fov(lens, client.camera.aspect) * 1.1
        _move(client, pose[:, 3], pose[:, 3] - distance * pose[:, 2], pose[:, 1], fov)

    def stand_back(self, client: Any) -> None:
        """Takes a viewer's eye to where all cameras are seen."""
        with self._lock:
            self._looks_through, farthest = False, 3.0
            self._scene.remove_by_name("/behind")
            self._draw_cameras()
            if self.shown:
                farthest = float(np.linalg.norm(self.shown.stored.world_from_camera[:, :, 3], axis=1).max())
            position = cameras.spherical_position(25.0, 22.0, 2.4 * farthest)
            _move(client, position, np.zeros(3), np.array([0.0, 0.0, 1.0]), float(OVERVIEW_FOV))


def _move(client: Any, position: np.ndarray, target: np.ndarray, up: np.ndarray, fov: float) -> None:
    with client.atomic():
        client.camera.position = position
        client.camera.up_direction = up
        client.camera.look_at = target
        client.camera.fov = fov


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) axes right, up, back in the world -> wxyz of viser, whose cameras and pictures look along +z with y down."""
    from viser import transforms

    return transforms.SO3.from_matrix(rotation @ cameras.OPENGL_FROM_OPENCV).wxyz


def _styled(rgba: np.ndarray, style: str) -> np.ndarray:
    if style == "cut out":
        return rgba
    if style == "matte":
        return np.repeat(rgba[..., 3:], 3, axis=2)
    return (framing.on_background(rgba) * 255).round().astype(np.uint8)
