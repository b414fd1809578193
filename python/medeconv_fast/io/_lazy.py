"""Regions of files that have random access: uncompressed NIfTI, .npy, TIFF.

Compressed NIfTI is read plane after plane where one pass is all that is asked for.

Files are mapped into memory; a mapped file that another program cuts short would kill the process at the next
access, so every read first makes sure that the file is as it was when it was opened.
"""

from __future__ import annotations

import gzip
import itertools
import math
import mmap
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._extras import library
from . import _nifti, _npy, _tiff
from ._geometry import Geometry
from ._volume import SPATIAL

TOGETHER = 16  # planes that are read before their pages are given back


class State:
    """Size and time of the last change of a file, or of all files of a folder.

    `others` are files besides that hold what belongs to it.
    """

    def __init__(self, path: Path, others: Sequence[Path] = ()) -> None:
        self.path = path
        self._others = [other for other in others if other != path]
        self._was = self._now()

    def _now(self) -> list[tuple[str, int, int]]:
        paths = sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path, *self._others]
        return [(p.name, (s := os.stat(p)).st_size, s.st_mtime_ns) for p in paths]

    def check(self) -> None:
        try:
            now = self._now()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path}: has vanished while it was being read") from None
        if now != self._was:
            raise ValueError(f"{self.path}: has been changed while it was being read")

    def identity(self) -> dict[str, Any]:
        """Of now, not of when it was opened."""
        now = self._now()
        if len(now) == 1:
            return {"path": str(self.path), "bytes": now[0][1], "mtime_ns": now[0][2]}
        return {"path": str(self.path), "files": [list(entry) for entry in now]}


class Found(NamedTuple):
    fetch: Callable[[tuple[slice, ...]], np.ndarray]
    axes: str
    lengths: tuple[int, ...]
    dtype: np.dtype
    stored_dtype: np.dtype
    chunks: tuple[int, ...]
    geometry: Geometry
    state: State
    format: str
    images: int = 1  # of the file


def has_regions(path: Path) -> bool:
    """Whether a file's format has random access."""
    return path.name.lower().endswith((".tif", ".tiff", ".nii", ".npy"))


def open_file(path: Path, series: int | None, axes: str | None) -> Found | None:
    """None where the format has no random access."""
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return _open_tiff(path, series or 0)
    if name.endswith((".nii", ".npy")) and series is not None:
        raise ValueError(f"series: got {series!r}, but the file holds one image")
    if name.endswith(".nii"):
        return _open_nifti(path)
    if name.endswith(".npy"):
        return _open_npy(path, axes)
    return None


def whole_bytes(path: Path) -> int:
    """About how much memory the image takes, for formats that are read as a whole."""
    if path.name.lower().endswith(".nii.gz"):
        header = _nifti.read_header(path)
        return math.prod(header.shape) * header.dtype.itemsize
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


# ---------------------------------------------------------------- NIfTI and .npy


def _open_nifti(path: Path) -> Found:
    header, state = _nifti.read_header(path), State(path)
    mapped = _mapped(path, header)
    plain = header.scale == (1.0, 0.0)

    def fetch(index: tuple[slice, ...]) -> np.ndarray:
        state.check()
        values = _copied(mapped, index)
        return values if plain else _nifti.scaled(values, header.scale, header.dtype)

    return _of_nifti(header, fetch, state)


def open_compressed(path: Path) -> Found:
    """A .nii.gz: regions in the order of the file are read in one pass, any other from its beginning."""
    header, state = _nifti.read_header(path), State(path)
    file = gzip.open(path)  # noqa: SIM115 (open as long as what is returned)
    alone = threading.Lock()
    lead, plane = header.shape[:-2], header.shape[-2:]
    size = math.prod(plane) * header.stored.itemsize

    def fetch(index: tuple[slice, ...]) -> np.ndarray:
        state.check()
        made = np.empty([s.stop - s.start for s in index], header.stored)
        planes = made.reshape(-1, *made.shape[-2:])
        places = itertools.product(*(range(s.start, s.stop) for s in index[:-2]))
        with alone:
            for values, place in zip(planes, places, strict=True):
                number = int(np.ravel_multi_index(place, lead)) if lead else 0
                try:
                    file.seek(header.offset + number * size)
                    content = file.read(size)
                    if number == math.prod(lead) - 1:
                        _nifti.read_on(file)
                except (OSError, EOFError, zlib.error) as error:
                    raise ValueError(f"{path}: the file ends early or is damaged ({error})") from error
                if len(content) < size:
                    raise ValueError(f"{path}: the file ends early")
                values[...] = np.frombuffer(content, header.stored).reshape(plane)[index[-2:]]
        if header.scale == (1.0, 0.0):
            return made
        return _nifti.scaled(made, header.scale, header.dtype)

    return _of_nifti(header, fetch, state)


def _of_nifti(header: _nifti.Header, fetch: Callable[[tuple[slice, ...]], np.ndarray], state: State) -> Found:
    # A file whose codes are both 0 states no orientation; nibabel makes one up.
    codes = header.metadata["qform_code"], header.metadata["sform_code"]
    spatial = "".join(a for a in header.axes if a in SPATIAL)
    geometry = Geometry.stated(
        spatial,
        header.voxel_size,
        None if codes == (0, 0) else header.affine,
        header.unit,
        header.metadata,
    )
    return Found(
        fetch,
        header.axes,
        header.shape,
        header.dtype,
        header.stored,
        _planes(header.axes, header.shape),
        geometry,
        state,
        str(header.metadata["format"]),
    )


def _mapped(path: Path, header: _nifti.Header) -> np.ndarray:
    _nifti.check_length(path, header)
    return np.memmap(path, header.stored, "r", header.offset, header.shape)


def _copied(mapped: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
    """A region; the pages of the file that it lies in do not stay in this process' memory."""
    made = np.empty([s.stop - s.start for s in index], mapped.dtype)
    planes = made.reshape(-1, *made.shape[-2:])
    for number, place in enumerate(itertools.product(*(range(s.start, s.stop) for s in index[:-2]))):
        planes[number] = mapped[place][index[-2:]]
        if number % TOGETHER == TOGETHER - 1 or number == len(planes) - 1:
            _forget(mapped)
    return made


def _forget(mapped: np.ndarray) -> None:
    file = getattr(mapped, "_mmap", None)
    if file is not None and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


def _open_npy(path: Path, axes: str | None) -> Found:
    beside = _npy.sidecar(path)
    state, mapped = State(path, [beside] if beside.exists() else []), _npy.load(path, mapped=True)
    size, affine, unit, axes = _npy.described(path, mapped.ndim, mapped.shape, axes)
    assert axes is not None
    spatial = "".join(a for a in axes if a in SPATIAL)
    samples = mapped.shape[axes.index("s")] if "s" in axes else 0

    def fetch(index: tuple[slice, ...]) -> np.ndarray:
        state.check()
        return _copied(mapped, index)

    geometry = Geometry.stated(spatial, size, affine, unit, _npy.time_of(path, mapped.shape), samples)
    chunks = _planes(axes, mapped.shape)
    return Found(fetch, axes, mapped.shape, mapped.dtype, mapped.dtype, chunks, geometry, state, "NumPy")


def _planes(axes: str, shape: Sequence[int]) -> tuple[int, ...]:
    """What lies together in a file that is not chunked."""
    return tuple(n if a in "yx" else 1 for a, n in zip(axes, shape, strict=True))


# ---------------------------------------------------------------- TIFF


def _open_tiff(path: Path, series: int) -> Found:
    zarr = library("zarr", "zarr", "reading regions of TIFF files")
    state = State(path, _tiff.referred(path))
    store, about = _tiff.open_series(path, series)
    array = zarr.open_array(store=store, mode="r")
    names = about.names  # of the stored axes

    def fetch(index: tuple[slice, ...]) -> np.ndarray:
        state.check()
        try:
            with _tiff.complaints() as found:
                values = np.asarray(array[index])
        except (MemoryError, OSError):
            raise
        except Exception as error:  # codecs raise all kinds
            raise ValueError(
                f"{path}: the values of the region {_shown(names, index)} are damaged "
                f"({type(error).__name__}: {error})"
            ) from error
        if found:
            raise ValueError(f"{path}: the file ends early or is damaged ({'; '.join(found)})")
        return about.values(values)

    length = dict(zip(names, array.shape, strict=True))
    geometry = Geometry.stated(
        "".join(a for a in about.axes if a in SPATIAL),
        about.voxel_size,
        about.affine,
        about.unit,
        about.metadata,
        length.get("s", 0),
    )
    return Found(
        fetch,
        "".join(a if a in about.axes else "." for a in names),
        tuple(array.shape),
        about.dtype,
        about.dtype if about.signed else about.stored,
        tuple(array.chunks),
        geometry,
        state,
        str(about.metadata["format"]),
        about.metadata.get("series_in_file", 1),
    )


def _shown(names: str, index: tuple[slice, ...]) -> str:
    return ", ".join(f"{a} {s.start} to {s.stop - 1}" for a, s in zip(names, index, strict=True))
