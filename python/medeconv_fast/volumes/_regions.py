"""Arrays beside the image, on its grid, that are cut into tiles as it is: weights, a first estimate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _arrays, _validate
from .. import io as files
from ..algorithms._start import INITIAL
from ..algorithms._tile import read_region
from ..preprocess._step import NEAR, distance, unit_factor

NAMES = ("weights", "initial")


def is_source(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("items", "chunks", "read", "identity"))


def taken(options: dict[str, Any], source: Any) -> dict[str, Any]:
    """Take the maps out of `options`: name -> source."""
    found = {}
    for name in NAMES:
        value = options.get(name)
        if value is None or (isinstance(value, str) and name == "initial" and value in INITIAL):
            continue
        del options[name]
        found[name] = _opened(name, value, source)
    return found


def _opened(name: str, value: Any, source: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        if not os.path.exists(value):
            names = f"one of {INITIAL}, " if name == "initial" else ""
            raise ValueError(f"{name}: got {value!r}, expected {names}an array or an existing file")
        made = files.open_source(value)
    elif is_source(value):
        made = value
    elif isinstance(value, files.Volume):
        made = files.open_source(value)
    elif not np.shape(value):
        raise ValueError(f"{name}: got {_validate.shown(value)}, expected an array or a file")
    else:
        of_items = len(np.shape(value)) == len(source.axes) > len(source.shape)
        made = files.open_source(value, axes=source.axes if of_items else None)
    # As many time points and channels as the source, not only as many images: axes may be swapped.
    if made.shape != source.shape or (len(made.items) > 1 and _counts(made) != _counts(source)):
        raise ValueError(
            f"{name}: got {_shown(made)} voxels, expected {source.shape}, once or for each image of the "
            f"source, which has {_shown(source)}"
        )
    own, other = made.voxel_size, getattr(source, "voxel_size", None)
    if own is None or other is None:
        return made
    factor = unit_factor(made, source)
    if factor is None:
        raise ValueError(
            f"{name}: its voxels are {own} {made.unit}, those of the source {other} {source.unit}; "
            "expected the same grid"
        )
    affine, placed = getattr(made, "affine", None), getattr(source, "affine", None)
    if affine is not None and placed is not None:
        affine = affine.copy()
        affine[:3] *= factor
        away = distance(affine, placed, source.shape)
        if away > NEAR * min(other):
            raise ValueError(
                f"{name}: lies {away:.3g} {source.unit or ''} away from the source (their affines differ), "
                "expected the source's grid"
            )
    return made


def _counts(source: Any) -> tuple[int, int]:
    return len({t for t, _ in source.items}), len({c for _, c in source.items})


def _shown(source: Any) -> str:
    times, channels = _counts(source)
    return f"{times} time points x {channels} channels x {source.shape}"


def read_maps(
    maps: dict[str, Any], item: int, region: Sequence[slice], dtype: np.dtype
) -> dict[str, np.ndarray]:
    """The maps of a region, checked, in the dtype of the work."""
    made = {}
    for name, source in maps.items():
        values = read_region(source, item if len(source.items) > 1 else 0, region)
        values = _arrays.computable(values, dtype)
        where = f"{name}, voxels " + " x ".join(f"{s.start}:{s.stop}" for s in region)
        lowest, highest = _validate.finite(values, where)
        _validate.non_negative(values, where, lowest)
        if name == "weights":
            _validate.scale(highest, where, dtype)
        else:
            _validate.fits(highest, where, dtype)
        made[name] = values
    return made
