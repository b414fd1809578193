"""What the border asks of a filter's weight, where most of a small image lies near it.

Cross-validation sees the noise. How an image goes on beyond its border it cannot see: the continuation is
fitted as well as the image, and is wrong all the same. Near the border that is an error like noise, which a
larger weight suppresses. It is found by simulation (a parametric bootstrap, Efron and Tibshirani 1993): the
restored image, taken for the truth, is blurred, given as much noise as was found, cut along its border, and
restored with several weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from .. import _device
from .._grid import radius_of
from . import _cross_validation
from ._filters import FilterCall

# Part of the PSF's mass, beyond which it reaches too weakly to matter.
MASS = 0.98
# Part of the voxels within that reach of the border. With fewer, what the simulation says of the noise (its
# truth is too smooth: weights come out about twice as large) outweighs what it says of the border.
SHARE = 0.4
# Unless the weight is below this (in units of the largest |H|²) and the factor above that: with so little
# noise next to all of the error is the border's, and reaches far inside.
LITTLE, LARGE = 1e-4, 10.0
# Where that error has grown out of the image, the truth of the simulation would be nothing else: it is
# restored with a weight so many times as large.
SMOOTHER = 30.0
MOST_CUT = 6  # at most this part of an axis on each side
STEP = 0.25
EXPONENTS = np.arange(-0.5, 1.76, STEP)  # of ten, about the weight of cross-validation
MOST_EXPONENT = 5.0
DRAWS = 2

_inside: ContextVar[bool] = ContextVar("inside", default=False)


@contextmanager
def no_border() -> Iterator[None]:
    """Inside, images are parts of larger ones: what holds near their border does not hold for these."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def reach(psf: np.ndarray) -> tuple[int, ...]:
    """Per axis, as far from its centre as the PSF has `MASS` of its mass."""
    return radius_of(psf, (1 - MASS) * float(np.abs(psf).sum(dtype=np.float64)))


def factor(
    call: FilterCall,
    data: Any,
    under_window: Any,
    otf: Any,
    penalty: np.ndarray,
    centre: tuple[int, ...] | None,
    penalty_transfer: Any,
    weight: float,
    *,
    always: bool = False,
    grown: bool = False,
) -> float:
    """By how much the border raises the weight that cross-validation has found; 1 where it has no say.

    `always`: whatever the weight, also where few voxels lie near it. `grown`: with the weight that was found
    the result has outgrown the image.
    """
    shape = data.shape
    near = reach(call.psf)
    inner = math.prod(max(0, n - 2 * r) / n for n, r in zip(shape, near, strict=True) if n > 1)
    near_all = always or 1 - inner > SHARE
    if call.boundary == "wrap" or _inside.get() or weight == 0:
        return 1.0
    little = weight < LITTLE * call.psf_sum**2
    if not (near_all or little):
        return 1.0
    cut = [min(r, n // MOST_CUT) for n, r in zip(shape, near, strict=True)]
    kept = tuple(slice(c, n - c) for c, n in zip(cut, shape, strict=True))
    if max(cut) == 0:
        return 1.0

    of_truth = weight * (SMOOTHER if grown and little else 1)
    truth = call.apply(call.plan.wiener_transfer(otf, penalty_transfer, of_truth), data)
    blurred = _device.host(call.apply(otf, truth))
    truth = _device.host(truth)[kept].astype(np.float64)
    variance = _cross_validation.noise_variance(
        call.plan, under_window, otf, penalty_transfer, weight, call.num_threads
    )
    random = np.random.default_rng(0)
    draws = [
        np.ascontiguousarray(
            (blurred + math.sqrt(variance) * random.standard_normal(shape)).astype(data.dtype)[kept]
        )
        for _ in range(DRAWS)
    ]
    # An error counts by how many voxels of the whole image are as far from the border as it is.
    most = max(2, min(max(cut), min(n for n in truth.shape if n > 1) // 4))
    distances = _distance(truth.shape, most)
    of_whole, of_part = (
        np.bincount(of.ravel(), minlength=most + 1) for of in (_distance(shape, most), distances)
    )
    per_voxel = (of_whole / np.maximum(of_part, 1))[distances]

    part = call.like(draws[0])
    part_otf, part_penalty = part.transfer(part.psf), part.transfer(penalty, centre)

    def error(exponent: float) -> float:
        transfer = part.plan.wiener_transfer(part_otf, part_penalty, weight * 10.0**exponent)
        found = (_device.host(part.apply(transfer, draw)) - truth for draw in draws)
        return sum(float((per_voxel * np.square(each)).sum()) for each in found)

    exponents = list(EXPONENTS)
    errors = [error(e) for e in exponents]
    # Where the noise is low next to all of the error is the border's: the smallest is farther away.
    while int(np.argmin(errors)) == len(errors) - 1 and exponents[-1] < MOST_EXPONENT:
        exponents.append(exponents[-1] + STEP)
        errors.append(error(exponents[-1]))
    best = int(np.argmin(errors))
    if best in (0, len(errors) - 1):
        return 1.0  # no smallest error was found
    before, least, after = errors[best - 1 : best + 2]
    exponent = exponents[best] + STEP * (before - after) / (2 * (before - 2 * least + after))
    raised = float(10.0**exponent)
    return raised if raised >= (1 if near_all else LARGE) else 1.0


def _distance(shape: tuple[int, ...], most: int) -> np.ndarray:
    """Of each voxel from the border, `most` at most; axes of one voxel have none."""
    distances = np.full(shape, most)
    for axis, n in enumerate(shape):
        if n > 1:
            line = np.minimum(np.arange(n), np.arange(n)[::-1])
            distances = np.minimum(
                distances, line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            )
    return distances
