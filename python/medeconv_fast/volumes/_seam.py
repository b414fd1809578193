"""How far a result in tiles is from that of the whole, measured on the brightest part of the sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _arrays
from .._grid import Grid
from ..algorithms._tile import Restorer, read_region
from ._regions import read_maps

# The part is as long across the cut as two regions, but for memory; beside it as wide as a block.
LONGEST = 1 << 22


def estimate_seam(
    source: Any,
    maps: dict[str, Any],
    item: int,
    around: tuple[slice, ...],
    grid: Grid,
    restorer: Restorer,
    limit: int,
) -> dict[str, Any] | None:
    """Restore a part once as a whole and once in two tiles; their largest and root mean square difference.

    In shares of the range of the part's result, for each axis that is cut, within a halo of the cut. None
    where nothing is cut, or where a part that fits has no room for two halos.

    Parameters
    ----------
    source, maps, item
    around : tuple of slice
        A block of the sample: the part lies around it.
    grid : Grid
        The run's: its halo is what is judged.
    restorer : Restorer
    limit : int
        Voxels that a part may have.
    """
    axes: dict[str, dict[str, Any]] = {}
    for axis, (n, count, halo) in enumerate(zip(grid.shape, grid.counts, grid.halo, strict=True)):
        if count == 1:
            continue
        looked_at = max(halo, 1)  # without a halo there may be a seam all the same
        part = list(around)
        across = math.prod(s.stop - s.start for a, s in enumerate(around) if a != axis)
        length = min(n, 4 * looked_at + 2, max(1, min(limit, LONGEST) // across))
        if length < 2 * looked_at + 2:
            continue
        middle = (around[axis].start + around[axis].stop) // 2
        start = min(max(0, middle - length // 2), n - length)
        part[axis] = slice(start, start + length)
        data = read_region(source, item, part)
        beside = read_maps(maps, item, part, _arrays.result_dtype(data.dtype))
        whole = Grid(data.shape, data.shape, (0,) * data.ndim)
        core = tuple(-(-m // 2) if a == axis else m for a, m in enumerate(data.shape))
        halves = Grid(data.shape, core, grid.halo)
        reference = restorer(data, whole.tile(0), **beside).core.astype(np.float64)
        difference = np.empty_like(reference)
        for tile in halves:
            cut = {name: np.ascontiguousarray(values[tile.region]) for name, values in beside.items()}
            restored = restorer(np.ascontiguousarray(data[tile.region]), tile, **cut).core
            difference[tile.core] = restored - reference[tile.core]
        near = slice(max(0, core[axis] - looked_at), core[axis] + looked_at)
        difference = difference[tuple(near if a == axis else slice(None) for a in range(data.ndim))]
        extent = float(np.ptp(reference))
        if extent > 0:
            axes["zyx"[-len(grid.shape) :][axis]] = {
                "largest": float(np.abs(difference).max()) / extent,
                "rms": float(np.sqrt(np.mean(difference**2))) / extent,
                "voxels": list(data.shape),
            }
    if not axes:
        return None
    return {"largest": max(entry["largest"] for entry in axes.values()), "axes": axes}
