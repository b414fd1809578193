"""The seeded sample of a volume from which every number is taken that depends on the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import _arrays, _validate
from .._grid import extent
from ..algorithms._options import fill_of
from ._regions import read_maps

# A volume of up to so many voxels is its own sample; of a larger one, so many blocks have as many together.
LARGEST_SAMPLE, BLOCKS = 1 << 23, 24
# Bytes of a process before it holds any of the volume: the interpreter, NumPy, Zarr, dask (measured: 60 to
# 110 MB).
BASE = 115_000_000
# Bytes per voxel of a sample that looking at it takes: sorting its details, and restoring it (most by a
# filter of a thin volume, whose border is simulated).
BYTES_PER_VOXEL = 120
FEWEST_BLOCKS = 4
PSFS = 3  # a block is at least so many PSFs wide
TRIALS = 3  # of the blocks are restored on trial: the brightest


@dataclass(frozen=True)
class Sample:
    """Parts of the items of one channel, in the dtype of the work.

    Attributes
    ----------
    parts : list of ndarray
    places : list of (int, tuple of slice)
        The item and region of each.
    whole : bool
        It is all there is of a single item.
    maps : list of dict
        Weights and first estimate of each, where there are any. In voxels of weight 0 parts hold `fill`.
    fill : float
    """

    parts: list[np.ndarray]
    places: list[tuple[int, tuple[slice, ...]]]
    whole: bool
    maps: list[dict[str, np.ndarray]] = field(default_factory=list)
    fill: float = 0.0

    def maps_of(self, number: int) -> dict[str, np.ndarray]:
        return self.maps[number] if self.maps else {}

    @property
    def weights(self) -> list[np.ndarray] | None:
        return [m["weights"] for m in self.maps] if self.maps and "weights" in self.maps[0] else None

    @property
    def seen(self) -> list[np.ndarray] | None:
        """Where the weights are positive; None if they are everywhere."""
        weights = self.weights
        if weights is None or min(float(w.min()) for w in weights) > 0:
            return None
        return [w > 0 for w in weights]

    @property
    def extremes(self) -> tuple[float, float]:
        return min(float(p.min()) for p in self.parts), max(float(p.max()) for p in self.parts)

    @property
    def trials(self) -> list[int]:
        """Numbers of the parts to be restored on trial, the brightest first."""
        weights = self.weights
        if weights is None:
            light = [float(p.sum(dtype=np.float64)) for p in self.parts]
            some = list(range(len(light)))
        else:
            light = [float((p * w).sum(dtype=np.float64)) for p, w in zip(self.parts, weights, strict=True)]
            some = [i for i, w in enumerate(weights) if w.max() > 0]
        return sorted(some, key=lambda i: (-light[i], i))[:TRIALS]


def block_shape(shape: Sequence[int], psf_shape: Sequence[int], limit: int) -> tuple[int, ...]:
    """Of `BLOCKS` blocks of equal sides, with `limit` voxels, wide enough for the PSF."""
    least = [min(n, PSFS * k) for n, k in zip(shape, psf_shape, strict=True)]
    each = max(limit // BLOCKS, 1)
    sides: list[int] = [0] * len(shape)
    left, open_axes = each, sorted(range(len(shape)), key=lambda a: shape[a])
    for i, axis in enumerate(open_axes):  # short axes first: what they leave goes to the longer ones
        side = max(1, round(left ** (1 / (len(open_axes) - i))))
        sides[axis] = max(min(side, shape[axis]), least[axis])
        left = max(1, left // sides[axis])
    return tuple(sides)


def draw(
    source: Any,
    items: Sequence[int],
    psf_shape: Sequence[int],
    *,
    memory: int,
    seed: int,
    maps: dict[str, Any] | None = None,
) -> Sample:
    """A sample of these items: all of a small volume, else blocks at places that depend on `seed` alone."""
    shape = tuple(source.shape)
    dtype = _arrays.result_dtype(source.dtype)
    # Too little memory for a tile is said once it is known what one takes; until then a sample needs voxels.
    limit = min(LARGEST_SAMPLE, max(max(memory - BASE, memory // 4) // BYTES_PER_VOXEL, 1))
    if len(items) == 1 and math.prod(shape) <= limit:
        places = [(items[0], tuple(slice(0, n) for n in shape))]
    else:
        side = block_shape(shape, psf_shape, limit)
        number = max(FEWEST_BLOCKS, min(BLOCKS, limit // math.prod(side)))
        rng = np.random.default_rng(seed)
        drawn: dict[tuple[int, ...], tuple[int, tuple[slice, ...]]] = {}
        for _ in range(number):
            item = items[int(rng.integers(len(items)))]
            starts = [int(rng.integers(n - s + 1)) for n, s in zip(shape, side, strict=True)]
            # At the beginning of a chunk: fewer of them are read.
            starts = [a - a % c for a, c in zip(starts, source.chunks, strict=True)]
            region = tuple(slice(a, a + s) for a, s in zip(starts, side, strict=True))
            drawn.setdefault((item, *starts), (item, region))
        places = list(drawn.values())
    parts = []
    for item, region in places:
        part = _arrays.computable(source.read(item, region), dtype)
        _validate.finite(part, f"source, at {tuple(s.start for s in region)}")
        parts.append(part)
    whole = len(places) == 1 and extent(places[0][1]) == shape
    if not maps:
        return Sample(parts, places, whole)
    made = Sample(parts, places, whole, [read_maps(maps, item, region, dtype) for item, region in places])
    weights, seen = made.weights, made.seen
    if weights is None or seen is None:
        return made
    # As `trusted` does with a whole image.
    values, trust = (
        np.concatenate([a[s] for a, s in zip(arrays, seen, strict=True)]) for arrays in (parts, weights)
    )
    if not values.size:
        raise ValueError(
            f"weights: all are zero in the sample ({len(parts)} blocks of {parts[0].shape}), expected some "
            "that are positive, or another seed="
        )
    fill = fill_of(values, trust)
    filled = [np.where(s, p, fill) for p, s in zip(parts, seen, strict=True)]
    return replace(made, parts=filled, fill=float(fill))
