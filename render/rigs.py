"""Cameras around an object, drawn from (seed, uid, view): the same on any worker, in any order.

Distances are in object units, in which the bounding sphere has radius 1; docs/conventions.md says how other projects' distances
were converted. Every rig has a lens, distance and number of views of its own, which its fields override.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from render import camera_lists
from turntable import cameras
from turntable.errors import UserError

CLEARANCE = 1.015
"""What is enlarged to fit keeps within 1 / CLEARANCE of the way to the border, so that no filter bleeds over it."""
FARTHEST = 100.0
"""Object units; 16 bits of depth would be coarser than 0.0015 beyond it."""


class RigError(UserError):
    """Cameras that were asked for and do not exist."""


@dataclass(frozen=True)
class Camera:
    """One camera."""

    world_from_camera: np.ndarray
    """(3, 4) float64, OpenGL axes, object units."""
    intrinsics: np.ndarray
    """(4,) float64, normalised."""


@dataclass(frozen=True)
class Own:
    """What a rig has of its own."""

    fov_deg: float
    distance: tuple[float, float]
    height: tuple[float, float] = (0.0, 0.0)
    """For rigs that draw heights."""
    views: int = 32
    most_views: int | None = None
    """A fixed set of views has no more than these."""


OWN = {
    # LRM's elevations (height -0.75 … 1.60 at radius 1.5 … 3.0) at our mean distance; the sphere is never cut off.
    "shell": Own(50.0, (2.45, 3.0), (-0.9, 1.95)),
    # LGM: fovy 49.1°, radius 1.5 around a unit cube.
    "ring": Own(49.1, (2.5, 2.5)),
    # TRELLIS: 40°, radius 2 around a unit cube.
    "hammersley": Own(40.0, (3.33, 3.33)),
    # Zero123++ v1.2: 30°, the bounding sphere of radius 0.5 at 0.5 / tan 15°.
    "zero123plus": Own(30.0, (3.732, 3.732), views=6, most_views=6),
    # OpenLRM: lens 24 on sensor 32, radius 1.9 … 2.6 and height -0.75 … 1.60 around [-1, 1]³.
    "openlrm": Own(67.38, (1.58, 2.17), (-0.63, 1.33)),
    "list": Own(50.0, (1.0, 1.0)),
}
ZERO123PLUS_ELEVATIONS = {"1.1": (30.0, -20.0), "1.2": (20.0, -10.0)}
"""Of even and odd views; azimuths are 30°, 90° … 330° from the input view's."""


@dataclass(frozen=True)
class Rig:
    """Where the cameras are, and through what lens they look."""

    rig: Literal["shell", "ring", "hammersley", "zero123plus", "openlrm", "list"] = "shell"
    """shell: anywhere in a spherical shell between two heights (LRM). ring: evenly spaced azimuths (LGM, turntables).
    hammersley: evenly over the whole sphere (TRELLIS). zero123plus: its six views. openlrm: from the front, then at random.
    list: your own cameras, see --cameras."""
    fov_deg: float | None = None
    """Horizontal field of view, degrees. Default: shell 50, ring 49.1, hammersley 40, zero123plus 30, openlrm 67.38."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest camera, object units from the centre. shell and openlrm draw one a view, ring, hammersley and
    zero123plus one an asset. Default: shell 2.45 3, ring 2.5 2.5, hammersley 3.33 3.33, zero123plus 3.732 3.732, openlrm 1.58 2.17."""
    height: tuple[float, float] | None = None
    """Lowest and highest camera of shell and openlrm above the centre, object units. Default: shell -0.9 1.95, openlrm -0.63 1.33."""
    elevation_deg: tuple[float, ...] = ()
    """Elevation of the ring, degrees; several share the views evenly, one ring after another. Default: 0."""
    azimuth_deg: float = 0.0
    """Azimuth of the ring's first view, and of zero123plus' input view, degrees; 0 looks at the asset's front."""
    zero123plus: Literal["1.1", "1.2"] = "1.2"
    """Release of zero123plus: elevations 30 and -20 degrees (1.1) or 20 and -10 (1.2)."""
    cameras: Path | None = None
    """JSON file of your own cameras, for --rig list: a list of {azimuth_deg, elevation_deg, distance} or {world_from_camera},
    each with fov_deg or intrinsics if not --fov-deg; or a transforms.json."""
    jitter_roll_deg: float = 0.0
    """Every camera is rolled by up to ± so many degrees."""
    jitter_focal: float = 0.0
    """Every focal length is changed by up to ± this share."""
    jitter_target: float = 0.0
    """Every camera, and with it the point it looks at, is moved by up to ± so many object units along each axis."""
    fit: Literal["always", "enlarge", "off"] | None = None
    """enlarge: a camera that would cut the asset off goes back along its viewing axis just far enough. always: every camera
    goes to where the asset fills the picture. off: cameras stay. Default: enlarge; list: off."""
    fill: float | None = None
    """How far towards the picture's border the asset may reach when fitted, 0 … 1. Default: 0.985 for enlarge, 0.9 for always."""
    listed: Annotated[tuple[tuple[float, ...], ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    """What --cameras holds, 16 numbers a camera, so that workers need no file; see `settled`."""

    def __post_init__(self) -> None:
        if self.fov_deg is not None and not 1 <= self.fov_deg <= 150:
            raise ValueError(f"fov_deg must lie in [1, 150], got {self.fov_deg}")
        self._check_places()
        self._check_list()
        if not 0 <= self.jitter_roll_deg <= 180 or not 0 <= self.jitter_focal < 0.9 or not 0 <= self.jitter_target <= 1:
            raise ValueError(
                "jitter_roll_deg must lie in [0, 180], jitter_focal in [0, 0.9), jitter_target in [0, 1]; got "
                f"{self.jitter_roll_deg}, {self.jitter_focal}, {self.jitter_target}"
            )
        if self.fill is not None and not 0.05 <= self.fill <= 1:
            raise ValueError(f"fill must lie in [0.05, 1], got {self.fill}")

    def _check_places(self) -> None:
        near, far = self.distance or OWN[self.rig].distance
        if not 0 < near <= far <= FARTHEST:
            raise ValueError(f"distance must be (near, far) within (0, {FARTHEST:g}], got {self.distance}")
        low, high = self.height or OWN[self.rig].height
        if not -near < low <= high < near:
            raise ValueError(f"height must be (low, high) within ±{near}, the nearest distance; got {(low, high)}")
        if self.height and self.rig not in ("shell", "openlrm"):
            raise ValueError(f"height must be left out with rig {self.rig}, which has no heights; got {self.height}")
        if self.elevation_deg and self.rig != "ring":
            raise ValueError(f"elevation_deg must be left out with rig {self.rig}; it is the ring's")
        if any(abs(elevation) > 90 for elevation in self.elevation_deg):
            raise ValueError(f"elevation_deg must lie in [-90, 90], got {self.elevation_deg}")

    def _check_list(self) -> None:
        if self.rig == "list" and not (self.cameras or self.listed):
            raise ValueError("rig list must have --cameras FILE, a JSON list of cameras")
        if self.rig != "list" and (self.cameras or self.listed):
            raise ValueError(f"cameras must be left out with rig {self.rig}; say --rig list to use {self.cameras}")
        if self.rig == "list" and self.distance:
            raise ValueError("distance must be left out with rig list, whose cameras have their own")
        if any(len(numbers) != 16 for numbers in self.listed):
            raise ValueError("listed must be 16 numbers a camera")


def settled(rig: Rig) -> Rig:
    """`rig` with every value stated and the list of cameras read: all that decides its cameras, needing no file."""
    own = OWN[rig.rig]
    fov_deg = rig.fov_deg or own.fov_deg
    fit = rig.fit or ("off" if rig.rig == "list" else "enlarge")
    changes: dict[str, Any] = {
        "fov_deg": fov_deg,
        "fit": fit,
        "fill": rig.fill or (0.9 if fit == "always" else 1 / CLEARANCE),
    }
    if rig.cameras:
        changes |= {"listed": camera_lists.read(rig.cameras, fov_deg), "cameras": None}
    elif rig.rig != "list":
        changes |= {"distance": rig.distance or own.distance}
    if rig.rig in ("shell", "openlrm"):
        changes |= {"height": rig.height or own.height}
    if rig.rig == "ring":
        changes |= {"elevation_deg": rig.elevation_deg or (0.0,)}
    return dataclasses.replace(rig, **changes)


def count(rig: Rig, views: int | None) -> int:
    """How many views an asset has: `views`, or as many as the rig has of its own (None)."""
    most = len(rig.listed) if rig.rig == "list" else OWN[rig.rig].most_views
    if views is None:
        return most or OWN[rig.rig].views
    if most is not None and views > most:
        raise RigError(f"views must be at most {most} with rig {rig.rig}, which has no more; got {views}")
    return views


def depth_scale(drawn: Sequence[Camera]) -> float:
    """Object units a step of 16-bit depth, one for all of an asset's cameras: the farthest point they can see is below its end."""
    return (max(float(np.linalg.norm(camera.world_from_camera[:, 3])) for camera in drawn) + 1.05) / 65535


def stream(seed: int, uid: str, purpose: str) -> np.random.Generator:
    """The random stream that (seed, uid) has for one purpose; streams of other uids or purposes are independent."""
    key = hashlib.sha256(f"{purpose}\0{uid}".encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(key[:16], "<u4").tolist()])


def draw(rig: Rig, views: int, seed: int, uid: str) -> list[Camera]:
    """The first `views` cameras of one asset, before any fitting.

    Of shell, openlrm, zero123plus and list the first cameras do not depend on how many are asked for; ring and hammersley
    spread the whole number evenly.
    """
    rig = settled(rig)
    count(rig, views)
    if rig.rig == "list":
        numbers = np.array(rig.listed[:views])
        drawn = [Camera(row[:12].reshape(3, 4), row[12:]) for row in numbers]
    else:
        assert rig.fov_deg
        lens = cameras.intrinsics_from_fov(rig.fov_deg)
        spots = POSITIONS[rig.rig](rig, views, seed, uid)
        drawn = [Camera(cameras.look_at(position), lens.copy()) for position in spots]
    return [_jittered(rig, camera, stream(seed, uid, f"jitter {view}")) for view, camera in enumerate(drawn)]


def _jittered(rig: Rig, camera: Camera, rng: np.random.Generator) -> Camera:
    roll, focal, *move = rng.uniform(-1, 1, 5)
    angle = np.deg2rad(roll * rig.jitter_roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    pose = camera.world_from_camera.copy()
    pose[:, :3] = pose[:, :3] @ turn
    pose[:, 3] += rig.jitter_target * np.array(move)
    scale = 1 + focal * rig.jitter_focal
    return Camera(pose, camera.intrinsics * [scale, scale, 1, 1])


def _shell(rig: Rig, views: int, seed: int, uid: str) -> list[np.ndarray]:
    """A view alone is uniform over the shell's part of the sphere. The views of one object are a low-discrepancy sequence from
    a random start, so that a dozen of them already leave no side of the object unseen; the first is like the others."""
    assert rig.distance and rig.height
    # Roberts 2018, "The unreasonable effectiveness of quasirandom sequences": the R3 sequence.
    step = 1.2207440846057596 ** -np.arange(1.0, 4.0)
    samples = (stream(seed, uid, "cameras").random(3) + np.arange(views)[:, None] * step) % 1
    return [_at_height(360 * a, _between(rig.height, h), _between(rig.distance, d)) for a, h, d in samples]


def _ring(rig: Rig, views: int, seed: int, uid: str) -> list[np.ndarray]:
    distance = _one_distance(rig, seed, uid)
    spots = []
    for part, elevation in zip(
        np.array_split(np.arange(views), len(rig.elevation_deg)), rig.elevation_deg, strict=True
    ):
        azimuths = rig.azimuth_deg + 360 * np.arange(len(part)) / max(len(part), 1)
        spots += [cameras.spherical_position(azimuth, elevation, distance) for azimuth in azimuths]
    return spots


def _hammersley(rig: Rig, views: int, seed: int, uid: str) -> list[np.ndarray]:
    """The Hammersley set on the sphere (Wong, Luk, Heng 1997), shifted as a whole by a random offset as TRELLIS does."""
    along, around = stream(seed, uid, "cameras").random(2)
    distance = _one_distance(rig, seed, uid)
    spots = []
    for view in range(views):
        z = 1 - 2 * (view + along) / views
        azimuth = 360 * ((_mirrored_bits(view) + around) % 1)
        spots.append(_at_height(azimuth, z * distance, distance))
    return spots


def _mirrored_bits(number: int) -> float:
    """Van der Corput's radical inverse in base 2: 1 -> 0.5, 2 -> 0.25, 3 -> 0.75."""
    return int(f"{number:032b}"[::-1], 2) / 2**32


def _zero123plus(rig: Rig, views: int, seed: int, uid: str) -> list[np.ndarray]:
    distance, elevations = _one_distance(rig, seed, uid), ZERO123PLUS_ELEVATIONS[rig.zero123plus]
    return [
        cameras.spherical_position(rig.azimuth_deg + 30 + 60 * view, elevations[view % 2], distance)
        for view in range(views)
    ]


def _openlrm(rig: Rig, views: int, seed: int, uid: str) -> list[np.ndarray]:
    assert rig.distance and rig.height
    spots = []
    for view in range(views):
        azimuth, height, distance = stream(seed, uid, f"camera {view}").random(3)
        radius = _between(rig.distance, distance)
        front = np.array([0.0, -radius, 0.0])
        spots.append(_at_height(360 * azimuth, _between(rig.height, height), radius) if view else front)
    return spots


POSITIONS: dict[str, Callable[[Rig, int, int, str], list[np.ndarray]]] = {
    "shell": _shell,
    "ring": _ring,
    "hammersley": _hammersley,
    "zero123plus": _zero123plus,
    "openlrm": _openlrm,
}
"""Rig -> (views, 3) positions, looking at the object's centre."""


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _one_distance(rig: Rig, seed: int, uid: str) -> float:
    assert rig.distance
    return _between(rig.distance, stream(seed, uid, "distance").random())


def _at_height(azimuth_deg: float, height: float, distance: float) -> np.ndarray:
    return cameras.spherical_position(azimuth_deg, np.rad2deg(np.arcsin(height / distance)), distance)
