"""The arrays of an OME-Zarr image: level 0, and coarser ones as means of blocks of two voxels per axis."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .._threads import get_num_threads
from . import _zarr
from ._nifti import scaled_dtype

# The coarsest level fits a screen.
SMALLEST = {3: 256, 2: 1024}
SHORT = 64  # an axis is not halved below
# Axes are halved together while their voxels differ by less: coarse slices wait for the others.
ISOTROPIC = 1.5
MOST_THREADS = 4


def create_group(folder: Path) -> None:
    _zarr.zarr_library().create_group(store=str(folder), zarr_format=3)


def create_level(
    folder: Path,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    dtype: np.dtype,
    axes: str,
) -> None:
    zarr = _zarr.zarr_library()
    zarr.create_array(
        store=str(folder),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=[
            # Bits of like weight beside one another: smooth float images lose a quarter, as by zstd after a
            # shuffle of bytes, at more than twice its speed (380 to 430 MB/s on one core).
            zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
            # Blosc unpacks most damaged bytes without a word.
            zarr.codecs.Crc32cCodec(),
        ],
        fill_value=False if dtype.kind == "b" else 0,
        dimension_names=list(axes),
        zarr_format=3,
    )


def factors(shape: Sequence[int], voxel_size: Sequence[float] | None) -> list[tuple[int, ...]]:
    """By how much each level is coarser than level 0, per axis."""
    size = voxel_size or (1.0,) * len(shape)
    made = [(1,) * len(shape)]
    while True:
        now = made[-1]
        length = [-(-n // f) for n, f in zip(shape, now, strict=True)]
        if max(length) <= SMALLEST[len(shape)]:
            return made
        edge = [s * f for s, f in zip(size, now, strict=True)]
        finest = min(e for e, n in zip(edge, length, strict=True) if n > SHORT)
        made.append(
            tuple(
                2 * f if n > SHORT and e < ISOTROPIC * finest else f
                for f, e, n in zip(now, edge, length, strict=True)
            )
        )


def build(image: Path, shape: tuple[int, ...], voxel_size: Sequence[float] | None) -> list[tuple[int, ...]]:
    """Write the levels 1, 2, … from level 0, one block after another; returns their factors."""
    levels = factors(shape, voxel_size)
    for number in range(1, len(levels)):
        finer, coarser = image / str(number - 1), image / str(number)
        step = tuple(b // a for a, b in zip(levels[number - 1], levels[number], strict=True))
        _halve(finer, coarser, step)
    return levels


def _halve(finer: Path, coarser: Path, step: tuple[int, ...]) -> None:
    source = _zarr.Region(_zarr.open_array(finer), finer)
    array = source.array
    others = array.ndim - len(step)
    steps = (1,) * others + step
    shape = tuple(-(-n // s) for n, s in zip(array.shape, steps, strict=True))
    axes = "".join(array.metadata.dimension_names)
    if coarser.exists():  # of a run that was killed
        shutil.rmtree(coarser)
    create_level(coarser, shape, array.chunks, array.shards, array.dtype, axes)
    made = _zarr.open_array(coarser, "r+").with_config({"write_empty_chunks": True})
    grid = made.shards or made.chunks

    def fill(starts: tuple[int, ...]) -> None:
        index = tuple(slice(s, min(s + g, n)) for s, g, n in zip(starts, grid, shape, strict=True))
        block = np.empty([s.stop - s.start for s in index], array.dtype)
        # From one block of the finer level at a time: all of them are eight times as large.
        edges = [-(-g // s) for g, s in zip(grid, steps, strict=True)]
        for corner in itertools.product(*(range(0, n, e) for n, e in zip(block.shape, edges, strict=True))):
            part = tuple(slice(c, min(c + e, n)) for c, e, n in zip(corner, edges, block.shape, strict=True))
            wide = tuple(
                slice((i.start + p.start) * s, min((i.start + p.stop) * s, n))
                for i, p, s, n in zip(index, part, steps, array.shape, strict=True)
            )
            block[part] = mean_of_blocks(source(wide), steps)
        made[index] = block

    with ThreadPoolExecutor(min(MOST_THREADS, get_num_threads())) as pool:
        blocks = itertools.product(*(range(0, n, g) for n, g in zip(shape, grid, strict=True)))
        for _ in pool.map(fill, blocks):
            pass


def mean_of_blocks(values: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Means of blocks of one or two voxels per axis, in the same dtype.

    The last voxel of an odd axis counts twice, so that a block's mean stands for the whole of its extent.
    """
    dtype = values.dtype
    kind = scaled_dtype(dtype) if dtype.kind != "b" else np.dtype(np.float32)
    # Shares first: the sum of two of the largest values would not fit.
    work = np.multiply(values, kind.type(1 / math.prod(steps)), dtype=kind)
    for axis, step in enumerate(steps):
        if step == 1:
            continue
        first, second = (
            tuple(slice(i, None, 2) if a == axis else slice(None) for a in range(work.ndim)) for i in (0, 1)
        )
        made = work[first].copy()
        pairs = tuple(slice(0, n // 2) if a == axis else slice(None) for a, n in enumerate(work.shape))
        made[pairs] += work[second]
        if work.shape[axis] % 2:
            last = tuple(slice(-1, None) if a == axis else slice(None) for a in range(work.ndim))
            made[last] *= 2
        work = made
    if dtype.kind == "b":
        return work >= 0.5
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        work = np.rint(work)
        # 64-bit values beyond 2^53 are rounded by float64, at the very top beyond the dtype.
        if dtype.itemsize == 8:
            work = np.clip(work, float(bounds.min), np.nextafter(float(bounds.max), 0))
    return np.ascontiguousarray(work, dtype)


def windows(folder: Path, axes: str, channels: int) -> list[tuple[float, float]]:
    """The range of values of each channel, as the coarsest level shows it."""
    array = _zarr.open_array(folder)
    found = []
    for channel in range(channels):
        index: tuple[Any, ...] = tuple(channel if a == "c" else slice(None) for a in axes)
        values = np.asarray(array[index])
        finite = values[np.isfinite(values)]
        found.append((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    return found
