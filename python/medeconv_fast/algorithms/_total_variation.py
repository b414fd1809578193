"""The proximal map of the total variation: denoising, the inner problem of algorithms with that prior.

Plain NumPy, slab by slab, so that what an iteration touches stays in cache, on as many threads as there are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SLAB = 1 << 17  # voxels; 6 arrays of that size are in use. Shorter ones leave threads waiting for the GIL.


class Denoiser:
    """The minimiser of 1/2 |x - z|^2 + weight * sum(|grad x|), not below `lowest`, by its dual problem.

    The fast gradient projection of A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419 (2009). The
    dual variables, one vector of length at most 1 per voxel, are kept from call to call: an outer iteration
    changes z little. `steepness` is what differences along each axis are multiplied by.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        weight: float,
        steepness: tuple[float, ...],
        *,
        lowest: float | None,
        num_threads: int,
    ) -> None:
        self._weight, self._lowest, self._threads = weight, lowest, num_threads
        self._axes = [axis for axis, n in enumerate(shape) if n > 1]
        self._steepness = [steepness[axis] for axis in self._axes]
        self._dual = [np.zeros(shape, dtype) for _ in self._axes]
        self._ahead = [np.empty(shape, dtype) for _ in self._axes]
        rows = max(1, SLAB // math.prod(shape[1:]))
        self._slabs = [(a, min(a + rows, shape[0])) for a in range(0, shape[0], rows)]

    @property
    def nbytes(self) -> int:
        return sum(2 * a.nbytes for a in self._dual)

    def __call__(self, z: np.ndarray, *, iterations: int) -> np.ndarray:
        """The denoised array, a new one."""
        x = np.empty_like(z)
        if not self._axes:
            return z.copy() if self._lowest is None else np.maximum(z, self._lowest)
        for ahead, dual in zip(self._ahead, self._dual, strict=True):
            np.copyto(ahead, dual)
        # The dual gradient's Lipschitz constant: that of the differences, 4 per axis, times weight^2.
        step = 1 / (4 * sum(s * s for s in self._steepness) * self._weight)
        t = 1.0
        with ThreadPoolExecutor(self._threads) as pool:  # starts threads when it gets work
            in_turn = pool.map if min(self._threads, len(self._slabs)) > 1 else map

            def each_slab(work: Callable[..., None], *arguments: Any) -> None:
                for _ in in_turn(functools.partial(work, *arguments), self._slabs):
                    pass

            for _ in range(iterations):
                t_before, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
                each_slab(self._primal, z, x, self._ahead)
                each_slab(self._ascend, x, step, (t_before - 1) / t)
            each_slab(self._primal, z, x, self._dual)
        return x

    def _primal(self, z: np.ndarray, x: np.ndarray, dual: list[np.ndarray], slab: tuple[int, int]) -> None:
        """A slab of x = z + weight div(dual), not below the lowest."""
        a, b = slab
        rows = x[a:b]
        np.copyto(rows, z[a:b])
        for axis, steepness, vector in zip(self._axes, self._steepness, dual, strict=True):
            first = max(a - 1, 0) if axis == 0 else a
            flow = vector[first:b] * vector.dtype.type(self._weight * steepness)
            rows += flow[a - first :]
            if axis == 0:
                rows[1 if a == 0 else 0 :] -= flow[:-1]
            else:
                later = np.moveaxis(rows, axis, 0)[1:]
                later -= np.moveaxis(flow, axis, 0)[:-1]
        if self._lowest is not None:
            np.maximum(rows, rows.dtype.type(self._lowest), out=rows)

    def _ascend(self, x: np.ndarray, step: float, momentum: float, slab: tuple[int, int]) -> None:
        """A slab of the dual: a step along the gradient of x, projected, and the point ahead of it."""
        a, b = slab
        vectors = [ahead[a:b] for ahead in self._ahead]
        square: np.ndarray | None = None
        for axis, steepness, vector in zip(self._axes, self._steepness, vectors, strict=True):
            if axis == 0:
                inner = x[a : min(b + 1, len(x))]
                gradient = inner[1:] - inner[:-1]
                gradient *= gradient.dtype.type(step * steepness)
                vector[: len(gradient)] += gradient
            else:
                lines = np.moveaxis(x[a:b], axis, 0)
                gradient = lines[1:] - lines[:-1]
                gradient *= gradient.dtype.type(step * steepness)
                inner = np.moveaxis(vector, axis, 0)[:-1]
                inner += gradient
            square = vector * vector if square is None else square + vector * vector
        assert square is not None
        length = np.maximum(np.sqrt(square, out=square), 1, out=square)
        for vector, dual in zip(vectors, self._dual, strict=True):
            vector /= length
            change = vector - dual[a:b]
            np.copyto(dual[a:b], vector)
            change *= change.dtype.type(momentum)
            vector += change
