"""The noise of an image, from the image alone: what `restore` goes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Of large images a part will do: slabs of this many slices, evenly spaced and no fewer than that, up to so
# many voxels.
SLAB, FEWEST, SAMPLE = 8, 5, 1 << 21
BINS, GROUP = 16, 16
# The median of the mean square of a group of normal values, over their variance.
MEDIAN = 0.95
# Poisson noise on an offset stands for other noise: at most this share of the largest value. A larger one is
# nearer to that noise, but slows the iterations so much that 50 leave light behind (at 4 a fifth of it).
OFFSET = 0.5
# Integers whose gain is within this factor of 1 and whose other noise is below this share are counts; so are
# those of a few values, in whose zeros there is no noise to be found.
COUNTS, SHARE, FEW = 1.4, 0.3, 30
# Rounding is noise of its own, which the finest details tell little of where levels are wide: most of them
# are 0. An image was rounded if it has few levels for its values, each this near to a multiple of the step.
FEW_LEVELS, EACH_MET, MANY_VALUES, NEAR_LEVEL = 256, 4, 1 << 16, 0.05
# What a detector of so many bits gives for all that is brighter.
FULL_SCALES = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))


class Noise(NamedTuple):
    """Noise whose variance at a mean m is ``gain * m + variance``: counts and a camera's or a scanner's."""

    gain: float  # image units per count
    variance: float  # image units squared

    def at(self, mean: float) -> float:
        """Standard deviation at that mean."""
        return math.sqrt(self.gain * mean + self.variance)

    def as_counts(self, level: float, largest: float) -> tuple[float, float]:
        """Gain and offset of Poisson noise that stands for it: its variance is gain * (m + offset).

        Exact where most of the noise is that of counts (Snyder et al. 1993). Elsewhere the offset is half of
        the largest value, and the variance right at `level`.
        """
        most = OFFSET * largest
        if self.gain > 0 and self.variance <= self.gain * most:
            return self.gain, self.variance / self.gain
        return self.at(level) ** 2 / (level + most), most


def noise_of(*parts: np.ndarray, seen: Sequence[np.ndarray] | None = None) -> Noise:
    """Gain and variance fitted to the finest details (second differences along every axis).

    `seen`, for each part, is False in voxels that say nothing: no detail that they are part of counts.

    A blurred image has little else in them. They are sorted by their surroundings' mean into bins; the
    variance of each is a median over groups of neighbours, so that edges do not count. `parts`: the image, or
    what is at hand of it.
    """
    parts = tuple(sample(part) for part in parts)
    known = [None] * len(parts) if seen is None else [sample(mask) for mask in seen]
    # What is filled is left out, but where too little is left: among few counts zeros are next to everything.
    for masks in (_unfilled(parts, known), known):
        looked_at = [_details(part, mask) for part, mask in zip(parts, masks, strict=True)]
        detailed = [pair for pair in looked_at if pair is not None]
        if sum(details.size for details, _ in detailed) >= 2 * GROUP:
            break
    else:
        return Noise(0.0, 0.0)
    details, means = (np.concatenate(pieces) for pieces in zip(*detailed, strict=True))
    bins = max(1, min(BINS, means.size // (8 * GROUP)))
    found = []
    for part in _equal_parts(means, bins):
        # In float32 the squares of what is far from 1 would not fit.
        squares = np.square(details[part[: len(part) // GROUP * GROUP]], dtype=np.float64)
        groups = squares.reshape(-1, GROUP).mean(axis=1)
        found.append((float(means[part].mean(dtype=np.float64)), float(np.median(groups)) / MEDIAN))
    noise = _line(np.array(found))
    values = [part.ravel() if m is None else part[m] for part, m in zip(parts, known, strict=True)]
    together = np.concatenate(values)
    if _are_counts(together, noise):
        return Noise(1.0, 0.0)
    return noise._replace(variance=noise.variance + _step(together) ** 2 / 12)  # of rounding


def _step(values: np.ndarray) -> float:
    """Between the levels that all values lie on but for the outermost, to which values may have been cut; 0
    if there are many.
    """
    some = values[:: max(1, values.size // MANY_VALUES)]
    levels = np.unique(some)
    if not 4 < levels.size <= min(FEW_LEVELS, some.size // EACH_MET):
        return 0.0
    between = np.diff(levels[1:-1].astype(np.float64))
    step = float(between.min())
    multiples = between / step
    return step if np.abs(multiples - np.rint(multiples)).max() < NEAR_LEVEL else 0.0


def _details(values: np.ndarray, seen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The finest details, and the means of their surroundings; None without an axis to differ."""
    dtype = np.result_type(values.dtype, np.float32)
    details = means = values = values.astype(dtype, copy=False)
    axes = _axes(values)
    if not axes:
        return None
    for axis in axes:
        # Neighbours in a blurred image differ so little that float32 is enough: no digit of theirs is lost.
        details = np.diff(details, 2, axis=axis)
        means = _sums_of_pairs(_sums_of_pairs(means, axis), axis)
        if seen is not None:
            seen = _all_three(seen, axis)
    details, means = (a.ravel() if seen is None else a[seen] for a in (details, means))
    return details * dtype.type(6 ** (-len(axes) / 2)), means * dtype.type(4 ** -len(axes))


def _axes(values: np.ndarray) -> list[int]:
    """Those along which there are neighbours on both sides."""
    return [axis for axis, n in enumerate(values.shape) if n >= 3]


def _unfilled(parts: Sequence[np.ndarray], known: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """`known`, but False in blocks of three voxels along every axis that a mask, padding or clipping filled.

    There is no noise in them, and edges are next to them: where they are half of the image, the noise of the
    other half would not be found. They have one value: that of most blocks without a difference. Blocks of
    other values count: an image whose object is constant, too, has no noise. But for those at a detector's
    full scale, to which what is brighter was cut.
    """
    blocks = [_blocks(part, mask) for part, mask in zip(parts, known, strict=True)]
    values = np.concatenate([middles[same] for same, middles in blocks])
    if not values.size:
        return list(known)
    fill = np.partition(values, values.size // 2)[values.size // 2]
    cut = max(
        float(part.max(initial=-math.inf, where=True if mask is None else mask))
        for part, mask in zip(parts, known, strict=True)
    )
    cut = cut if cut in FULL_SCALES else math.inf
    left: list[np.ndarray | None] = []
    for part, mask, (same, middles) in zip(parts, known, blocks, strict=True):
        filled = same & ((middles == fill) | (middles == cut))
        for axis in _axes(part):
            filled = _any_of_three(filled, axis)
        left.append(~filled if mask is None else mask & ~filled)
    return left


def _blocks(values: np.ndarray, seen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Whether all is seen and the same in the block around a voxel, and that voxel's value."""
    same = np.ones(values.shape, bool) if seen is None else seen
    for axis in _axes(values):
        a = np.moveaxis(values, axis, 0)
        alike = (a[:-2] == a[1:-1]) & (a[1:-1] == a[2:])
        same = _all_three(same, axis) & np.moveaxis(alike, 0, axis)
        values = np.moveaxis(a[1:-1], 0, axis)
    return same, values


def _all_three(mask: np.ndarray, axis: int) -> np.ndarray:
    """Where the mask and both neighbours along the axis are True; without the first and the last."""
    a = np.moveaxis(mask, axis, 0)
    return np.moveaxis(a[:-2] & a[1:-1] & a[2:], 0, axis)


def _any_of_three(mask: np.ndarray, axis: int) -> np.ndarray:
    """Where the mask or a neighbour along the axis is True; with one more at both ends."""
    a = np.moveaxis(mask, axis, 0)
    grown = np.zeros((len(a) + 2, *a.shape[1:]), bool)
    for k in range(3):
        grown[k : k + len(a)] |= a
    return np.moveaxis(grown, 0, axis)


def _sums_of_pairs(values: np.ndarray, axis: int) -> np.ndarray:
    """Of neighbours along the axis."""
    a = np.moveaxis(values, axis, 0)
    return np.moveaxis(a[:-1] + a[1:], 0, axis)


def _equal_parts(values: np.ndarray, parts: int) -> list[np.ndarray]:
    """Where the smallest values are, those that follow, and so on; each part in the order of the array."""
    # NumPy sorts 16 bits by radix: by the lower bits and then by the upper ones, in a fourth of the time that
    # a stable sort of floats takes. Their bits are in order but for those below zero, which are reversed.
    unit = max(values.max(), -values.min()) or 1
    bits = (values / unit + 0.0).astype(np.float32).view(np.int32)  # no -0.0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    order = order[np.argsort((bits >> 16).astype(np.int16)[order], kind="stable")]
    sorted_parts = np.array_split(order, parts)
    number = np.empty(values.size, np.uint8)
    for i, part in enumerate(sorted_parts):
        number[part] = i
    return np.split(np.argsort(number, kind="stable"), np.cumsum([part.size for part in sorted_parts])[:-1])


def _line(found: np.ndarray) -> Noise:
    """Gain and variance, neither negative, of (mean, variance) pairs, all with the same relative error."""
    means, variances = np.maximum(found[:, 0], 0), found[:, 1]
    if variances.max() == 0:
        return Noise(0.0, 0.0)
    # Both columns are 1 at most: whether they are told apart is no matter of the image's unit.
    unit = float(means.max()) or 1.0
    trust = 1 / np.maximum(variances, 1e-3 * variances.max())
    columns, wanted = np.stack([means / unit, np.ones_like(means)], axis=1), variances * trust
    columns *= (trust * variances.max())[:, None]
    best, least = np.array([0.0, float(np.median(variances)) / variances.max()]), math.inf
    for used in ([0, 1], [0], [1]):
        fitted = np.zeros(2)
        fitted[used], _, rank, _ = np.linalg.lstsq(columns[:, used], wanted, rcond=None)
        misfit = float(np.abs(columns @ fitted - wanted).sum())
        # Of several that fit all values, one bin above all, the first: the noise of counts before another.
        better = misfit < least * (1 - 1e-9) - 1e-9
        if rank == len(used) and (fitted >= 0).all() and better:
            best, least = fitted, misfit
    return Noise(float(best[0] * variances.max() / unit), float(best[1] * variances.max()))


def _are_counts(values: np.ndarray, noise: Noise) -> bool:
    if not np.array_equal(values, np.rint(values)):
        return False
    lowest, highest = float(values.min()), float(values.max())
    few = lowest >= 0 and 0 < highest - lowest <= FEW
    poisson = 1 / COUNTS < noise.gain < COUNTS and noise.variance < SHARE * noise.gain * values.mean()
    return few or bool(poisson)


def sample(image: np.ndarray, axis: int = 0) -> Any:
    """The image, or slabs of it: at least so many that some of them meet the object, cut again if need be."""
    if image.size <= SAMPLE or axis == image.ndim:
        return image
    n = image.shape[axis]
    if n <= 2 * SLAB:
        return sample(image, axis + 1)
    slabs, goes_on = SAMPLE // (image.size // n * SLAB), axis + 1 < image.ndim
    count = max(slabs, FEWEST if goes_on else 1)
    starts = np.linspace(0, n - SLAB, count).astype(int)
    part = image.take(np.unique(starts[:, None] + np.arange(SLAB)), axis)
    return sample(part, axis + 1) if slabs < FEWEST else part
