"""Networks in files: safetensors, with the architecture in its metadata. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._extras import library
from ..io._files import write_whole

if TYPE_CHECKING:
    from ._model import Model

FORMAT = "medeconv_fast.nn 1"


def path_of(value: Any, name: str) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: got {_validate.shown(value)}, expected the name of a file")
    return Path(value)


def _digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    made = hashlib.sha256()
    for name in sorted(metadata.keys() - {"sha256"}):
        made.update(f"{name} {metadata[name]} ".encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        made.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        made.update(array.tobytes())
    return made.hexdigest()


def description(model: Model) -> dict[str, str]:
    """What makes `model` again, but for its weights."""
    try:
        notes = json.dumps(model.notes)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"notes: got {_validate.shown(model.notes)}, expected what JSON knows ({error})"
        ) from error
    return {
        "format": FORMAT,
        "architecture": json.dumps(model.architecture()),
        "dtype": model.dtype.name,
        "notes": notes,
    }


def write_tensors(
    path: Path,
    tensors: dict[str, np.ndarray],
    model: Model,
    metadata: dict[str, str],
    *,
    overwrite: bool,
) -> None:
    """Write tensors beside what makes `model` again, whole or not at all."""
    numpy = library("safetensors.numpy", "nn", "writing a network")
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = description(model) | metadata
    metadata["sha256"] = _digest(tensors, metadata)
    write_whole(path, lambda p: numpy.save_file(tensors, p, metadata=metadata), overwrite=overwrite)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file that `write_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not such a file, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, expected a file of a network")
    safetensors = library("safetensors", "nn", "reading a network")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: got a file of the format {metadata.get('format')!r}, expected {FORMAT!r}, written by "
            "Model.save or by fit"
        )
    # Files written earlier have the checksum of the weights alone.
    if metadata.get("sha256") not in (_digest(tensors, metadata), _digest(tensors, {})):
        raise ValueError(
            f"{path}: weights or description are not those that were written (their checksum differs)"
        )
    return tensors, metadata


def read_architecture(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(metadata["architecture"])
        found["kind"], found["arguments"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its description of the network cannot be read ({error})") from error
    return found
