"""LRM (Hong et al., ICLR 2024): one picture and its camera to a triplane field.

The parts are separate: `encoder` (picture to tokens; small models have a `pyramid` of convolutions before it), `decoder` (tokens to
triplane tokens), `upsampler` (to planes), `detail` (what small models read straight from the picture) and `field` (planes to density
and colour at points). `model.volume` renders a field, `model.mesh` cuts a surface from it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.decoder import DecoderConfig, TriplaneDecoder
from model.encoder import EncoderConfig, ImageEncoder
from model.lift import DetailLift
from model.mesh import DEFAULT_LEVEL
from model.pyramid import PicturePyramid, PyramidConfig
from model.triplane import FieldConfig, PlaneUpsampler, TriplaneConfig, TriplaneField
from turntable.framing import DEFAULT_FILL

__all__ = [
    "LRM",
    "SIZES",
    "DecoderConfig",
    "EncoderConfig",
    "FieldConfig",
    "LRMConfig",
    "PyramidConfig",
    "TriplaneConfig",
]


@dataclass(frozen=True)
class LRMConfig:
    """Everything needed to build the network and to prepare its input."""

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    triplane: TriplaneConfig = dataclasses.field(default_factory=TriplaneConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    pyramid: PyramidConfig | None = None
    """Convolutions that make the encoder's patches, and the features that `TriplaneConfig.detail` counts; None: a linear layer a
    patch, and a few convolutions for those features."""
    fill: float = DEFAULT_FILL
    """Share of the input picture's side that the object's longer side fills, see `turntable.framing`."""
    background: float = 1.0
    """Grey in [0, 1] that the input picture is laid on."""
    level: float = DEFAULT_LEVEL
    """Density of the surface that a mesh is cut at, where the user names none."""
    camera: Literal["true", "supposed"] = "true"
    """Whether the network is told the picture's true camera and answers in object units; or always supposes the one that its
    checkpoint names (`camera_distance`, `camera_focal`), and answers in units in which the picture was taken by that."""

    def __post_init__(self) -> None:
        if not 0 < self.fill <= 1:
            raise ValueError(f"fill must lie in (0, 1], got {self.fill}")
        if not 0 <= self.background <= 1 or not self.level > 0:
            raise ValueError(f"background must lie in [0, 1], level above 0, got {self.background}, {self.level}")
        if self.pyramid is not None:
            patch, detail = self.encoder.patch_size, self.triplane.detail
            if patch != self.pyramid.patch_size or detail != self.pyramid.channels[0]:
                raise ValueError(
                    f"a pyramid of {self.pyramid.channels} ends in patches of {self.pyramid.patch_size} and gives"
                    f" {self.pyramid.channels[0]} features, got patch_size {patch} and detail {detail}"
                )

    @property
    def resolution(self) -> int:
        """Texels along a side of a plane."""
        return self.decoder.tokens * self.triplane.upsample


class LRM(nn.Module):
    """The network. `load_weights=False` skips `config.encoder.weights`: the caller loads a whole checkpoint."""

    def __init__(self, config: LRMConfig, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        pyramid, planes = config.pyramid, config.triplane
        self.pyramid = None if pyramid is None else PicturePyramid(pyramid, config.encoder.hidden)
        self.encoder = ImageEncoder(config.encoder, load_weights, patches=pyramid is None)
        self.decoder = TriplaneDecoder(config.decoder, config.encoder.hidden, config.triplane)
        self.upsampler = PlaneUpsampler(config.triplane, config.decoder.width)
        self.detail = DetailLift(config.resolution, planes, own=pyramid is None) if planes.detail else None
        self.field = TriplaneField(config.field, config.triplane)

    def planes(self, image: Tensor, camera: Tensor) -> Tensor:
        """image (B, 3, S, S) sRGB in [0, 1] on the background, camera (B, 16) -> planes (B, 3, C, R, R).

        The camera is canonical: 12 numbers of world_from_camera, row by row, and the framed picture's normalised intrinsics.
        """
        features = image
        if self.pyramid is None:
            tokens = self.encoder(image)
        else:
            levels = self.pyramid.down(image)
            tokens = self.encoder(levels[-1])
            features = self.pyramid.up(levels, tokens)
        planes = self.upsampler(self.decoder(tokens, camera))
        return planes if self.detail is None else planes + self.detail(features, camera)

    def forward(self, image: Tensor, camera: Tensor) -> Tensor:
        """As `planes`; what DDP wraps."""
        return self.planes(image, camera)

    def recompute(self, recompute: bool = True) -> None:
        """Whether training keeps only each transformer block's input and computes the rest again in the backward pass."""
        self.encoder.recompute = self.decoder.recompute = recompute


def without_weights(config: LRMConfig) -> LRM:
    """The network with parameters on the device `meta`: nothing is allocated or drawn for what a checkpoint will bring."""
    with torch.device("meta"):
        return LRM(config, load_weights=False)


def camera_numbers(canonical_from_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """(..., 3, 4) canonical pose and (..., 4) framed intrinsics -> (..., 16), what `LRM.planes` takes."""
    return torch.cat([canonical_from_camera.flatten(-2), intrinsics], dim=-1)


def config_from_json(value: dict[str, Any]) -> LRMConfig:
    """The inverse of `dataclasses.asdict` through JSON. Unknown or missing fields raise TypeError, bad values ValueError.

    Fields that an older version did not write keep their defaults, which mean what that version did.
    """
    triplane = dict(value["triplane"])
    triplane["axes"] = tuple(tuple(pair) for pair in triplane["axes"])
    triplane["frame"] = tuple(triplane.get("frame", TriplaneConfig.frame))
    encoder = dict(value["encoder"])
    encoder.update({name: tuple(encoder[name]) for name in ("mean", "deviation")})
    parts = {
        "encoder": EncoderConfig(**encoder),
        "decoder": DecoderConfig(**value["decoder"]),
        "triplane": TriplaneConfig(**triplane),
        "field": FieldConfig(**value["field"]),
    }
    pyramid = value.get("pyramid")
    if pyramid is not None:
        pyramid = PyramidConfig(**{**pyramid, "channels": tuple(pyramid["channels"])})
    return LRMConfig(**{**value, **parts, "pyramid": pyramid})


def _openlrm(image_size: int, hidden: int, layers: int, width: int, channels: int) -> LRMConfig:
    """OpenLRM 1.1: DINOv2 with registers (head width 64), 32² tokens a plane, one MLP with three hidden layers of 64."""
    return LRMConfig(
        EncoderConfig("dinov2_with_registers", image_size, 14, hidden, 12, hidden // 64, position_size=518),
        DecoderConfig(layers, width, width // 64, tokens=32, camera_width=1024),
        TriplaneConfig(upsample=2, channels=channels),
        FieldConfig("joint", 64, density_layers=3, density="softplus", region="box"),
    )


_TINY = LRMConfig(
    EncoderConfig("vit", image_size=128, patch_size=16, hidden=128, layers=2, heads=4),
    DecoderConfig(
        2, 128, 4, mlp_ratio=2, tokens=12, camera_width=128, image_gain=4.0, camera_start=0.05, positions="sincos"
    ),
    TriplaneConfig(upsample=4, channels=24, overlap=2),
    FieldConfig("split", 32, density_layers=1, colour_layers=2, density="exp", density_bias=1.0),
)
_MINI = dataclasses.replace(
    _TINY,
    encoder=EncoderConfig("vit", 128, 16, 128, 3, 4, position_start=0.1),
    # Fewer tokens than `tiny` has, which attention costs less; at twice the width a loss falls no faster by the step, and a step
    # takes two and a half times as long.
    decoder=dataclasses.replace(_TINY.decoder, layers=2, tokens=8, lift=4),
    triplane=TriplaneConfig(upsample=6, channels=24, overlap=2, detail=16, detail_points=2, perspective=2.7),
    pyramid=PyramidConfig((16, 48, 96)),
)
_LARGE = _openlrm(448, 768, 16, 1024, 80)
_PAPER = dataclasses.replace(
    _LARGE,
    encoder=EncoderConfig("vit", 512, 16, 768, 12, 12, position_size=224),
    field=dataclasses.replace(_LARGE.field, density_layers=9),
)

SIZES: dict[str, LRMConfig] = {
    "tiny": _TINY,
    "mini": _MINI,
    "small": _openlrm(224, 384, 12, 512, 32),
    "base": _openlrm(336, 768, 12, 768, 48),
    "large": _LARGE,
    "paper": _PAPER,
}
"""`tiny` (1.4 M parameters) is for minutes on a CPU, `mini` (2.6 M) for an hour of it; `small`, `base`, `large` have OpenLRM's
dimensions, `paper` those of LRM."""
