"""NumPy files, with the geometry in a JSON file beside them: NAME.npy and NAME.npy.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ._volume import Volume


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read(path: Path) -> Volume:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected one array of real numbers")
    beside = sidecar(path)
    if not beside.exists():
        if array.ndim > 3:
            raise ValueError(
                f"{path}: {array.ndim} axes of shape {array.shape}, and nothing says which of them are time "
                f'and channels; put a file {beside.name} beside it that holds {{"axes": "…"}}, one letter of '
                't, c, z, y, x, s per axis, such as "tzyx"'
            )
        return Volume(array)
    try:
        entry = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(entry, dict):
            raise ValueError("expected an object with the entry axes")
        size, affine = entry.get("voxel_size"), entry.get("affine")
        return Volume(
            array,
            None if size is None else tuple(size),
            None if affine is None else np.array(affine, np.float64),
            entry.get("unit"),
            entry["axes"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{beside}: does not describe {path.name} ({error})") from error


def save_geometry(path: Path, volume: Volume) -> None:
    entry = {
        "axes": volume.axes,
        "unit": volume.unit,
        "voxel_size": volume.voxel_size,
        "affine": volume.affine.tolist() if volume.affine is not None and volume.oriented else None,
    }
    path.write_text(json.dumps(entry, indent=1), encoding="utf-8")


def save(path: Path, volume: Volume) -> None:
    with open(path, "wb") as file:
        np.save(file, volume.array, allow_pickle=False)
