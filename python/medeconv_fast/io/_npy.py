"""NumPy files, with the geometry in a JSON file beside them: NAME.npy and NAME.npy.json."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ._volume import SPATIAL, Volume, stored_time


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read(path: Path) -> Volume:
    array = load(path)
    size, affine, unit, axes = described(path, array.ndim, array.shape)
    return Volume(array, size, affine, unit, axes, time_of(path, array.shape))


def load(path: Path, *, mapped: bool = False) -> np.ndarray:
    try:
        array = np.load(path, "r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected one array of real numbers")
    return array


def described(path: Path, ndim: int, shape: tuple[int, ...], axes: str | None = None) -> Any:
    """Voxel size, affine, unit and axes by the file beside the array; `axes` where there is none."""
    beside = sidecar(path)
    outdated = beside.exists() and _outdated(beside, shape)
    if outdated:
        warnings.warn(
            f"{path}: another program has written an array of shape {shape}; {beside.name} describes one of "
            f"another shape and is left out",
            UserWarning,
            stacklevel=4,
        )
    if outdated or not beside.exists():
        if ndim > 3 and axes is None:
            what = "no file beside it" if outdated else "nothing"
            raise ValueError(
                f"{path}: {ndim} axes of shape {shape}, and {what} says which of them are time "
                f'and channels; put a file {beside.name} beside it that holds {{"axes": "…"}}, one letter of '
                't, c, z, y, x, s per axis, such as "tzyx"'
            )
        if axes is not None and (len(axes) != ndim or len(set(axes)) != ndim or set(axes) - set("tczyxs")):
            raise ValueError(
                f"axes: got {axes!r} for an array of {ndim} axes, shape {shape}; expected one of t, c, z, y, "
                "x, s per axis"
            )
        return None, None, None, axes or "zyx"[max(0, 3 - ndim) :]
    if axes is not None:
        raise ValueError(f"axes: got {axes!r}, but {beside.name} says which they are")
    try:
        entry = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(entry, dict):
            raise ValueError("expected an object with the entry axes")
        # Checked as a volume is, by one of the same axes.
        size, affine = entry.get("voxel_size"), entry.get("affine")
        made = Volume(
            np.zeros((1,) * ndim, np.uint8),
            None if size is None else tuple(size),
            None if affine is None else np.array(affine, np.float64),
            entry.get("unit"),
            entry["axes"],
        )
        return made.voxel_size, made.affine, made.unit, made.axes
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{beside}: does not describe {path.name} ({error})") from error


def _outdated(beside: Path, shape: tuple[int, ...]) -> bool:
    """Whether it is of an array that had another shape in space: other programs know nothing of it."""
    try:
        entry = json.loads(beside.read_text(encoding="utf-8"))
        axes, kept = entry["axes"], entry.get("shape")  # not in files of earlier versions, or of hand
        if kept is None or len(axes) != len(shape):
            return False
        return list(kept) != [n for a, n in zip(axes, shape, strict=True) if a in SPATIAL]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # what is wrong with it is for `described` to say


def time_of(path: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """What the file beside an array, which `described` has read, says of its time step."""
    beside = sidecar(path)
    if not beside.exists() or _outdated(beside, shape):
        return {}
    return stored_time(json.loads(beside.read_text(encoding="utf-8")))


def save_geometry(path: Path, volume: Volume) -> None:
    entry = {
        "axes": volume.axes,
        "shape": [n for a, n in zip(volume.axes, volume.shape, strict=True) if a in SPATIAL],
        "unit": volume.unit,
        "voxel_size": volume.voxel_size,
        "affine": volume.affine.tolist() if volume.affine is not None and volume.oriented else None,
        **stored_time(volume.metadata),
    }
    path.write_text(json.dumps(entry, indent=1), encoding="utf-8")


def prefix(volume: Volume) -> bytes:
    """What stands before the values."""
    made = io.BytesIO()
    entry = {"descr": volume.dtype.str, "fortran_order": False, "shape": volume.shape}
    np.lib.format.write_array_header_1_0(made, entry)
    return made.getvalue()


def save(path: Path, volume: Volume) -> None:
    with open(path, "wb") as file:
        np.save(file, volume.array, allow_pickle=False)
