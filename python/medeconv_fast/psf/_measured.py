"""A PSF from an image of beads."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from .. import _validate
from ._sampling import _checked, border, centroid, shifted

# Data kept around each bead's frame, so that a shift below the voxel brings in what is really there.
_MARGIN = 4
# The centre of a bead is that of what rises above this part of its maximum: less, and noise moves it.
_CORE = 0.25
_ROUNDS = 6


@dataclass(frozen=True)
class BeadsInfo:
    """What `from_beads` did.

    Attributes
    ----------
    num_beads : int
        Beads in the average.
    positions : tuple of tuple of float
        Their centres, voxel indices with fractions, in the image's axis order.
    weights : tuple of float
        Their parts in the average, sum 1, before the robust mean's own weights in each voxel.
    deviations : tuple of float
        Norm of each bead's difference from the PSF over the PSF's norm, noise included.
    rejected : tuple of (position, reason)
        The beads left out.
    """

    num_beads: int
    positions: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    deviations: tuple[float, ...]
    rejected: tuple[tuple[tuple[float, ...], str], ...]


class _Bead(NamedTuple):
    place: tuple[int, ...]  # of the frame's centre
    values: np.ndarray  # the frame and its margin, background removed
    noise: float  # standard deviation in the frame's border


@overload
def from_beads(
    image: Any, shape: Any, positions: Any = ..., *, threshold: float = ..., return_info: Literal[False] = ...
) -> np.ndarray: ...
@overload
def from_beads(
    image: Any, shape: Any, positions: Any = ..., *, threshold: float = ..., return_info: Literal[True]
) -> tuple[np.ndarray, BeadsInfo]: ...
def from_beads(
    image: Any, shape: Any, positions: Any = None, *, threshold: float = 0.3, return_info: bool = False
) -> Any:
    """Average PSF of point-like beads: found or given, background removed, aligned below the voxel.

    Parameters
    ----------
    image : array_like
        Image of separate beads smaller than the resolution, one to three axes (z, y, x).
    shape : sequence of int
        Of the PSF, at most the image's: three to four times its full width at half maximum, or as far as its
        tails matter. Beads nearer to one another than this along every axis are left out.
    positions : array_like, optional
        Voxel indices of the beads, (beads, axes), good to a quarter of `shape`. Default: maxima above
        `threshold` times the largest value over the background, in the image smoothed with a sixteenth of
        `shape`; half that bright counts as a neighbour.
    threshold : float
        Between 0 and 1.
    return_info : bool
        Also return a `BeadsInfo`.

    Returns
    -------
    psf : numpy.ndarray
        float64, sum 1, centroid of what is above a quarter of the maximum at ``shape // 2``.
    info : BeadsInfo
        With ``return_info=True``: the beads used, and those rejected with the reason.

    Raises
    ------
    ValueError, TypeError
        No usable bead; the message counts those left out because they touch the edge, stand too close to
        another one, are saturated (their maximum is a plateau) or are unlike the others. A shape that the
        image or its number of axes does not allow, a threshold out of range.

    Notes
    -----
    Each bead's frame loses the median of its border, is moved through the Fourier transform, and fitted by
    least squares to the average so far: its brightness, its offset, and by the average's gradient its shift,
    until they stay. The average weighs beads by their variance; from four beads on it is a Huber mean in each
    voxel, so that a faint neighbour in one frame does little. With three or more, a bead that differs much
    from their median (two beads seen as one, dirt) is left out. What is below 0 in the end is set to 0: of
    the noise around the PSF the positive half stays, a pedestal that weighs the more the fewer photons and
    the larger `shape`. The size of the beads stays in the PSF: it widens it noticeably where it exceeds a
    third of the width.

    References
    ----------
    P. J. Huber, Ann. Math. Stat. 35, 73 (1964) (the mean); S. F. Gibson and F. Lanni, J. Opt. Soc. Am. A 8,
    1601 (1991) (PSFs from beads).
    """
    data = _checked(image, "image")
    given_dtype = np.asarray(image).dtype
    lengths = _validate.shape(shape, "shape")
    if len(lengths) != data.ndim or any(k > n for k, n in zip(lengths, data.shape, strict=True)):
        raise ValueError(
            f"shape: got {lengths}, expected {data.ndim} lengths of at most the image's {data.shape}"
        )
    threshold = _validate.number(threshold, "threshold", above=0)
    if threshold >= 1:
        raise ValueError(f"threshold: got {threshold:g}, expected less than 1")
    _validate.flag(return_info, "return_info")
    floor = float(np.median(data))
    if positions is None:
        candidates, neighbours = _found(data, floor, lengths, threshold)
    else:
        given = np.asarray(positions)
        if given.ndim != 2 or given.shape[1] != data.ndim or given.dtype.kind not in "iu":
            raise ValueError(
                f"positions: got {_validate.shown(positions)}, "
                f"expected integer indices of shape (beads, {data.ndim})"
            )
        candidates = list(dict.fromkeys(tuple(int(i) for i in p) for p in given))
        neighbours = candidates
    rejected: list[tuple[tuple[float, ...], str]] = []
    beads: list[_Bead] = []
    padded = np.pad(data, _MARGIN, mode="edge")
    for place in candidates:
        bead = _cut(data, padded, place, lengths, neighbours, given_dtype, floor)
        if isinstance(bead, str):
            rejected.append((place, bead))
        else:
            beads.append(bead)
    shifts: list[tuple[float, ...]] = []
    psf = np.zeros(lengths)
    weights = deviations = np.zeros(0)
    while beads:
        psf, shifts, weights, deviations, unlike = _averaged(beads, lengths)
        if not unlike:
            break
        rejected += [(beads[i].place, _UNLIKE) for i in unlike]
        beads = [bead for i, bead in enumerate(beads) if i not in unlike]
    if not beads:
        counts = Counter(reason for _, reason in rejected)
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise ValueError(
            f"image: no usable bead among {len(candidates)} for shape {lengths}"
            + (f" ({listed})" if listed else f" (nothing rises above threshold {threshold:g})")
        )
    if not return_info:
        return psf
    places = tuple(
        tuple(float(p + s) for p, s in zip(bead.place, shift, strict=True))
        for bead, shift in zip(beads, shifts, strict=True)
    )
    info = BeadsInfo(len(beads), places, tuple(weights.tolist()), tuple(deviations.tolist()), tuple(rejected))
    return psf, info


_AT_EDGE = "too near the edge"
_CROWDED = "too near another bead"
_SATURATED = "saturated"
_UNLIKE = "unlike the others"
_EMPTY = "no brighter than its surroundings"


def _smoothed(data: np.ndarray, sigmas: list[float]) -> np.ndarray:
    """Gaussian smoothing, edges repeated."""
    for axis, sigma in enumerate(sigmas):
        reach = math.ceil(3 * sigma)
        if reach == 0 or data.shape[axis] == 1:
            continue
        taps = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
        taps /= taps.sum()
        wide = np.pad(data, [(reach, reach) if a == axis else (0, 0) for a in range(data.ndim)], mode="edge")
        n = data.shape[axis]
        result = np.zeros_like(data)
        for i, tap in enumerate(taps):
            result += (
                tap * wide[tuple(slice(i, i + n) if a == axis else slice(None) for a in range(data.ndim))]
            )
        data = result
    return data


def _found(
    data: np.ndarray, floor: float, lengths: tuple[int, ...], threshold: float
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Beads bright enough to use, and all that are bright enough to disturb another one."""
    smooth = _smoothed(data, [k / 16 for k in lengths])
    height = float(smooth.max()) - floor
    if height <= 1e-9 * abs(floor):  # rounding of a flat image
        return [], []
    noise = 1.4826 * float(np.median(np.abs(smooth - np.median(smooth))))
    low = floor + max(threshold * height / 2, min(5 * noise, threshold * height))
    maxima = sorted(_maxima(smooth, low), key=lambda p: -float(smooth[p]))
    kept: list[tuple[int, ...]] = []
    for place in maxima:
        # Noise makes several maxima of one bead; of two beads, a valley tells.
        if all(
            any(abs(a - b) > k / 4 for a, b, k in zip(place, other, lengths, strict=True))
            or _valley(smooth, place, other) - floor < 0.8 * (float(smooth[place]) - floor)
            for other in kept
        ):
            kept.append(place)
    bright = floor + threshold * height
    return [p for p in kept if smooth[p] > bright], kept


def _valley(data: np.ndarray, one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Smallest value on the way from one voxel to another."""
    steps = max(abs(a - b) for a, b in zip(one, other, strict=True)) + 1
    line = [np.rint(np.linspace(a, b, steps)).astype(int) for a, b in zip(one, other, strict=True)]
    return float(data[tuple(line)].min())


def _maxima(data: np.ndarray, level: float) -> list[tuple[int, ...]]:
    """Voxels above `level` that no neighbour (diagonals included) exceeds; of a plateau, the first."""
    padded = np.pad(data, 1, constant_values=-np.inf)
    # Few voxels are that bright, so they are looked at one by one, and fewer after every neighbour.
    places = np.argwhere(data > level)
    values = data[tuple(places.T)]
    middle = (1,) * data.ndim
    for offset in np.ndindex(*(3,) * data.ndim):
        if offset == middle:
            continue
        neighbours = padded[tuple((places + offset).T)]
        # strict against earlier neighbours, so that a plateau counts once
        kept = values > neighbours if offset < middle else values >= neighbours
        places, values = places[kept], values[kept]
    return [tuple(int(i) for i in p) for p in places]


def _cut(
    data: np.ndarray,
    padded: np.ndarray,
    place: tuple[int, ...],
    lengths: tuple[int, ...],
    neighbours: list[tuple[int, ...]],
    dtype: np.dtype,
    floor: float,
) -> _Bead | str:
    """The frame around a bead, or why it cannot be used."""
    original = place
    for _ in range(4):
        start = [p - k // 2 for p, k in zip(place, lengths, strict=True)]
        if any(s < 0 or s + k > n for s, k, n in zip(start, lengths, data.shape, strict=True)):
            return _AT_EDGE
        frame = data[tuple(slice(s, s + k) for s, k in zip(start, lengths, strict=True))]
        outer = border(lengths, 1)
        level = float(np.median(frame[outer])) if outer.any() else floor
        if float(frame.max()) <= level:
            return _EMPTY
        # What belongs to another bead must not pull: only the voxels around the bead itself.
        near = tuple(slice(k // 2 - k // 4, k // 2 + k // 4 + 1) for k in lengths)
        step = [round(c) for c in centroid(frame[near] - level, _CORE)]
        if not any(step):
            break
        place = tuple(p + s for p, s in zip(place, step, strict=True))
    if any(
        other != original and all(abs(a - b) < k for a, b, k in zip(other, place, lengths, strict=True))
        for other in neighbours
    ):
        return _CROWDED
    if _is_saturated(frame, level, dtype):
        return _SATURATED
    values = padded[tuple(slice(s, s + k + 2 * _MARGIN) for s, k in zip(start, lengths, strict=True))] - level
    noise = 1.4826 * float(np.median(np.abs(frame[outer] - level))) if outer.any() else 0.0
    return _Bead(place, values, noise)


def _is_saturated(frame: np.ndarray, level: float, dtype: np.dtype) -> bool:
    """Whether values pile up at the maximum instead of thinning out towards it."""
    highest = float(frame.max())
    count = int(np.count_nonzero(frame == highest))
    if count < 3:
        return False
    if dtype.kind in "iu" and highest == np.iinfo(dtype).max:
        return True
    height = highest - level
    near = 0.05 * height
    if dtype.kind in "iu":  # few counts: values repeat by chance, over the width of their noise
        near = max(near, math.sqrt(height))
    return count > int(np.count_nonzero((frame < highest) & (frame >= highest - near)))


def _averaged(
    beads: list[_Bead], lengths: tuple[int, ...]
) -> tuple[np.ndarray, list[tuple[float, ...]], np.ndarray, np.ndarray, set[int]]:
    """The PSF, every bead's shift, weight and deviation, and which beads are unlike the others."""
    inside = tuple(slice(_MARGIN, _MARGIN + k) for k in lengths)
    near = tuple(slice(k // 2 - k // 4, k // 2 + k // 4 + 1) for k in lengths)

    def at_centre(bead: _Bead, shift: tuple[float, ...]) -> np.ndarray:
        return shifted(bead.values, tuple(-s for s in shift))[inside]

    shifts = [centroid(bead.values[inside][near], _CORE) for bead in beads]
    frames = np.array([at_centre(bead, shift) for bead, shift in zip(beads, shifts, strict=True)])
    frames /= (
        frames[(slice(None), *near)].reshape(len(beads), -1).sum(axis=1).reshape(-1, *(1,) * len(lengths))
    )
    psf = np.median(frames, axis=0)
    weights = np.full(len(beads), 1 / len(beads))
    for _ in range(_ROUNDS):
        gradient = [np.gradient(psf, axis=a) if n > 1 else np.zeros(lengths) for a, n in enumerate(lengths)]
        columns = np.stack([psf, *(-g for g in gradient), np.ones(lengths)]).reshape(len(lengths) + 2, -1).T
        for i, bead in enumerate(beads):
            frame = at_centre(bead, shifts[i])
            fit = np.linalg.lstsq(columns, frame.ravel(), rcond=None)[0]
            height, offset = (fit[0], fit[-1]) if fit[0] > 0 else (frame.sum(), 0.0)
            step = np.clip(fit[1:-1] / height, -1, 1) if fit[0] > 0 else np.zeros(len(lengths))
            limit = [k / 4 + 1 for k in lengths]
            shifts[i] = tuple(
                float(min(max(s + d, -m), m)) for s, d, m in zip(shifts[i], step, limit, strict=True)
            )
            frames[i] = (at_centre(bead, shifts[i]) - offset) / height
        psf, weights = _robust_mean(frames)
        # The shifts are relative to one another: their common part is what puts the centroid in the middle.
        off = centroid(psf[near], _CORE)
        shifts = [tuple(s + o for s, o in zip(shift, off, strict=True)) for shift in shifts]
        psf = shifted(psf, tuple(-o for o in off))
    norm = float(np.linalg.norm(psf))
    difference = [float(np.linalg.norm(frame - psf)) / norm for frame in frames]
    unlike: set[int] = set()
    if len(beads) >= 3:
        middle = np.median(frames, axis=0)
        excess: list[float] = []
        for bead, frame in zip(beads, frames, strict=True):
            # Brightness at the scale of the frame: what the border's noise explains is not the bead's fault.
            brightness = float(
                np.vdot(at_centre(bead, shifts[len(excess)]), middle) / np.vdot(middle, middle)
            )
            explained = frame.size * (bead.noise / brightness) ** 2
            squared = float(np.sum((frame - middle) ** 2)) - explained
            excess.append(math.sqrt(max(squared, 0)) / float(np.linalg.norm(middle)))
        limit_of_all = max(0.3, 3 * float(np.median(excess)))
        unlike = {i for i, value in enumerate(excess) if value > limit_of_all}
    outer = border(lengths, 1)
    if outer.any():
        psf = psf - np.median(psf[outer])
    psf = np.maximum(psf, 0)
    return psf / psf.sum(), shifts, weights, np.array(difference), unlike


def _robust_mean(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis weighted by each frame's variance; from four frames on, Huber's per voxel."""
    axes = tuple(range(1, frames.ndim))
    middle = np.median(frames, axis=0)
    # Shapes differ by a per cent even without noise: no single bright bead takes the whole weight.
    spread = (
        1.4826 * np.median(np.abs(frames - middle), axis=axes) if len(frames) > 2 else np.zeros(len(frames))
    )
    variance = spread**2 + (0.01 * float(middle.max())) ** 2
    weights = (1 / variance) / np.sum(1 / variance)
    column = weights.reshape(-1, *(1,) * (frames.ndim - 1))
    mean = np.sum(column * frames, axis=0)
    if len(frames) < 4:
        return mean, weights
    # Noise of the signal itself: the spread over the beads in each voxel, at least that of the frame.
    local = np.maximum(
        1.4826 * np.median(np.abs(frames - middle), axis=0), np.sqrt(variance).reshape(column.shape)
    )
    mean = middle
    for _ in range(5):
        huber = column * np.minimum(1, 1.5 * local / np.maximum(np.abs(frames - mean), 1e-300))
        mean = np.sum(huber * frames, axis=0) / np.sum(huber, axis=0)
    return mean, weights
