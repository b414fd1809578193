"""Width of a PSF, its place and its background, and its values on another grid."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .. import _validate


def _checked(psf: Any, name: str = "psf") -> np.ndarray:
    array = _validate.real(psf, name)
    _validate.rank(array, name)
    array = array.astype(np.float64)
    _validate.finite(array, name)
    return array


def shifted(array: np.ndarray, shift: tuple[float, ...]) -> np.ndarray:
    """Moved by a fraction of a voxel through its Fourier transform: what leaves comes back behind."""
    last = array.ndim - 1
    spectrum = np.fft.rfftn(array)
    for axis, (n, s) in enumerate(zip(array.shape, shift, strict=True)):
        frequency = np.fft.rfftfreq(n) if axis == last else np.fft.fftfreq(n)
        factor = np.exp(-2j * np.pi * frequency * s)
        if n % 2 == 0:
            factor[n // 2] = np.cos(np.pi * s)  # the one frequency that is its own conjugate
        spectrum *= factor.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    return np.fft.irfftn(spectrum, array.shape, range(array.ndim))


def centroid(array: np.ndarray, threshold: float) -> tuple[float, ...]:
    """Centre of mass, relative to shape // 2, of what rises above `threshold` times the maximum."""
    mass = np.maximum(array - threshold * array.max(), 0) if threshold > 0 else array
    total = mass.sum()
    centre = []
    for axis, n in enumerate(array.shape):
        profile = mass.sum(axis=tuple(a for a in range(array.ndim) if a != axis))
        centre.append(float((profile * (np.arange(n) - n // 2)).sum() / total))
    return tuple(centre)


def border(shape: tuple[int, ...], width: int) -> np.ndarray:
    """True in the outermost `width` voxels of every axis that is longer than both borders."""
    inner = np.zeros(shape, bool)
    inner[tuple(slice(width, -width) if n > 2 * width else slice(None) for n in shape)] = True
    return ~inner


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


# What a new grid leaves of the old extent by rounding, in new voxels: no reason for two more.
_SLACK = 1e-9


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
        float64, odd lengths that cover the old extent, the same sum; an axis whose size stays is untouched.

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, sizes that are not positive or of a wrong number.

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
        new_n = 2 * max(0, math.ceil(max(before, behind) / new_size - 0.5 - _SLACK)) + 1
        matrix = _overlap_matrix(n, size, new_n, new_size)
        array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    if total != 0:
        array *= total / float(array.sum())
    return np.ascontiguousarray(array)


# Beyond the frame of a PSF that is moved by a fraction, its border continues for so many voxels: the shift
# through the Fourier transform rings for a few voxels where the opposite borders differ.
_MARGIN = 8


def _moved(array: np.ndarray, shift: tuple[float, ...]) -> np.ndarray:
    """Moved by any shift; what leaves is lost, and zeros come in."""
    whole = [round(s) for s in shift]
    fraction = tuple(s - w if n > 1 else 0.0 for s, w, n in zip(shift, whole, array.shape, strict=True))
    if any(fraction):
        padded = np.pad(array, [(_MARGIN, _MARGIN) if n > 1 else (0, 0) for n in array.shape], mode="edge")
        inside = tuple(slice(_MARGIN, -_MARGIN) if n > 1 else slice(None) for n in array.shape)
        array = shifted(padded, fraction)[inside]
    result = np.zeros_like(array)
    to = tuple(slice(max(w, 0), n + min(w, 0)) for w, n in zip(whole, array.shape, strict=True))
    source = tuple(slice(max(-w, 0), n + min(-w, 0)) for w, n in zip(whole, array.shape, strict=True))
    result[to] = array[source]
    return result


def _peak(array: np.ndarray) -> tuple[float, ...]:
    """Maximum relative to shape // 2: one Newton step along each axis from the brightest voxel.

    Derivatives over five voxels: those over three see a skew PSF's maximum a tenth of a voxel off.
    """
    at = [int(i) for i in np.unravel_index(int(np.argmax(array)), array.shape)]
    place = []
    for axis, n in enumerate(array.shape):
        i, step = at[axis], 0.0
        if n > 1:
            line = array[tuple(slice(None) if a == axis else at[a] for a in range(array.ndim))]
            a, b, c, d, e = np.pad(line, 2, mode="edge")[i : i + 5]
            slope, bend = (a - 8 * b + 8 * d - e) / 12, (-a + 16 * b - 30 * c + 16 * d - e) / 12
            step = min(max(-float(slope / bend), -0.5), 0.5) if bend < 0 else 0.0
        place.append(i - n // 2 + step)
    return tuple(place)


def recentre(psf: Any, *, method: str = "centroid", threshold: float = 0.0) -> np.ndarray:
    """Move an off-centre PSF to ``shape // 2``, below the voxel too, its sum kept.

    A PSF whose centre is elsewhere shifts every restored image by the difference.

    Parameters
    ----------
    psf : array_like
        One to three axes (z, y, x), without background (see `remove_background`), a positive sum.
    method : {"centroid", "peak"}
        What comes to ``shape // 2``: the centre of mass, which keeps the image's centre of mass; or the
        maximum, found below the voxel, which keeps the brightest point where it is seen, for PSFs with a
        tail on one side.
    threshold : float
        At least 0 and less than 1: the centroid counts only what rises above this part of the maximum. More
        than 0 where noise or faint tails lie around.

    Returns
    -------
    psf : numpy.ndarray
        float64, the same shape and sum. Without negative values where there were none.

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, a sum that is not positive, an unknown method, a threshold out of range.

    Warns
    -----
    UserWarning
        More than 1 % of the sum falls outside the frame and is left out.

    Notes
    -----
    Shifted by whole voxels and a rest through the Fourier transform, exact for PSFs that are sampled finely
    enough to be restored with; a single bright voxel would ring.
    """
    array = _checked(psf)
    total = _validate.psf_sum(array, "psf")
    _validate.choice(method, "method", ("centroid", "peak"))
    threshold = _validate.number(threshold, "threshold", minimum=0)
    if threshold >= 1:
        raise ValueError(f"threshold: got {threshold:g}, expected at least 0 and less than 1")
    signed = float(array.min()) < 0
    shift = (0.0,) * array.ndim
    moved = array
    # What leaves the frame and what is cut below 0 moves the centre a little: again, from the original.
    for _ in range(20):
        off = _peak(moved) if method == "peak" else centroid(moved, threshold)
        if max(abs(o) for o in off) < 1e-6:
            break
        # A sum that nearly cancels puts its centre of mass anywhere; beyond the frame there is nothing.
        shift = tuple(
            min(max(s - o, -float(n // 2)), float(n // 2))
            for s, o, n in zip(shift, off, array.shape, strict=True)
        )
        moved = _moved(array, shift)
        if not signed:
            moved = np.maximum(moved, 0)
    kept = float(moved.sum())
    if kept < 0.99 * total:
        warnings.warn(
            f"psf: moved by {tuple(round(s, 2) for s in shift)} voxels, {100 * (1 - kept / total):.1f} % of "
            "its sum leaves the frame and is left out; pad it with zeros before",
            stacklevel=2,
        )
    return moved * (total / kept)


def remove_background(psf: Any, *, width: int = 1) -> np.ndarray:
    """Subtract the level of a PSF's border, set what is below 0 to 0, and bring the sum to 1.

    A background under a PSF acts as a second, very wide PSF and takes contrast from what is restored with it.

    Parameters
    ----------
    psf : array_like
        One to three axes (z, y, x), so large that it has ended before its border.
    width : int
        Of the border, in voxels; its median is the background. Axes not longer than two borders have none.

    Returns
    -------
    psf : numpy.ndarray
        float64, the same shape, sum 1.

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, a width of less than 1, no axis long enough for a border, nothing above the background.
    """
    array = _checked(psf)
    width = _validate.integer(width, "width", minimum=1)
    outer = border(array.shape, width)
    if not outer.any():
        raise ValueError(
            f"width: got {width} for shape {array.shape}, expected less than half of the longest axis"
        )
    array = np.maximum(array - np.median(array[outer]), 0)
    total = float(array.sum())
    if total == 0:
        raise ValueError("psf: no value is above the median of its border, expected a PSF that ends inside")
    return array / total
