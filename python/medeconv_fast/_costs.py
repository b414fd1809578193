"""The cost model: how long an engine takes for one application of H. The one place with its constants.

All constants are nanoseconds of two threads on two cores of an AMD EPYC Zen 4 with AVX-512, float32, fitted
to benchmarks/planner.py (Richardson-Lucy sweeps, periodic and extended). The choice of an engine depends on
shape, PSF and boundary only; dtype, instruction set and threads scale the times that are shown, all engines'
alike, and never change the choice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

MACHINE = "AMD EPYC Zen 4, 2 cores, AVX-512"

# Of a call on a line, an image, a volume: Python, and waking the threads.
CALL = {
    "spectral": (3.3e3, 3.3e3, 3.3e3),
    "separable": (3.3e3, 3.7e3, 4.2e3),
    "direct": (3.3e3, 4.5e3, 4.5e3),
}
# Of a row of an image and of a volume, beside what its voxels take.
ROW = {"spectral": (0.0, 0.0, 8.0), "separable": (0.0, 0.0, 17.5), "direct": (0.0, 6.0, 20.0)}
# What memory alone takes per voxel where nothing fits the caches, that is, from 2^20 voxels on; nothing up to
# 2^18. It partly hides behind arithmetic: the two are added as if at right angles.
MEMORY = {"spectral": (0.7, 0.7, 0.7), "separable": (2.0, 0.68, 0.51), "direct": (0.55, 0.55, 0.55)}
WARM, COLD = 18, 20

SPECTRAL_PER_BIT = 0.045  # per point of the grid, times log2 of the grid's size
ODD_FACTOR = 1.2  # a bit of a factor 3, 5 or 7 takes this much longer
# Bits that a prime from 11 to 31 takes, over the prime; and those of a length with a larger one, over log2 of
# twice that: two transforms of more than that. Fitted to what is faster, cosines or padding (Zen 5).
GENERIC, BLUESTEIN = 0.5, 2.6
LANES = 16  # rows of a volume's spectrum are filled up to a multiple of this; mirrored, to one of twice it
MIRRORED = 1.4  # cosine transforms: their spectrum is paired up, and the transfer function twice as large
# Of a padded estimate, for the call and per voxel: padding it; folding what comes back, the formula alone.
PAD, FOLD = (3.3e3, 0.24), (9.9e3, 0.4)
LINE, LINE_OF_FEW = 0.68, 1.27  # per voxel of a line: in overlapping segments
FEW_TAPS = 4  # segments are short up to here

# Per voxel, and per tap: of a line, an image, a volume.
SEPARABLE = ((0.44, 0.028), (0.3, 0.0115), (0.27, 0.0101))
DIRECT = ((0.45, 0.0165), (0.24, 0.0101), (0.24, 0.0101))
# Of a product of a network's convolution: to one channel of a group, to many.
LAYER = {True: 0.0085, False: 0.0058}
# The same through transforms, per pair of channels: the call, and the transfer function of a kernel and of an
# image in applications.
PAIR, TRANSFER = 40e3, {"kernel": 1.2, "image": 2.6}
PAIRS = (1.9, 1.1, 1.33)  # factor of a product of a sum: its loads take longer than itself
DOUBLE = 2.0  # float64 takes this much longer: twice the bytes, half the lanes

# The same for backend "cuda": nanoseconds of an H200, float32, fitted to Richardson-Lucy iterations. How many
# kernels an application is, of a line, an image, a volume; and what one takes that has little to do.
GPU = "NVIDIA H200"
GPU_KERNELS = {"spectral": (1, 2, 4), "separable": (1, 1, 2), "direct": (1, 1, 1)}
GPU_KERNEL = {"spectral": 5e3, "separable": 9e3, "direct": 8e3}
GPU_SPECTRAL = (0.0134, 0.0105, 0.0135)  # per point of the grid
# Lengths that all kernels are compiled for, and those that the rows' are; how much longer it takes where the
# last axis alone is one of them, and where it is none.
GPU_FIXED, GPU_ROWS = (256, 512, 1024), (288, 320, 384, 576, 640, 768)
GPU_ROW, GPU_ANY = 1.15, 1.35
GPU_SEPARABLE = ((0.0028, 0.0002), (0.0028, 0.0002), (0.0052, 0.00008))  # per voxel, and per tap
GPU_DIRECT = ((0.0066, 0.0001), (0.0066, 0.0001), (0.0085, 0.00005))
GPU_TAP = 87.0  # a block's way through the taps, where there are few blocks
GPU_FOLD = 0.002  # per voxel of a padded estimate
# An instruction set with narrower vectors, relative to AVX-512.
ISA = {"avx512": 1.0, "avx2": 1.4, "neon": 2.5, "baseline": 2.5}


class Taps(NamedTuple):
    """What the cost depends on of a PSF."""

    shape: tuple[int, ...]
    left: tuple[int, ...]  # after symmetric taps were added in pairs (direct engine)
    terms: int  # of a sum of products of one filter per axis; 0: none is known


def _without(n: int, primes: tuple[int, ...]) -> int:
    for prime in primes:
        while n % prime == 0:
            n //= prime
    return n


def is_cheap(n: int) -> bool:
    """Whether a transform's length has factors of 2, 3, 5 and 7 only."""
    return _without(n, (2, 3, 5, 7)) == 1


def _bits(n: int) -> float:
    """log2 of a transform's length, its factors weighted by what they take."""
    odd = _without(n, (2,))
    left = _without(odd, (3, 5, 7))
    bits = math.log2(n // odd) + ODD_FACTOR * math.log2(odd // left)
    for prime in (11, 13, 17, 19, 23, 29, 31):
        while left % prime == 0:
            left //= prime
            bits += GENERIC * prime
    return bits if left == 1 else BLUESTEIN * math.log2(2 * n)


def _spectral(lengths: tuple[int, ...], *, by_cosines: bool) -> float:
    """Transforms of these lengths, there and back."""
    points = float(math.prod(lengths))
    if by_cosines:
        neighbours = lengths[1 if len(lengths) == 3 else -1]
        points *= -(-neighbours // (2 * LANES)) * 2 * LANES / neighbours
    elif len(lengths) == 3:
        points *= -(-lengths[-1] // LANES) * LANES / lengths[-1]
    each = SPECTRAL_PER_BIT * (MIRRORED if by_cosines else 1.0)
    return _time("spectral", each * sum(map(_bits, lengths)), lengths, points)


def cosines_pay(shape: tuple[int, ...], padded: tuple[int, ...], grid: tuple[int, ...]) -> bool:
    """Whether cosine transforms of an image's own lengths take less than to pad it, transform on the cheap
    `grid` that holds that, and fold.
    """
    if all(map(is_cheap, shape)):
        return True
    own, there = (tuple(n for n in lengths if n > 1) for lengths in (shape, grid))
    beside = sum(call + each * math.prod(padded) for call, each in (PAD, FOLD)) / 2
    return _spectral(own, by_cosines=True) < _spectral(there, by_cosines=False) + beside


def _time(engine: str, work: float, shape: tuple[int, ...], voxels: float) -> float:
    """Of `work` per voxel: with what memory, rows and the call add."""
    cold = min(max((math.log2(voxels) - WARM) / (COLD - WARM), 0.0), 1.0)
    long = len(shape) - 1
    rows = ROW[engine][long] * math.prod(shape[:-1])
    return CALL[engine][long] + rows + math.hypot(work, MEMORY[engine][long] * cold) * voxels


def predicted_ns(
    taps: Taps,
    grid: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    line: bool = False,
    own: tuple[int, ...] | None = None,
    mirrored: bool = False,
    by_cosines: bool = False,
    on_gpu: bool = False,
) -> dict[str, float]:
    """Of each engine that applies: one application to an estimate of `shape`, or to a transform's `grid`.

    `own`: the estimate's own shape, where `shape` is that of the padded one. `mirrored`: the separable engine
    neither pads nor folds; `by_cosines`: nor do transforms. `on_gpu`: of backend "cuda".
    """
    folded = own is not None and own != shape
    # Axes of length 1 are none.
    own = tuple(n for n in own or shape if n > 1) or (1,)
    shape = tuple(n for n in shape if n > 1) or (1,)
    if on_gpu:
        return _gpu_ns(taps, grid, shape, folded)
    long = len(shape) - 1
    voxels = math.prod(shape)
    pad, fold = (call + each * voxels for call, each in (PAD, FOLD))
    if line:
        few = math.prod(taps.shape) <= FEW_TAPS
        spectral = _time("spectral", LINE_OF_FEW if few else LINE, shape, voxels)
    else:
        spectral = _spectral(tuple(n for n in grid if n > 1) or (1,), by_cosines=by_cosines)
    each, per_product = DIRECT[long]
    products = math.prod(taps.left) * (PAIRS[long] if taps.left[-1] < taps.shape[-1] else 1.0)
    costs = {"spectral": spectral, "direct": _time("direct", each + per_product * products, shape, voxels)}
    if taps.terms:
        each, per_tap = SEPARABLE[long]
        number = sum(k for k in taps.shape if k > 1)

        def separable(shape: tuple[int, ...]) -> float:
            return taps.terms * _time("separable", each + per_tap * number, shape, math.prod(shape))

        costs["separable"] = separable(own)
        if folded and not mirrored:  # the adjoint's half
            costs["separable"] = (costs["separable"] + separable(shape) + fold) / 2
    if folded:
        costs["direct"] += (pad + fold) / 2
        costs["spectral"] += 0 if by_cosines else (pad + fold) / 2
    return costs


def _gpu_ns(taps: Taps, grid: tuple[int, ...], shape: tuple[int, ...], folded: bool) -> dict[str, float]:
    long, voxels, products = len(shape) - 1, math.prod(shape), math.prod(taps.shape)
    lengths = [n for n in grid if n > 1]
    slower = 1.0 if all(n in GPU_FIXED for n in lengths) else GPU_ANY
    if slower > 1 and lengths[-1] in (*GPU_FIXED, *GPU_ROWS):
        slower = GPU_ROW
    works = {"spectral": slower * GPU_SPECTRAL[long] * math.prod(lengths)}
    each, per_product = GPU_DIRECT[long]
    works["direct"] = max((each + per_product * products) * voxels, GPU_TAP * products)
    if taps.terms:
        each, per_tap = GPU_SEPARABLE[long]
        works["separable"] = (each + per_tap * sum(k for k in taps.shape if k > 1)) * voxels
    costs = {}
    for engine, work in works.items():
        cost = GPU_KERNELS[engine][long] * GPU_KERNEL[engine] + work
        cost *= taps.terms if engine == "separable" else 1
        costs[engine] = cost + (GPU_KERNEL["direct"] + GPU_FOLD * voxels if folded else 0)
    return costs


def layer_ns(products: int, *, single: bool) -> float:
    """Of a network's convolution by direct sums; `single`: to one channel of a group."""
    return LAYER[single] * products


def spectral_layer_ns(
    grid: tuple[int, ...], shape: tuple[int, ...], pairs: int, kernels: int = 0, images: int = 0
) -> float:
    """The same by transforms: so many pairs of channels, with transfer functions of kernels and images."""
    each = predicted_ns(Taps(shape=shape, left=shape, terms=0), grid, shape)["spectral"]
    made = TRANSFER["kernel"] * kernels + TRANSFER["image"] * images
    return pairs * PAIR + (pairs + made) * each


def milliseconds(
    ns: float, *, dtype: Any = np.float32, isa: str | None = None, threads: int = 2, on_gpu: bool = False
) -> float:
    """What `predicted_ns` means for a dtype, an instruction set and a number of threads."""
    # The cores share the memory: two are 1.75 times as fast as one.
    speed = threads**0.8 / 2**0.8
    double = DOUBLE if np.dtype(dtype) == np.float64 else 1.0
    if on_gpu:
        return ns * 1e-6 * double
    return ns * 1e-6 * double * ISA.get(isa or "avx512", 1.0) / speed
