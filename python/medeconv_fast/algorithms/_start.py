"""What Richardson-Lucy and its blind form do before the first iteration: counts, first estimate, gain."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from .. import _device, _validate
from .._blur import Blur, Operator
from . import _back_projectors as unmatched
from . import _options
from ._iteration import Model

# Below this share of the largest possible normalizer a voxel is hardly seen by the image: its corrections are
# noise divided by almost nothing, so it keeps its initial value.
SMALLEST_NORMALIZER = 0.01
SMALLEST_THRESHOLD = 1e-14  # of damping; below it nothing is damped, and its square still fits float32
NEGATIVE = ("raise", "clip", "shift")
LARGEST_RATIO = {"float32": 3e3, "float64": 1e8}  # times the rounding of transforms: 3e-4 and 1e-8
INITIAL = ("flat", "image")


class Counts(NamedTuple):
    """An image as the model takes it."""

    image: np.ndarray  # not negative; with the readout variance
    measured: np.ndarray  # without it: what the first estimate is made of
    offset: float  # in both
    clipped: int  # how many values were set to the smallest possible


def counts_of(
    data: np.ndarray, lowest: float, negative: str, readout: float | np.ndarray | None = None
) -> Counts:
    """Values that the readout variance lifts to zero or above are no problem; `negative` is for others."""
    image = data if readout is None else data + readout
    if lowest >= 0 or (readout is not None and float(image.min()) >= 0):
        return Counts(image, data, 0.0, 0)
    count = int((image < 0).sum())
    if negative == "raise":
        raise ValueError(
            f"image: {count} of {data.size} values are negative, the smallest {lowest:g}; Richardson-Lucy "
            "expects none below 0. negative='clip' sets them to zero (noise around an offset), "
            "negative='shift' restores image - image.min() and shifts back (signed scales such as CT "
            "numbers)"
        )
    if negative == "clip":
        clipped = np.maximum(image, 0)
        return Counts(clipped, clipped if readout is None else data, 0.0, count)
    shifted = data - data.dtype.type(lowest)
    return Counts(shifted if readout is None else shifted + readout, shifted, -lowest, 0)


def level_of(
    data: np.ndarray, weights: np.ndarray | None, background: float, total: float | None = None
) -> float:
    """Weighted mean above the background; of what rises above it where the mean does not.

    `total`: see `weighted_mean`.
    """
    level = _options.weighted_mean(data, weights, total) - background
    if level <= 0:
        level = _options.weighted_mean(np.maximum(data - data.dtype.type(background), 0), weights)
    return level


def first_estimate(
    initial: Any, data: np.ndarray, level: float, offset: float, blur: Blur
) -> tuple[np.ndarray | None, float | None]:
    """A new array of the estimate's shape, and the level of a flat one; None if the estimate must be zero.

    `level`: see `level_of`.
    """
    if level == 0:
        return None, 0.0
    if isinstance(initial, str) and initial == "flat":
        level /= blur.psf_sum
        return _device.full_beside(data, blur.estimate_shape, level), level
    if isinstance(initial, str):
        first = np.maximum(data, 0)  # below zero with a readout variance only
    else:
        first = _options.initial_array(initial, blur, data)
        if offset:
            first = first + first.dtype.type(offset / blur.psf_sum)
        lowest, highest = float(first.min()), float(first.max())
        _validate.non_negative(first, "initial", lowest)
        if highest == 0:
            raise ValueError("initial: all values are zero and would stay so, expected positive ones")
    return _options.framed(first, blur), None


def gain_of(
    blur: Blur,
    operator: Operator,
    data: np.ndarray,
    weights: np.ndarray | None,
    *,
    matched: bool,
    largest_weight: float | None = None,
) -> np.ndarray | None:
    """1 / normalizer, 0 where the estimate is to keep its initial value; None if it is 1 everywhere.

    Those are voxels that the image says next to nothing of: with a bound in place of a small divisor they
    would be drawn towards 0, and the border inside would rise for it. It lies where `data` does.
    `largest_weight`: of the whole image, where this is a part of it.
    """
    if matched and blur.boundary == "wrap" and weights is None and blur.psf_sum == 1:
        return None
    trust = _device.full_beside(data, blur.shape, 1.0) if weights is None else weights
    gain = operator.apply(trust, adjoint=True)
    if matched:
        if largest_weight is None:
            largest_weight = 1.0 if weights is None else float(weights.max())
        bound = SMALLEST_NORMALIZER * (blur.psf_sum * largest_weight)
    else:
        bound = unmatched.SMALLEST_DIVISOR * float(gain.max())
    smallest = gain.dtype.type(bound)
    seen = gain >= smallest
    return np.divide(seen, np.maximum(gain, smallest, out=gain), out=gain)


def out_of_reach(
    model: Model, estimate: np.ndarray, blur: Blur, operator: Operator, *, initial: str | None
) -> int:
    """Voxels that an estimate explains so badly that their ratios leave transforms no digits for the others.

    An estimate that is 0 in parts stays so, and what lies beyond the reach of the rest has ratios of a
    million. In exact arithmetic they count where the PSF still reaches, and nowhere else. `initial`: what the
    estimate is, if it has a name: there are PSFs with which "flat" and "image" reach all.
    """
    if operator.engine != "spectral":
        return 0
    largest = LARGEST_RATIO[model.image.dtype.name]
    if initial is not None and least_explained(blur, initial) * largest > 1:
        return 0
    explained = _device.host(operator.apply(estimate)) + model.image.dtype.type(model.background)
    if model.partial is not None:
        explained += _device.host(model.partial)
    light = _device.host(model.image)
    beyond = (explained < explained.max() / largest) & (light > largest * explained)
    if model.weights is not None:
        beyond &= _device.host(model.weights) > 0
    return int(np.count_nonzero(beyond))


def note_of_reach(engine: str, beyond: int) -> str:
    """What is to be said of voxels out of reach when that engine goes on."""
    start = f"engine: {engine!r}; the first estimate explains nearly nothing of the light of {beyond} voxels"
    if engine == "spectral":
        return f"{start}, whose ratios take digits of all others in transforms; engine='direct' sums"
    return f"{start}, whose ratios would take the digits of all others in transforms"


def least_explained(blur: Blur, initial: str) -> float:
    """How well an estimate with that name explains the voxel that it explains worst, 1 being as well as any.

    A voxel of the image is explained by itself, by the PSF's centre. A flat estimate lacks what lies outside
    the image where that ends there: the worst voxel is in a corner, unless the PSF is longer than the image,
    where it may be anywhere.
    """
    psf = blur.psf
    if initial == "image":
        return float(psf[tuple(n // 2 for n in psf.shape)] / psf.max())
    if blur.boundary != "zero":
        return 1.0
    if any(k > n for n, k in zip(blur.shape, psf.shape, strict=True)):
        return 0.0
    halves = [(slice(n // 2 + 1), slice(n // 2, None)) for n in psf.shape]
    shares = [float(np.abs(psf[corner]).sum(dtype=np.float64)) for corner in itertools.product(*halves)]
    return min(shares) / float(np.abs(psf).sum(dtype=np.float64))


def sharpness(threshold: float | np.ndarray, data: np.ndarray) -> np.ndarray:
    """2 / threshold², as the formula takes it; where the threshold is 0 nothing is damped."""
    wide = np.broadcast_to(
        np.asarray(threshold if isinstance(threshold, float) else _device.host(threshold), np.float64),
        data.shape,
    )
    made: np.ndarray = _device.beside(
        data, (2 / np.maximum(wide, SMALLEST_THRESHOLD) ** 2).astype(data.dtype)
    )
    return made
