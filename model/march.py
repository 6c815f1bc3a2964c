"""Which samples of rays are worth evaluating with colour and gradients: found by marching along the rays by density alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chunks import evaluated, in_chunks
from model.occupancy import Occupancy
from model.rays import Generators, clip, importance_distances, merged, sample_distances, uniform


@dataclass(frozen=True)
class Cut:
    """What counts for nothing."""

    light: float
    """Share of a ray's light below which nothing behind is looked at."""
    weight: float
    """A sample's weight, relative to the opacity of its object's most opaque ray, below which it is left out. Relative, so that
    a field that has all but vanished in training still has gradients to come back by."""


PICTURE_CUT = Cut(1e-4, 1e-5)
"""Without gradients: a fortieth of a colour step."""
GRADIENT_CUT = Cut(1e-6, 1e-7)
"""With gradients. Where a field fits its pictures, what is left of the gradient is what does not cancel: cutting at 1e-4 and
1e-5 puts background in the place of what is cut, on every ray, and turned out to change gradients by up to a tenth; here they
change by less than 1e-3, for a few per cent more of the samples."""
WORTH = 0.5
"""A first pass pays when it leaves less than this share of the samples: it costs about a third of evaluating with gradients."""
PROBE = 16
"""One ray in so many tells whether it pays."""
FEWEST = 1 << 18
"""Samples of a call below which it does not pay even to ask: with the tiny model's 2,048 rays, asking takes a quarter of a step."""

ROUNDS = 6
"""A ray is marched a sixth of its samples at a time."""
LIST_SHARE = 4
"""So many chunks' samples are listed at a time: a place in a list takes a thirtieth of what an evaluation takes."""

T = TypeVar("T")
FirstPass = Literal["auto", "always", "never"]
"""Whether to find out without gradients which samples matter: as a few rays tell, or as told."""


class Field(Protocol):
    """What can be rendered. `TriplaneField` is one."""

    @property
    def region(self) -> Literal["ball", "box"]:
        """Where density can be above 0: the unit ball or [-1, 1]³."""

    @property
    def optical_path(self) -> Literal["length", "unit"]:
        """What a density is multiplied by along a ray: lengths, or shares of its part in the region."""

    def parameters(self) -> Iterable[Tensor]:
        """What gradients may be asked for, beside the planes'."""

    def project(self, planes: Tensor) -> Any:
        """Whatever of the planes is computed once for all points: a dataclass, differentiable through its tensor `rows`."""

    def evaluate(self, table: Any, points: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Points (M, 3) of objects (M,) -> density (M,) in 1 / object unit, colour (M, 3)."""

    def evaluate_density(self, table: Any, points: Tensor, owners: Tensor) -> Tensor:
        """As `evaluate`, without the colour."""


@dataclass(frozen=True)
class Rays:
    """R rays of each of B objects, and S samples on each."""

    origins: Tensor
    """(B, R, 3)."""
    directions: Tensor
    """(B, R, 3), unit."""
    distances: Tensor
    """(B, R, S), near to far, object units."""
    paths: Tensor
    """(B, R, S), or (B, R, 1) where all of a ray's are equal: what a sample's density is multiplied by; 0 on a ray that misses."""

    def __getitem__(self, part: slice) -> Rays:
        """The same rays of every object."""
        return Rays(self.origins[:, part], self.directions[:, part], self.distances[:, part], self.paths[:, part])

    def at(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples (M,) of the flattened B · R · S -> points (M, 3), their objects (M,), their paths (M,)."""
        _, r, s = self.distances.shape
        ray = torch.div(index, s, rounding_mode="floor")
        along = self.distances.reshape(-1)[index, None]
        points = torch.addcmul(self.origins.reshape(-1, 3)[ray], along, self.directions.reshape(-1, 3)[ray])
        which = ray if self.paths.shape[-1] == 1 else index
        return points, torch.div(ray, r, rounding_mode="floor"), self.paths.reshape(-1)[which]

    def whole_index(self, index: Tensor, part: slice) -> Tensor:
        """Samples (M,) of `self[part]`, flattened -> the same of these rays. `part` has steps of one."""
        _, r, s = self.distances.shape
        own = len(range(*part.indices(r))) * s
        return index + torch.div(index, own, rounding_mode="floor") * (r * s - own) + part.start * s


def sample_weights(thickness: Tensor) -> Tensor:
    """Optical thickness σ δ of the samples (R, S), near to far -> weights (R, S): light that arrives times what is absorbed."""
    return torch.exp(-before(thickness)) * -torch.expm1(-thickness)


def before(thickness: Tensor) -> Tensor:
    """Optical thickness (R, S) of what lies before each sample."""
    # Not the sum less the sample's own: of a very dense sample nothing would be left of what lies before it.
    return F.pad(thickness[:, :-1].cumsum(dim=1), (1, 0))


@dataclass(frozen=True)
class Marcher:
    """What marching needs to know beside the rays. Nothing here has gradients but the samples' places, through the rays."""

    field: Field
    table: Any
    """`field.project(planes)`."""
    occupancy: Occupancy | None
    chunk: int
    """Samples at a time."""
    cut: Cut

    def sampled(
        self, origins: Tensor, directions: Tensor, samples: int, importance: int, generator: Generators | None
    ) -> Rays:
        """Rays (B, R, 3) with even samples, and `importance` more where those absorb light."""
        distances, steps = sample_distances(origins, directions, samples, self.field.region, generator)
        coarse = Rays(origins, directions, distances, self._paths(steps, samples * steps)[..., None])
        if not importance or distances.numel() == 0:
            return coarse
        near, far = clip(origins, directions, self.field.region)
        jitter = None if generator is None else uniform((*near.shape, importance), generator, distances)

        def fine(part: slice) -> Tensor:
            weights = sample_weights(self.thickness(coarse[part])).view_as(distances[:, part])
            return importance_distances(weights, importance, None if jitter is None else jitter[:, part])

        shares = torch.cat(list(self._parts(fine, coarse)), dim=1)
        added = torch.addcmul(near[..., None], shares, (far - near)[..., None])
        together, spans = merged(near, far, distances, added)
        return Rays(origins, directions, together, self._paths(spans, (far - near)[..., None]))

    @torch.no_grad()
    def chosen(self, rays: Rays, first_pass: FirstPass) -> Tensor:
        """Samples (M,) of the flattened B · R · S that are to be evaluated."""
        if rays.distances.numel() == 0:
            return torch.zeros(0, dtype=torch.int64, device=rays.distances.device)
        if first_pass == "auto":
            first_pass = self._advice(rays)
        if first_pass == "always":
            return self._heavy(rays)
        if self.occupancy is None and rays.distances.is_cuda:  # all of them, without waiting to hear how many
            return torch.arange(rays.distances.numel(), device=rays.distances.device)

        def kept(part: slice) -> Tensor:
            return rays.whole_index(self._candidates(rays[part]).reshape(-1).nonzero()[:, 0], part)

        return torch.cat(list(self._parts(kept, rays)))

    def _advice(self, rays: Rays) -> FirstPass:
        if rays.distances.numel() < FEWEST:
            return "never"
        probe = rays[::PROBE]
        return "always" if len(self._heavy(probe)) < WORTH * int(self._candidates(probe).sum()) else "never"

    def _heavy(self, rays: Rays) -> Tensor:
        """Samples (M,) whose weight matters."""
        objects, count, _ = rays.distances.shape

        def weigh(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            weights = sample_weights(self.thickness(rays[part]))
            # Far below what any object's threshold can be that is seen at all; keeps the lists short. What is not a number is
            # not below anything: it must show in the result.
            index = (~(weights.reshape(-1) <= self.cut.weight * 1e-6)).nonzero()[:, 0]
            highest = weights.sum(dim=1).view(objects, -1).amax(dim=1)
            return rays.whole_index(index, part), weights.reshape(-1)[index], highest

        index, weights, highest = zip(*self._parts(weigh, rays), strict=True)
        threshold = self.cut.weight * torch.stack(highest).amax(dim=0)
        every = torch.cat(index)
        owners = torch.div(every, count * rays.distances.shape[2], rounding_mode="floor")
        return every[~(torch.cat(weights) <= threshold[owners])]

    @torch.no_grad()
    def thickness(self, rays: Rays) -> Tensor:
        """(B · R, S) optical thickness of the samples; 0 also where too little light arrives."""
        s = rays.distances.shape[-1]
        kept = self._candidates(rays).reshape(-1, s)
        index = kept.reshape(-1).nonzero()[:, 0]
        ray = torch.div(index, s, rounding_mode="floor")
        counts = kept.sum(dim=1)
        rank = torch.arange(len(index), device=index.device) - (counts.cumsum(0) - counts)[ray]
        limit = -math.log(self.cut.light)
        result, passed = rays.distances.new_zeros(kept.numel()), rays.distances.new_zeros(len(kept))
        # A ray's first few samples, then, of rays that are not opaque yet, the next few.
        stride = -(-s // ROUNDS)
        while len(index):
            now = rank < stride
            found = self._thickness_at(rays, index[now])
            result[index[now]] = found
            passed.index_add_(0, ray[now], found)
            on = ~now & (passed < limit)[ray]
            index, ray, rank = index[on], ray[on], rank[on] - stride
        weak = before(result.view_as(kept)) > limit
        return result.view_as(kept).masked_fill_(weak, 0)

    def _thickness_at(self, rays: Rays, index: Tensor) -> Tensor:
        points, owners, paths = rays.at(index)
        return (self.density(points, owners) * paths).to(paths.dtype)

    def density(self, points: Tensor, owners: Tensor) -> Tensor:
        """Points (M, 3) of objects (M,) -> (M,), with gradients where they are wanted."""

        def evaluate(table: Any, points: Tensor, owners: Tensor) -> tuple[Tensor]:
            return (self.field.evaluate_density(table, points, owners),)

        return evaluated(self.field, evaluate, self.table, points, owners, self.chunk)[0]

    def _candidates(self, rays: Rays) -> Tensor:
        """(B, R, S) bool: samples in the region and in the occupancy."""
        inside = (rays.paths > 0).expand_as(rays.distances)
        if self.occupancy is None:
            return inside
        return inside & self.occupancy.along(rays.origins, rays.directions, rays.distances)

    def _paths(self, spans: Tensor, lengths: Tensor) -> Tensor:
        if self.field.optical_path == "length":
            return spans
        return spans / torch.where(lengths > 0, lengths, 1)

    def _parts(self, work: Callable[[slice], T], rays: Rays) -> Iterator[T]:
        """`work` on so many rays at a time that they have a few chunks' samples together."""
        objects, count, samples = rays.distances.shape
        return in_chunks(work, count, max(LIST_SHARE * self.chunk // (objects * samples), 1))
