"""Choice of a weight by generalised cross-validation, from sums over the spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _device
from ..stop import noise_level
from ._noise import sample

# Exponents of ten of the weight that are searched, and how finely.
SEARCH = np.arange(-12.0, 6.01, 0.5)
SEARCH_TOLERANCE = 0.01
# Scores that differ by less than this share of their size, or by some units of the dtype, are the same.
SAME, ULPS = 1e-9, 8


# Where noise is not white the score has its minimum at almost no weight, and the result is amplified noise:
# tens to thousands of times the image's standard deviation, down to its finest details. What else a blur may
# have flattened stays below one of the two: a texture below the first (5 to 8 times), points on a flat
# background below the second.
AMPLIFIED, DETAILS = 10.0, 1.0
# The weight is then raised until the finest details are below this share: with correlated noise mostly within
# 2 dB of the best weight. White noise ends at 0.04 at most, on scenes with edges.
QUIET = 0.02


# Where the score has no minimum but falls to the end, or has one where float32 rounds as much as the weight
# holds back (in units of the largest |H|²), there is no white noise that would have made one, and the weight
# holds nothing back: neither other noise nor, without any, the error of what continues the image. Where
# nearly all values, of the whole result or along a side, spread by so much more than the image's, these are
# taken to be the cause: edges that get sharp spread them by less, and points on a background narrow them. Of
# textures no more than `OUTGROWN` is known, whatever the weight is.
TINY, GROWN, OUTGROWN, NEARLY_ALL = 1e-10, 1.5, 20.0, (0.05, 0.95)


def is_amplified_noise(result: Any, image: np.ndarray, psf_sum: float) -> bool:
    """Whether a result is nothing but its image's noise, amplified."""
    spread = float(sample(image).std(dtype=np.float64)) / psf_sum
    part = sample(_device.host(result))
    return float(part.std(dtype=np.float64)) > AMPLIFIED * spread and noise_level(part) > DETAILS * spread


class Growth:
    """By how much nearly all values of a result spread wider than its image's, or along a side, if more.

    `reach`: how wide a side is, along each axis. Where the image itself spreads wider along a side than
    elsewhere, the result is compared with that.
    """

    def __init__(self, image: np.ndarray, psf_sum: float, reach: Sequence[int]) -> None:
        self._unit = psf_sum
        self._sides = [
            (axis, side)
            for axis, width in enumerate(reach)
            if 0 < 2 * width < image.shape[axis]
            for side in (slice(width), slice(-width, None))
        ]
        whole, *sides = self._spreads(image)
        least = max(whole, float(sample(image).std(dtype=np.float64)))
        self._before = [least, *(max(least, side) for side in sides)]

    def _spreads(self, values: np.ndarray) -> list[float]:
        parts = [values, *(np.moveaxis(values, axis, 0)[side] for axis, side in self._sides)]
        return [float(np.diff(np.quantile(sample(part), NEARLY_ALL))[0]) for part in parts]

    def of(self, result: Any) -> float:
        if self._before[0] == 0:
            return 0.0
        after = self._spreads(_device.host(result))
        return max(a / b for a, b in zip(after, self._before, strict=True)) * self._unit


def is_quiet(result: Any, image: np.ndarray, psf_sum: float) -> bool:
    """Whether the finest details of a result are small beside its image."""
    spread = float(sample(image).std(dtype=np.float64)) / psf_sum
    return noise_level(sample(_device.host(result))) <= QUIET * spread


def window(length: int) -> np.ndarray:
    """Hann's."""
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2


def windowed(data: np.ndarray) -> np.ndarray:
    """The image less its weighted mean, under a Hann window along every axis."""
    windows = [window(n) for n in data.shape]
    mean = data
    for line in reversed(windows):  # einsum widens block by block: no float64 copy of the volume
        mean = np.einsum("...i,i->...", mean, line / line.sum(), dtype=np.float64)
    result = data - data.dtype.type(mean)
    for axis, line in enumerate(windows):
        result *= line.astype(data.dtype).reshape([-1 if a == axis else 1 for a in range(data.ndim)])
    return result


def search(
    plan: Any, under_window: Any, otf: Any, penalty: Any, num_threads: int | None, *, unit: float = 1.0
) -> tuple[float, float, bool, bool]:
    """Exponent of the weight (in multiples of `unit`) with the smallest score of cross-validation.

    `under_window`: the image, `windowed`. See `minimise`; the last of the four says that all scores are the
    same, as where |R|^2 is a multiple of |H|^2. The smallest weight then, which leaves the most of the image.
    """
    total = math.prod(plan.grid)

    def scores(exponents: np.ndarray) -> np.ndarray:
        top, bottom = plan.gcv(under_window, otf, penalty, unit * 10.0**exponents, num_threads)
        values = np.full(len(exponents), np.inf)
        np.divide(total * top, bottom**2, out=values, where=bottom > 0)
        return values

    coarse = scores(SEARCH)
    if is_flat(coarse, float(np.abs(coarse).max()), under_window.dtype):
        return float(SEARCH[0]), float(coarse[0]), True, True
    return *minimise(scores, coarse), False


def is_flat(coarse: np.ndarray, size: float, dtype: Any) -> bool:
    """Whether what tells these scores, of that size, from each other is rounding in the dtype."""
    if not np.isfinite(coarse).all():
        return False
    return float(np.ptp(coarse)) <= max(SAME, ULPS * float(np.finfo(dtype).eps)) * size


def noise_variance(
    plan: Any, under_window: Any, otf: Any, penalty: Any, weight: float, num_threads: int | None
) -> float:
    """Of white noise, from what a weight leaves of the image: sum(g^2 |Y|^2) / sum(g) per value.

    `under_window`: the image, `windowed`.

    G. Wahba, J. R. Stat. Soc. B 45, 133 (1983).
    """
    top, bottom = plan.gcv(under_window, otf, penalty, np.array([weight]), num_threads)
    energy = math.prod(float(np.square(window(n)).sum()) for n in under_window.shape)
    return float(top[0] / (bottom[0] * energy)) if bottom[0] > 0 else 0.0


def minimise(
    scores: Callable[[np.ndarray], np.ndarray], coarse: np.ndarray | None = None
) -> tuple[float, float, bool]:
    """Exponent with the smallest score, that score, and whether it lies at the end of the searched range.

    `coarse`: the scores of `SEARCH`, where they are known.
    """
    coarse = scores(SEARCH) if coarse is None else coarse
    best = int(np.argmin(coarse))
    if best in (0, len(SEARCH) - 1):
        return float(SEARCH[best]), float(coarse[best]), True
    low, high = float(SEARCH[best - 1]), float(SEARCH[best + 1])
    # Golden section: each step asks for one new score and shrinks the bracket by 0.618.
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = scores(np.array([left, right]))
    while high - low > SEARCH_TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = scores(np.array([left]))[0]
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = scores(np.array([right]))[0]
    return (left, float(at_left), False) if at_left <= at_right else (right, float(at_right), False)
