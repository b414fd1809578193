"""Zarr (formats 2 and 3) by zarr-python: what is in a folder, and regions of its arrays.

zarr takes a chunk that is not there for one that holds the fill value, and so would give zeros for an array
whose folder is gone: every read makes sure that the array is still there. What it raises for a damaged chunk
does not say which one that is: `Region` finds out.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._extras import library
from . import _ome
from ._geometry import Geometry

GROUP_FILES = ("zarr.json", ".zgroup")
ARRAY_FILES = ("zarr.json", ".zarray")
METADATA_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


# What else lies in Zarr folders: consolidated metadata, what killed writers left, OME-XML.
OTHER_FILES = re.compile(r"\.zmetadata|.*\.partial|.*\.ome\.xml")
CHUNKS = re.compile(r"c|(c\.)?\d+(\.\d+)*")  # files, or folders of them


def zarr_library() -> Any:
    return library("zarr", "zarr", "reading and writing Zarr")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return path.is_dir() and any((path / name).is_file() for name in METADATA_FILES[:3])


def foreign(path: Path) -> Path | None:
    """A file or folder in a Zarr folder that is not of the one image there; chunks are not looked through.

    Other images and labels are none of its parts, neither are the wells of a plate.

    Raises
    ------
    ValueError
        The metadata is damaged.
    """
    kind, attributes = node(path)
    if kind == "array":
        return _foreign(path, None)
    try:
        (image,) = attributes.get("ome", attributes)["multiscales"]
        levels = {Path(entry["path"]) for entry in image["datasets"]}
    except (KeyError, TypeError, ValueError):
        levels = set()
    return _foreign(path, levels)


def _foreign(folder: Path, levels: set[Path] | None) -> Path | None:
    """`levels` are the arrays below a group, and None in one of them."""
    for entry in sorted(folder.iterdir()):
        name = Path(entry.name)
        if entry.is_file() and (entry.name in METADATA_FILES or OTHER_FILES.fullmatch(entry.name)):
            continue
        if levels is None:
            if is_zarr(entry) or not CHUNKS.fullmatch(entry.name):
                return entry
            continue
        if not entry.is_dir():
            return entry
        below = {level.relative_to(name) for level in levels if name in (level, *level.parents)}
        if not below and entry.name != "OME":
            return entry
        found = _foreign(entry, None if Path() in below else below)
        if found is not None:
            return found
    return None


class Opened(NamedTuple):
    """One array of a folder, its place, and what the folder says of it."""

    array: Any
    folder: Path
    axes: str
    geometry: Geometry
    scale: tuple[float, float]  # value = slope · stored + intercept
    layout: dict[str, Any]
    documents: dict[str, Any]  # the metadata that identifies it


# ---------------------------------------------------------------- opening


def open_path(
    path: Path,
    *,
    level: int = 0,
    series: int | None = None,
    axes: str | None = None,
    unit: str | None = None,
) -> Opened:
    if not is_zarr(path):
        raise ValueError(f"{path}: not a Zarr folder, it holds none of {', '.join(METADATA_FILES[:3])}")
    kind, attributes = node(path)
    if kind == "array":
        _no_choice(level, series, "an array")
        return _plain(path, attributes, axes)
    inner = attributes.get("ome", attributes)
    images = 1
    if not _ome.is_multiscale(attributes) and "bioformats2raw.layout" in inner:
        images = sum(entry.name.isdigit() and is_zarr(entry) for entry in path.iterdir())
        path = path / str(series or 0)
        if not is_zarr(path):
            raise ValueError(f"series: got {series}, but {path} does not exist")
        _, attributes = node(path)
    elif isinstance(inner.get("multiscales"), list) and len(inner["multiscales"]) > 1:
        images = len(inner["multiscales"])  # in one group
        if not 0 <= (series or 0) < images:
            raise ValueError(f"series: got {series}, but {path} holds {images} images")
        chosen = {**inner, "multiscales": [inner["multiscales"][series or 0]]}
        attributes = {**attributes, "ome": chosen} if "ome" in attributes else chosen
    elif series is not None:
        _no_choice(0, series, "one image")
    if _ome.is_multiscale(attributes):
        opened = _multiscale(path, attributes, level, axes, unit)
        return opened._replace(layout={**opened.layout, "images": images})
    if "plate" in inner or "well" in inner:
        raise ValueError(
            f"{path}: a plate or well of many images; name one of them, such as {path}/A/1/0 "
            "(row, column, field)"
        )
    arrays = sorted(
        p.parent for p in path.glob("*/*") if p.name in ARRAY_FILES and node(p.parent)[0] == "array"
    )
    if len(arrays) != 1:
        found = ", ".join(str(a) for a in arrays[:8]) or "none"
        raise ValueError(
            f"{path}: a Zarr group without OME-NGFF metadata; name the array in it (found: {found})"
        )
    _no_choice(level, None, "an array")
    return _plain(arrays[0], node(arrays[0])[1], axes)


def _no_choice(level: int, series: int | None, what: str) -> None:
    if level:
        raise ValueError(f"level: got {level}, but this is {what}, which has one level")
    if series is not None:
        raise ValueError(f"series: got {series!r}, but this is {what}")


def node(path: Path) -> tuple[str, dict[str, Any]]:
    """ "array" or "group", and the attributes."""
    if (path / "zarr.json").is_file():
        entry = _document(path / "zarr.json")
        return str(entry.get("node_type")), entry.get("attributes") or {}
    attributes = _document(path / ".zattrs") if (path / ".zattrs").is_file() else {}
    return "array" if (path / ".zarray").is_file() else "group", attributes


def _document(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entry, dict):
            raise ValueError("expected an object")
        return entry
    except ValueError as error:
        raise ValueError(f"{path}: damaged metadata ({error})") from error


def open_array(folder: Path, mode: str = "r") -> Any:
    zarr = zarr_library()
    if not any((folder / name).is_file() for name in ARRAY_FILES):
        raise ValueError(f"{folder}: no Zarr array there, although the metadata names it")
    try:
        array = zarr.open_array(store=str(folder), mode=mode)
    except OSError:
        raise
    except Exception as error:  # zarr raises all kinds for codecs, dtypes and grids that it does not know
        raise ValueError(f"{folder}: cannot be opened ({type(error).__name__}: {error})") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{folder}: holds {array.dtype} values, expected real numbers")
    return array


def _plain(folder: Path, attributes: dict[str, Any], axes: str | None) -> Opened:
    array = open_array(folder)
    names = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    if axes is None:
        axes = _named(names, array.ndim)
    if axes is None:
        raise ValueError(
            f"{folder}: {array.ndim} axes of shape {array.shape}"
            + (f" named {', '.join(map(str, names))}" if names else "")
            + "; say which they are with axes=, one letter of t, c, z, y, x per axis, such as 'tczyx'"
        )
    _fits(axes, array, folder)
    spatial = "".join(a for a in "zyx" if a in axes)
    layout = {"format": f"Zarr {array.metadata.zarr_format}", "levels": [_described(array, "", None, None)]}
    return Opened(array, folder, axes, Geometry(spatial), (1.0, 0.0), layout, _documents(folder))


def _named(names: Sequence[Any] | None, ndim: int) -> str | None:
    if names and all(isinstance(n, str) for n in names):
        letters = "".join(str(n).lower() for n in names)
        if len(letters) == ndim and not set(letters) - set(_ome.LETTERS):
            return letters
        return None
    return "zyx"[3 - ndim :] if 2 <= ndim <= 3 else None


def _fits(axes: str, array: Any, folder: Path) -> None:
    _ome.check_axes(axes)
    if len(axes) != array.ndim:
        raise ValueError(
            f"axes: got {axes!r} for {folder}, which has {array.ndim} axes of shape {array.shape}"
        )


def _multiscale(
    path: Path, attributes: dict[str, Any], level: int, axes: str | None, unit: str | None
) -> Opened:
    try:
        names = [str(d["path"]) for d in attributes.get("ome", attributes)["multiscales"][0]["datasets"]]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: the OME-NGFF metadata lists no datasets ({error!r})") from error
    if not 0 <= level < len(names):
        raise ValueError(f"level: got {level}, but {path} has the levels 0 to {len(names) - 1}")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{path}: the metadata names a level outside the folder, {name!r}")
    arrays = [open_array(path / name) for name in names]
    array = arrays[level]
    if axes is not None:
        _fits(axes, array, path)
        # The names that the file gives need not make sense then.
        attributes = _renamed(attributes, axes)
    image = _ome.parse(attributes, array.ndim)
    geometry = _ome.geometry(image, level, path, arrays[0].shape, unit)
    own = image.own
    scale = tuple(float(v) for v in own.get("intensity_scale") or (1.0, 0.0))
    if scale != (1.0, 0.0) and own.get("dtype") not in (None, array.dtype.name):
        warnings.warn(
            f"{path}: another program has changed the dtype to {array.dtype}; the scale of the values kept "
            f"for {own['dtype']} is left out",
            UserWarning,
            stacklevel=3,
        )
        scale = (1.0, 0.0)
    layout = {
        "format": f"OME-Zarr {image.version} (Zarr {array.metadata.zarr_format})",
        "levels": [
            _described(a, l.path, l.scale, l.translation) for a, l in zip(arrays, image.levels, strict=True)
        ],
    }
    documents = _documents(path) | _documents(path / names[level], names[level] + "/")
    return Opened(array, path / names[level], image.axes, geometry, (scale[0], scale[1]), layout, documents)


def _renamed(attributes: dict[str, Any], axes: str) -> dict[str, Any]:
    ome = dict(attributes.get("ome", attributes))
    first = dict(ome["multiscales"][0])
    given = first.get("axes") or [{}] * len(axes)
    units = [entry.get("unit") if isinstance(entry, dict) else None for entry in given]
    first["axes"] = [
        {"name": a, "unit": unit} if a in "tzyx" and unit else {"name": a}
        for a, unit in zip(axes, units, strict=True)
    ]
    ome["multiscales"] = [first]
    return {**attributes, "ome": ome}


def _described(array: Any, path: str, scale: Any, translation: Any) -> dict[str, Any]:
    compressors = getattr(array, "compressors", ())
    return {
        "path": path,
        "shape": tuple(array.shape),
        "dtype": str(array.dtype),
        "chunks": tuple(array.chunks),
        "shards": None if array.shards is None else tuple(array.shards),
        "scale": scale,
        "translation": translation,
        # zarr has checksums among them.
        "compression": [name for c in compressors if (name := _codec_name(c)) != "crc32c"],
    }


def _codec_name(codec: Any) -> str:
    name = getattr(codec, "codec_id", None)  # numcodecs, of Zarr 2
    return str(name or type(codec).__name__.removesuffix("Codec").lower())


def _documents(folder: Path, prefix: str = "") -> dict[str, str]:
    found = {}
    for name in METADATA_FILES:
        if (folder / name).is_file():
            found[prefix + name] = hashlib.blake2b((folder / name).read_bytes(), digest_size=16).hexdigest()
    return found


# ---------------------------------------------------------------- regions


class Region:
    """Reads regions of an array, in its own axes; any number of threads at a time."""

    def __init__(self, array: Any, folder: Path) -> None:
        self.array, self.folder = array, folder
        self.grid = tuple(array.shards or array.chunks)
        self._metadata = next(folder / n for n in ARRAY_FILES if (folder / n).is_file())

    def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
        if self.array.shards is not None:
            self._check_not_empty(index)
        try:
            values = np.asarray(self.array[index])
        except MemoryError:
            raise
        except Exception as error:  # codecs raise all kinds
            raise self._explained(index, error) from error
        if not self.is_there():
            raise FileNotFoundError(f"{self.folder}: has vanished while it was being read")
        return values

    def is_there(self) -> bool:
        return self._metadata.is_file()

    def chunks_of(self, index: tuple[slice, ...]) -> list[tuple[int, ...]]:
        """The chunks (shards, where there are any) that a region touches."""
        return list(
            itertools.product(
                *(range(s.start // g, -(-s.stop // g)) for s, g in zip(index, self.grid, strict=True))
            )
        )

    def file_of(self, chunk: tuple[int, ...]) -> Path:
        return self.folder / self.array.metadata.encode_chunk_key(chunk)

    def _check_not_empty(self, index: tuple[slice, ...]) -> None:
        """zarr takes a shard of no bytes for one that is not there."""
        for chunk in self.chunks_of(index):
            with contextlib.suppress(FileNotFoundError):
                if self.file_of(chunk).stat().st_size == 0:
                    raise ValueError(f"{self.file_of(chunk)}: damaged or truncated chunk (it is empty)")

    def _explained(self, index: tuple[slice, ...], error: Exception) -> Exception:
        """What went wrong, with the file in which it did."""
        if not self.is_there():
            return FileNotFoundError(f"{self.folder}: has vanished while it was being read")
        for chunk in self.chunks_of(index):
            part = tuple(
                slice(max(s.start, c * g), min(s.stop, (c + 1) * g))
                for s, c, g in zip(index, chunk, self.grid, strict=True)
            )
            try:
                self.array[part]
            except Exception as found:
                where, error = self.file_of(chunk), found
                break
        else:
            where = self.folder
        if isinstance(error, OSError):
            return OSError(error.errno or 5, error.strerror or str(error), str(where))
        return ValueError(f"{where}: damaged or truncated chunk ({type(error).__name__}: {error})")


def listing(folder: Path) -> dict[str, Any]:
    """Number, bytes and a digest of names, sizes and times of all files: changes when a chunk does."""
    count = total = 0
    digest = hashlib.blake2b(digest_size=16)
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            found = os.stat(os.path.join(root, name))
            count, total = count + 1, total + found.st_size
            place = os.path.relpath(os.path.join(root, name), folder)
            digest.update(f"{place}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return {"files": count, "bytes": total, "digest": digest.hexdigest()}
