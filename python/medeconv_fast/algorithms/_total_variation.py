"""The proximal map of the total variation: denoising, the inner problem of algorithms with that prior."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from .. import _device


class Denoiser:
    """The minimiser of 1/2 |x - z|^2 + weight * sum(|grad x|), not below `lowest`, by its dual problem.

    The fast gradient projection of A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419 (2009). The
    dual variables, one vector of length at most 1 per voxel, are kept from call to call: an outer iteration
    changes z little. `steepness` is what differences along each axis are multiplied by. `like` has shape and
    dtype, and lies where the work is to be done.
    """

    def __init__(
        self,
        like: Any,
        weight: float,
        steepness: tuple[float, ...],
        *,
        lowest: float | None,
        backend: ModuleType,
        num_threads: int | None,
    ) -> None:
        self._backend, self._threads = backend, num_threads
        self._lowest = -math.inf if lowest is None else lowest
        long = [n > 1 for n in like.shape]
        squares = sum(s * s for s, counts in zip(steepness, long, strict=True) if counts)
        if squares:
            # The dual gradient's Lipschitz constant: that of the differences, 4 per axis, times weight^2.
            self._step = tuple(s / (4 * squares * weight) for s in steepness)
            self._weight = tuple(weight * s for s in steepness)
        components = (sum(long), *like.shape)
        self._dual, self._ahead = (_device.full_beside(like, components, 0.0) for _ in range(2))

    @property
    def nbytes(self) -> int:
        """With the values that a step makes for itself, which are at most an image."""
        own = self._dual.nbytes + self._ahead.nbytes
        return int(own + own // (2 * max(len(self._dual), 1)))

    def __call__(self, z: Any, *, iterations: int) -> Any:
        """The denoised array, a new one."""
        if not self._dual.size:  # one voxel has no differences
            return np.maximum(z, z.dtype.type(self._lowest))
        t = 1.0
        for number in range(1, iterations + 1):
            t_before, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
            # After the last one, ahead is where the dual is: the next call begins there.
            momentum = (t_before - 1) / t if number < iterations else 0.0
            self._backend.denoise_step(
                z,
                self._ahead,
                self._dual,
                self._weight,
                self._step,
                momentum,
                self._lowest,
                num_threads=self._threads,
            )
        x = _device.maker_beside(z, self._backend)(z.shape, z.dtype)
        self._backend.denoised(z, self._dual, x, self._weight, self._lowest, num_threads=self._threads)
        return x
