"""An image on voxels of another size."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from .. import _validate
from .._extras import library
from ._step import SAME, Carry, Move, Step, Taken, numbers, step_of, take, working

# A new grid has as many voxels as cover the image; this share of one is rounding.
SLACK = 1e-6
LARGEST = 1 << 40


def resample(
    image: Any,
    new_voxel_size: Any = None,
    *,
    shape: Any = None,
    voxel_size: Any = None,
    order: int = 1,
    antialias: bool = True,
) -> tuple[Any, Step]:
    """Interpolate an image on a grid of other voxels that covers the same field, around the same centre.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    new_voxel_size : float or sequence of float, optional
        Per axis, in the image's unit. As many voxels are made as cover the field (of the last one a part may
        lie outside, where the edge's value goes on); the centres of both fields coincide.
    shape : sequence of int, optional
        Instead, the number of voxels per axis; the field stays exactly the same.
    voxel_size : float or sequence of float, optional
        The image's own, needed with `new_voxel_size` where it is an array; a volume has one.
    order : int
        0: nearest neighbour, for labels (the dtype is kept); 1: linear, which makes no value that lies
        outside the image's range; 2 to 5: splines, sharper, which over- and undershoot at edges.
    antialias : bool
        Where an axis gets coarser by a factor s, blur it first with a Gaussian of standard deviation
        (s - 1) / 2 old voxels, so that detail finer than the new grid does not turn into false coarse one.
        The image's PSF is wider then. Not with order 0.

    Returns
    -------
    result : array or Volume
        Old index of the new voxel j: ``(n - 1) / 2 + s (j - (new_n - 1) / 2)``; a volume's voxel size and
        affine follow.
    step : Step
        `Step.undo` adds to the original what has changed on the new grid, interpolated: details that the new
        grid could not hold are kept. Where the change goes below 0 so may the sum, a little. With
        ``put_back=False`` the new grid is only interpolated.

    Raises
    ------
    ValueError
        Neither or both of new_voxel_size and shape, a voxel size that is missing or contradicts the volume's,
        lengths that are not positive, NaN or Inf.
    TypeError
        Not an image, numbers of the wrong kind.
    ImportError
        scipy is missing (``pip install "medeconv-fast[preprocess]"``).

    Notes
    -----
    Interpolation by scipy.ndimage; beyond the edge its value goes on ("nearest").
    """
    taken = take(image)
    order = _validate.integer(order, "order", minimum=0, maximum=5)
    antialias = _validate.flag(antialias, "antialias") and order > 0
    if order == 0:
        data = taken.data.copy()
        _validate.finite(data, "image")
    else:
        data = numbers(taken)[0].copy()  # kept by the step
    new_shape, scale = _grid(taken, new_voxel_size, shape, voxel_size)
    centres = zip(taken.shape, new_shape, scale, strict=True)
    move = Move(tuple((n - 1) / 2 - s * (m - 1) / 2 for n, m, s in centres), scale)
    there = partial(interpolated, move=move, shape=new_shape, order=order, antialias=antialias)
    again = partial(interpolated, move=move.inverse, shape=taken.shape, order=order, antialias=antialias)
    return step_of(
        "resample",
        {"shape": new_shape, "scale": scale, "order": order, "antialias": antialias},
        taken,
        there(data),
        partial(_interpolated_back, there=there, again=again, original=data, order=order),
        carry=partial(_carried, move=move, shape=new_shape, old_shape=taken.shape),
        move=move,
    )


def _grid(
    taken: Taken, new_voxel_size: Any, shape: Any, voxel_size: Any
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Number of voxels and their size in old voxels, per axis."""
    ndim = taken.ndim
    if (new_voxel_size is None) == (shape is None):
        raise ValueError(
            f"new_voxel_size, shape: got {_validate.shown(new_voxel_size)} and {_validate.shown(shape)}, "
            "expected one of the two"
        )
    if shape is not None:
        if voxel_size is not None:
            raise ValueError("voxel_size: has no use with shape; expected None")
        wanted = _validate.shape(shape, "shape")
        if len(wanted) != ndim:
            raise ValueError(f"shape: got {wanted}, expected {ndim} axis lengths {_validate.AXES[ndim]}")
        scale = tuple(n / m for n, m in zip(taken.shape, wanted, strict=True))
    else:
        new = _validate.voxel_size(new_voxel_size, "new_voxel_size", ndim)
        old = _old_size(taken, voxel_size)
        scale = tuple(b / a for a, b in zip(old, new, strict=True))
        wanted = tuple(
            max(1, math.ceil(n / s - SLACK)) if n / s < LARGEST else LARGEST
            for n, s in zip(taken.shape, scale, strict=True)
        )
    if math.prod(wanted) >= LARGEST:
        raise ValueError(
            f"new_voxel_size, shape: the new grid would have {' x '.join(map(str, wanted))} voxels, expected "
            f"fewer than {LARGEST:.2g}"
        )
    return wanted, scale


def _old_size(taken: Taken, voxel_size: Any) -> tuple[float, ...]:
    known = None if taken.volume is None else taken.volume.voxel_size
    if voxel_size is None:
        if known is None:
            kind = "an array" if taken.volume is None else "a volume without a voxel size"
            raise ValueError(f"voxel_size: got None with {kind}, expected the size of the image's voxels")
        return known
    given = _validate.voxel_size(voxel_size, "voxel_size", taken.ndim)
    if known is not None and not np.allclose(given, known, rtol=SAME, atol=0):
        raise ValueError(f"voxel_size: got {given}, but the volume's is {known}; expected None")
    return given if known is None else known


def interpolated(
    data: np.ndarray, *, move: Move, shape: tuple[int, ...], order: int, antialias: bool
) -> np.ndarray:
    """Values at ``move.offset + move.scale * j`` along the last axes, of the dtype of `data`."""
    if order == 0:
        return _nearest(data, move, shape)
    ndimage = library("scipy.ndimage", "preprocess", "mf.preprocess.resample")
    others = data.shape[: data.ndim - len(shape)]
    result = np.empty((*others, *shape), data.dtype)
    sigma = [max(0.0, (s - 1) / 2) if antialias else 0.0 for s in move.scale]
    for index in np.ndindex(*others):
        part = data[index]
        if any(sigma):
            part = ndimage.gaussian_filter(part, sigma, mode="nearest")
        ndimage.affine_transform(
            part, move.scale, move.offset, shape, result[index], order=order, mode="nearest"
        )
    return result


def _nearest(data: np.ndarray, move: Move, shape: tuple[int, ...]) -> np.ndarray:
    """The same without arithmetic on values: of any dtype. A place halfway takes the later voxel."""
    places = []
    for n, m, offset, scale in zip(
        data.shape[data.ndim - len(shape) :], shape, move.offset, move.scale, strict=True
    ):
        index = np.floor(offset + scale * np.arange(m) + 0.5 + SLACK).astype(np.intp)
        places.append(np.clip(index, 0, n - 1))
    return data[(..., *np.ix_(*places))]


def _interpolated_back(
    data: np.ndarray, put_back: bool, *, there: Carry, again: Carry, original: np.ndarray, order: int
) -> np.ndarray:
    data = data if order == 0 else working(data)
    result = again(data)
    if not put_back:
        return result
    kept = again(there(original))
    if order > 0:
        return result + (original - kept)
    result = result.astype(np.promote_types(result.dtype, original.dtype))
    lost = kept != original
    result[lost] = original[lost]
    return result


def _carried(
    labels: np.ndarray, *, move: Move, shape: tuple[int, ...], old_shape: tuple[int, ...]
) -> np.ndarray:
    _validate.same_shape(labels[(0,) * (labels.ndim - len(shape))], "labels", old_shape, "image")
    return interpolated(labels, move=move, shape=shape, order=0, antialias=False)
