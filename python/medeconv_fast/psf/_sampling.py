"""Width of a PSF, and its values on another grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _validate


def _checked(psf: Any) -> np.ndarray:
    array = np.asarray(psf)
    _validate.numeric(array.dtype, "psf")
    _validate.rank(array, "psf")
    array = array.astype(np.float64)
    _validate.finite(array, "psf")
    return array


def fwhm(psf: Any, voxel_size: Any = None) -> tuple[float, ...]:
    """Full width at half maximum of the profile through the brightest voxel, per axis.

    Parameters
    ----------
    psf : array_like
        One to three axes.
    voxel_size : sequence of float, optional
        Default: widths in voxels.

    Returns
    -------
    widths : tuple of float
        In the unit of `voxel_size`; the half crossings are interpolated linearly. An axis of one voxel has
        width 0.

    Raises
    ------
    ValueError
        A profile that does not fall to half its maximum within the array on both sides (crop less), a maximum
        that is not positive.
    """
    array = _checked(psf)
    sizes = (
        (1.0,) * array.ndim
        if voxel_size is None
        else _validate.voxel_size(voxel_size, "voxel_size", array.ndim)
    )
    peak = np.unravel_index(int(np.argmax(array)), array.shape)
    highest = float(array[peak])
    if highest <= 0:
        raise ValueError(f"psf: the largest value is {highest:g}, expected a positive one")
    widths = []
    for axis, size in enumerate(sizes):
        line = array[tuple(slice(None) if a == axis else int(peak[a]) for a in range(array.ndim))] / highest
        if line.size == 1:
            widths.append(0.0)
            continue
        at = int(peak[axis])
        reach = []
        for side in (line[at:], line[at::-1]):
            below = np.flatnonzero(side < 0.5)
            if below.size == 0:
                raise ValueError(
                    f"psf: along axis {axis} it does not fall to half its maximum within the array "
                    f"of {line.size} "
                    "voxels; expected a PSF with its flanks"
                )
            i = int(below[0])
            reach.append(i - 1 + (side[i - 1] - 0.5) / (side[i - 1] - side[i]))
        widths.append(float(sum(reach) * size))
    return tuple(widths)


def _overlap_matrix(n: int, size: float, new_n: int, new_size: float) -> np.ndarray:
    """How much of each old voxel's content lies in each new voxel, both grids centred at their length // 2.

    The content is spread over the old voxel by the slope to its neighbours (a linear interpolation of the
    cumulated PSF would keep it flat and widen narrow PSFs), so cumulate, interpolate by a monotone cubic, and
    take differences.
    """
    edges = (np.arange(n + 1) - n // 2 - 0.5) * size
    new_edges = (np.arange(new_n + 1) - new_n // 2 - 0.5) * new_size
    matrix = np.empty((new_n, n))
    for j in range(n):
        cumulated = np.concatenate([[0.0], np.cumsum(np.eye(1, n, j)[0])])
        matrix[:, j] = np.diff(_cubic(edges, cumulated, new_edges))
    return matrix


def _cubic(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Cubic Hermite interpolation on a uniform grid with central-difference slopes, constant outside."""
    h = x[1] - x[0]
    slope = np.zeros_like(y)
    slope[1:-1] = (y[2:] - y[:-2]) / (2 * h)
    inside = np.clip(at, x[0], x[-1])
    i = np.clip(((inside - x[0]) / h).astype(int), 0, len(x) - 2)
    t = (inside - x[i]) / h
    return (
        (2 * t**3 - 3 * t**2 + 1) * y[i]
        + (t**3 - 2 * t**2 + t) * h * slope[i]
        + (3 * t**2 - 2 * t**3) * y[i + 1]
        + (t**3 - t**2) * h * slope[i + 1]
    )


def resample(psf: Any, voxel_size: Any, new_voxel_size: Any) -> np.ndarray:
    """A PSF on another grid, its sum and its centre (``shape // 2``) kept.

    Parameters
    ----------
    psf : array_like
        One to three axes, sampled at `voxel_size`.
    voxel_size, new_voxel_size : float or sequence of float
        In one unit.

    Returns
    -------
    psf : numpy.ndarray
        float64, odd lengths that cover the old extent.

    Notes
    -----
    Conservative: the cumulated PSF is interpolated (cubic) and differenced over the new voxels, so that
    coarser voxels average and finer ones interpolate, and the sum is exact. Small negative values can appear
    beside sharp edges; they are kept, as they belong to the sum.
    """
    array = _checked(psf)
    sizes = _validate.voxel_size(voxel_size, "voxel_size", array.ndim)
    new_sizes = _validate.voxel_size(new_voxel_size, "new_voxel_size", array.ndim)
    total = float(array.sum())
    for axis, (size, new_size) in enumerate(zip(sizes, new_sizes, strict=True)):
        n = array.shape[axis]
        if math.isclose(size, new_size, rel_tol=1e-9):
            continue
        before, behind = (n // 2 + 0.5) * size, (n - n // 2 - 0.5) * size
        new_n = 2 * max(0, math.ceil(max(before, behind) / new_size - 0.5)) + 1
        matrix = _overlap_matrix(n, size, new_n, new_size)
        array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    if total != 0:
        array *= total / float(array.sum())
    return np.ascontiguousarray(array)
