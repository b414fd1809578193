"""The cost model: how long an engine takes for one application of H. The one place with its constants.

All constants are nanoseconds of two threads on two cores of an AMD EPYC Zen 4 with AVX-512, float32, fitted to
benchmarks/planner.py (Richardson-Lucy sweeps, periodic and extended). The choice of an engine depends on shape,
PSF, dtype, boundary and instruction set only; the number of threads scales what is shown, never the choice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

MACHINE = "AMD EPYC Zen 4, 2 cores, AVX-512"

# Per call: Python, waking the threads.
CALL = {"spectral": 9e3, "line": 9e3, "separable": 9e3, "direct": 9e3}
SPECTRAL, SPECTRAL_PER_BIT = 0.0, 0.047  # per point of the grid; times log2 of the grid's size
SPECTRAL_BITS = 16  # at least: smaller grids are not cheaper
LINE, LINE_PER_BIT = 0.2, 0.03  # per voxel of a line; times log2 of its segments
SEPARABLE, SEPARABLE_PER_TAP = 0.3, 0.0225  # per voxel
DIRECT, DIRECT_PER_PRODUCT = 0.375, 0.0092
PAIRS = 1.33  # factor of a product of a sum: its loads take longer than itself
DOUBLE = 2.0  # float64 takes this much longer: twice the bytes, half the lanes
# An instruction set with narrower vectors, relative to AVX-512.
ISA = {"avx512": 1.0, "avx2": 1.4, "neon": 2.5, "baseline": 2.5}


class Taps(NamedTuple):
    """What the cost depends on of a PSF."""

    shape: tuple[int, ...]
    left: tuple[int, ...]  # after symmetric taps were added in pairs (direct engine)
    product: bool  # of one filter per axis


def predicted_ns(taps: Taps, grid: tuple[int, ...], voxels: int, line: bool = False) -> dict[str, float]:
    """Of each engine that applies: one application to `voxels` voxels, or to a transform's `grid`."""
    points = math.prod(grid)
    if line:
        bits = math.log2(max(64, 4 * math.prod(taps.shape)))
        spectral = CALL["line"] + (LINE + LINE_PER_BIT * bits) * voxels
    else:
        bits = max(math.log2(points), SPECTRAL_BITS)
        spectral = CALL["spectral"] + (SPECTRAL + SPECTRAL_PER_BIT * bits) * points
    product = DIRECT_PER_PRODUCT * (PAIRS if taps.left[-1] < taps.shape[-1] else 1)
    costs = {
        "spectral": spectral,
        "direct": CALL["direct"] + (DIRECT + product * math.prod(taps.left)) * voxels,
    }
    if taps.product:
        costs["separable"] = CALL["separable"] + (SEPARABLE + SEPARABLE_PER_TAP * sum(taps.shape)) * voxels
    return costs


def milliseconds(ns: float, *, dtype: Any = np.float32, isa: str | None = None, threads: int = 2) -> float:
    """What `predicted_ns` means for a dtype, an instruction set and a number of threads."""
    # The cores share the memory: two are 1.75 times as fast as one.
    speed = threads**0.8 / 2**0.8
    double = DOUBLE if np.dtype(dtype) == np.float64 else 1.0
    return ns * 1e-6 * double * ISA.get(isa or "avx512", 1.0) / speed
