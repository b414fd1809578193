"""Fewer voxels or more of them, none changed: crop and pad."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .. import _validate
from ._background import estimate_background
from ._step import Move, Step, Taken, numbers, per_axis, region, step_of, take

# What np.pad calls the boundaries of this library.
PADDING = {"zero": "constant", "reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "wrap": "wrap"}
# So far above the background, in standard deviations of its noise, that chance does not reach it.
CONTENT = 5.0

Box = tuple[tuple[int, int], ...]


def crop(
    image: Any, box: Any = None, *, mask: Any = None, threshold: float | None = None, margin: Any = 0
) -> tuple[Any, Step]:
    """Cut out a box: a given one, the one around a mask, or the one around the content.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space; other axes of a volume (time, channels) are kept whole.
    box : sequence of (int, int) or None, optional
        First voxel and one past the last along each axis, in array order; None instead of a pair: the whole
        axis.
    mask : array_like or Volume, optional
        Instead of a box, the smallest box around all voxels that are not 0.
    threshold : float, optional
        Instead of both, the smallest box around all values above this. Default: the background and five
        standard deviations of its noise (`estimate_background`). One hot voxel counts as content: where there
        are such, give a mask.
    margin : int or sequence of int
        Voxels added on both sides per axis, as far as the image reaches.

    Returns
    -------
    result : array or Volume
        Of the same dtype; a volume's affine gets the new origin.
    step : Step
        `Step.undo` pastes a restored part back into the original (wider dtype of the two).

    Raises
    ------
    ValueError
        A box outside the image or without voxels, an empty mask, no value above the threshold.
    TypeError
        More than one of box, mask and threshold; not an image.
    """
    taken = take(image)
    ndim = taken.ndim
    given = [name for name, v in (("box", box), ("mask", mask), ("threshold", threshold)) if v is not None]
    if len(given) > 1:
        raise TypeError(f"{given[1]}: got it together with {given[0]}, expected one of box, mask, threshold")
    widths = [low for low, _ in _widths(margin, ndim, "margin", pairs=False)]
    if box is not None:
        found = _box(box, taken.shape)
    elif mask is not None:
        found = _around(region(mask, taken))
    else:
        found = _content(taken, threshold)
    final = tuple(
        (max(a - m, 0), min(b + m, n)) for (a, b), m, n in zip(found, widths, taken.shape, strict=True)
    )
    cut = partial(_cut, box=final, shape=taken.shape)
    return step_of(
        "crop",
        {"box": final},
        taken,
        cut(taken.data).copy(),
        partial(_paste, box=final, original=taken.data.copy()),
        carry=cut,
        move=Move(tuple(float(a) for a, _ in final), (1.0,) * ndim),
    )


def _box(box: Any, shape: tuple[int, ...]) -> Box:
    try:
        pairs = [None if pair is None else tuple(pair) for pair in box]
    except TypeError:
        raise TypeError(
            f"box: got {_validate.shown(box)}, expected a pair (start, stop) or None per axis"
        ) from None
    if len(pairs) != len(shape):
        raise ValueError(f"box: got {len(pairs)} entries, expected {len(shape)}, one (start, stop) per axis")
    found = []
    for i, (pair, n) in enumerate(zip(pairs, shape, strict=True)):
        if pair is None:
            found.append((0, n))
            continue
        if len(pair) != 2:
            raise ValueError(f"box[{i}]: got {pair}, expected a pair (start, stop)")
        start = _validate.integer(pair[0], f"box[{i}][0]", minimum=0, maximum=n - 1)
        found.append((start, _validate.integer(pair[1], f"box[{i}][1]", minimum=start + 1, maximum=n)))
    return tuple(found)


def _inside(box: Box) -> tuple[Any, ...]:
    """Index of a box along the last axes."""
    return (..., *(slice(a, b) for a, b in box))


def _around(inside: np.ndarray) -> Box:
    """The smallest box around all that is True."""
    found = []
    for axis in range(inside.ndim):
        there = np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        found.append((int(there[0]), int(there[-1]) + 1))
    return tuple(found)


def _content(taken: Taken, threshold: float | None) -> Box:
    data, (_, highest) = numbers(taken)
    if threshold is None:
        level, noise = estimate_background(data.reshape(-1))
        threshold = level + CONTENT * noise
        how = f"the background {level:g} and {CONTENT:g} times its noise"
    else:
        threshold = _validate.number(threshold, "threshold")
        how = "as given"
    above = data > threshold
    inside = np.asarray(above.any(axis=tuple(range(data.ndim - taken.ndim))))
    if not inside.any():
        raise ValueError(
            f"threshold: no value is above {threshold:g} ({how}), the largest is {highest:g}; expected some "
            "content"
        )
    return _around(inside)


def _cut(data: np.ndarray, *, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    _validate.same_shape(data[(0,) * (data.ndim - len(shape))], "labels", shape, "image")
    return data[_inside(box)]


def _paste(part: np.ndarray, put_back: bool, *, box: Box, original: np.ndarray) -> np.ndarray:
    dtype = np.promote_types(original.dtype, part.dtype)
    whole = original.astype(dtype) if put_back else np.zeros(original.shape, dtype)
    whole[_inside(box)] = part
    return whole


def pad(image: Any, width: Any, mode: str = "reflect") -> tuple[Any, Step]:
    """Add voxels around an image.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    width : int, or sequence of int or (int, int)
        Voxels on both sides, for all axes or per axis; a pair: before and after.
    mode : {"reflect", "zero", "nearest", "mirror", "wrap"}
        What lies outside, as everywhere in this library: "reflect" repeats the edge's voxel (np.pad's
        "symmetric"), "mirror" does not (np.pad's "reflect").

    Returns
    -------
    result : array or Volume
        Of the same dtype; a volume's affine gets the new origin.
    step : Step
        `Step.undo` cuts the frame off.

    Raises
    ------
    ValueError, TypeError
        Widths that are negative or no integers, an unknown mode, not an image.
    """
    taken = take(image)
    widths = _widths(width, taken.ndim, "width")
    mode = _validate.choice(mode, "mode", tuple(PADDING))
    inner = tuple((a, a + n) for (a, _), n in zip(widths, taken.shape, strict=True))
    data = _padded(taken.data, widths=widths, mode=mode)
    return step_of(
        "pad",
        {"width": widths, "mode": mode},
        taken,
        data,
        partial(_unframed, box=inner),
        carry=partial(_framed, widths=widths, shape=taken.shape),
        move=Move(tuple(float(-a) for a, _ in widths), (1.0,) * taken.ndim),
    )


def _widths(width: Any, ndim: int, name: str, *, pairs: bool = True) -> Box:
    """(before, after) per axis."""
    kind = "an integer or a pair" if pairs else "an integer"
    found = []
    for i, entry in enumerate(per_axis(width, ndim, name, kind)):
        both = list(entry) if pairs and _validate.axes(entry, f"{name}[{i}]") else [entry, entry]
        if len(both) != 2:
            raise ValueError(f"{name}[{i}]: got {entry}, expected {kind}")
        low, high = (_validate.integer(v, f"{name}[{i}]", minimum=0) for v in both)
        found.append((low, high))
    return tuple(found)


def _padded(data: np.ndarray, *, widths: Box, mode: str) -> np.ndarray:
    others = ((0, 0),) * (data.ndim - len(widths))
    return np.pad(data, (*others, *widths), mode=PADDING[mode])  # type: ignore[call-overload]


def _framed(labels: np.ndarray, *, widths: Box, shape: tuple[int, ...]) -> np.ndarray:
    _validate.same_shape(labels[(0,) * (labels.ndim - len(shape))], "labels", shape, "image")
    return _padded(labels, widths=widths, mode="zero")


def _unframed(data: np.ndarray, put_back: bool, *, box: Box) -> np.ndarray:
    return data[_inside(box)]
