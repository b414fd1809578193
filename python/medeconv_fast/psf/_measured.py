"""A PSF from an image of beads."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from ._sampling import _checked


def _shifted(array: np.ndarray, shift: tuple[float, ...]) -> np.ndarray:
    """Moved by a fraction of a voxel through its Fourier transform."""
    spectrum = np.fft.fftn(array)
    for axis, (n, s) in enumerate(zip(array.shape, shift, strict=True)):
        frequency = np.fft.fftfreq(n)
        factor = np.exp(-2j * np.pi * frequency * s)
        if n % 2 == 0:
            factor[n // 2] = np.cos(np.pi * s)  # the one frequency that is its own conjugate
        spectrum *= factor.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    return np.fft.ifftn(spectrum).real


def _centroid(crop: np.ndarray) -> tuple[float, ...]:
    """Centre of mass, relative to shape // 2, of what rises above a quarter of the maximum."""
    mass = np.maximum(crop - 0.25 * crop.max(), 0)
    total = mass.sum()
    centre = []
    for axis, n in enumerate(crop.shape):
        profile = mass.sum(axis=tuple(a for a in range(crop.ndim) if a != axis))
        centre.append(float((profile * np.arange(n)).sum() / total) - n // 2)
    return tuple(centre)


def from_beads(image: Any, shape: Any, positions: Any = None, *, threshold: float = 0.5) -> np.ndarray:
    """Average PSF of point-like beads: found or given, background removed, aligned below the voxel.

    Parameters
    ----------
    image : array_like
        Image of separate beads smaller than the resolution, one to three axes.
    shape : sequence of int
        Of the PSF, at most the image's.
    positions : array_like, optional
        Voxel indices of the beads, (beads, axes). Default: local maxima above `threshold` times the largest
        value over the background.
    threshold : float
        Between 0 and 1.

    Returns
    -------
    psf : numpy.ndarray
        float64, sum 1, centre at ``shape // 2``.

    Raises
    ------
    ValueError
        No usable bead; the message counts those left out because they touch the edge, stand too close to
        another one or are saturated (their maximum is a plateau).
    """
    data = _checked(image)
    lengths = _validate.shape(shape, "shape")
    if len(lengths) != data.ndim or any(k > n for k, n in zip(lengths, data.shape, strict=True)):
        raise ValueError(
            f"shape: got {lengths}, expected {data.ndim} lengths of at most the image's {data.shape}"
        )
    threshold = _validate.number(threshold, "threshold", above=0)
    if threshold >= 1:
        raise ValueError(f"threshold: got {threshold:g}, expected less than 1")
    floor = float(np.median(data))
    half = [k // 2 for k in lengths]
    if positions is None:
        beads = _maxima(data, floor + threshold * (float(data.max()) - floor))
    else:
        given = np.asarray(positions)
        if given.ndim != 2 or given.shape[1] != data.ndim or given.dtype.kind not in "iu":
            raise ValueError(
                f"positions: got {_validate.shown(positions)}, "
                f"expected integer indices of shape (beads, {data.ndim})"
            )
        beads = [tuple(int(i) for i in p) for p in given]
    at_edge = crowded = saturated = 0
    total = np.zeros(lengths)
    used = 0
    for bead in beads:
        start = [b - h for b, h in zip(bead, half, strict=True)]
        if any(s < 0 or s + k > n for s, k, n in zip(start, lengths, data.shape, strict=True)):
            at_edge += 1
            continue
        near = [
            o
            for o in beads
            if o != bead and all(abs(a - b) < k for a, b, k in zip(o, bead, lengths, strict=True))
        ]
        if near:
            crowded += 1
            continue
        crop = data[tuple(slice(s, s + k) for s, k in zip(start, lengths, strict=True))]
        if np.count_nonzero(crop == crop.max()) > 2:
            saturated += 1
            continue
        border = np.ones(crop.shape, bool)
        border[tuple(slice(1, -1) if k > 2 else slice(None) for k in lengths)] = False
        crop = crop - (np.median(crop[border]) if border.any() else floor)
        crop = _shifted(crop, tuple(-c for c in _centroid(crop)))
        total += crop / crop.sum()
        used += 1
    if used == 0:
        raise ValueError(
            f"image: no usable bead among {len(beads)} ({at_edge} too near the edge for shape {lengths}, "
            f"{crowded} too near "
            f"another bead, {saturated} saturated)"
        )
    psf = np.maximum(total / used, 0)
    return psf / psf.sum()


def _maxima(data: np.ndarray, level: float) -> list[tuple[int, ...]]:
    """Voxels above `level` that no neighbour (diagonals included) exceeds; of a plateau, the first."""
    padded = np.pad(data, 1, constant_values=-np.inf)
    is_maximum = data > level
    for offset in np.ndindex(*(3,) * data.ndim):
        if offset == (1,) * data.ndim:
            continue
        neighbour = padded[tuple(slice(o, o + n) for o, n in zip(offset, data.shape, strict=True))]
        # strict against earlier neighbours, so that a plateau counts once
        is_maximum &= (data > neighbour) if offset < (1,) * data.ndim else (data >= neighbour)
    return [tuple(int(i) for i in p) for p in np.argwhere(is_maximum)]
