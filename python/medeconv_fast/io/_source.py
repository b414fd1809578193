"""Images that are read region by region: files, folders and arrays, larger than memory or not."""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _validate
from .._arrays import to_numpy
from . import _itk, _lazy, _nifti, _zarr
from ._files import naming
from ._geometry import Geometry
from ._volume import SPATIAL, Volume, warn_of_shear

Fetch = Callable[[tuple[slice, ...]], np.ndarray]
# Compressed NIfTI, DICOM and the like have no random access; larger ones are refused.
WHOLE = 2 * 2**30


class Source:
    """An image of which regions are read: a spatial image per item, an item per time point and channel.

    `open_source` makes it. It may be pickled: the other process opens the same file.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of one item, (z, y, x) or (y, x).
    dtype : numpy.dtype
        Of what `read` gives: the stored one, or that of the values where the file gives its integers a scale.
    stored_dtype : numpy.dtype
        The file's, before its scale.
    items : tuple of (int, int)
        Time point and channel of each item; ((0, 0),) for a plain volume.
    axes : str
        Those of the whole image, in the order t, c, z, y, x.
    chunks : tuple of int
        Spatial extent of what is read in one go.
    geometry : Geometry
        `voxel_size`, `affine`, `unit`, `origin`, `channel_names` and `metadata` are also the source's own.
    path : pathlib.Path or None
    resident : int
        Bytes of the image if it is in memory as a whole, else 0.
    layout : dict
        What the file is: format; of TIFF and OME-Zarr how many images it holds; for Zarr its levels with
        their shapes, chunks and shards.
    """

    def __init__(
        self,
        fetch: Fetch,
        axes: str,
        lengths: Sequence[int],
        dtype: Any,
        chunks: Sequence[int],
        geometry: Geometry,
        identify: Callable[[], dict[str, Any]],
        *,
        stored_dtype: Any = None,
        path: Path | None = None,
        resident: int = 0,
        layout: dict[str, Any] | None = None,
        series: str | int | None = None,
    ) -> None:
        """`axes`, `lengths` and `chunks` are those of what `fetch` gives, which is no view of anything; "s"
        counts as a channel axis, "." is an axis of one to be left out. `series` is the one that was chosen of
        a file or folder of several, as the file names it.
        """
        self._fetch, self._identify, self._series = fetch, identify, series
        self._stored_axes = axes.replace("s", "c")
        if self._stored_axes.count("c") > 1:
            raise ValueError(f"axes: got {axes!r}, channels and colour samples together are not supported")
        self.geometry, self.path, self.layout = geometry, path, layout or {}
        self.resident = resident
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.stored_dtype = np.dtype(dtype if stored_dtype is None else stored_dtype).newbyteorder("=")
        if geometry.spatial_axes not in ("zyx", "yx"):
            raise ValueError(
                f"axes: got {axes!r}, expected an image of two or three spatial axes, y, x or z, y, x"
            )
        length = dict(zip(self._stored_axes, lengths, strict=True))
        if 0 in length.values():
            raise ValueError(f"the image is empty: shape {tuple(lengths)} of the axes {axes}")
        chunk = dict(zip(self._stored_axes, chunks, strict=True))
        self.shape = tuple(int(length.get(a, 1)) for a in geometry.spatial_axes)
        self.chunks = tuple(
            min(int(chunk.get(a, 1)), n) for a, n in zip(geometry.spatial_axes, self.shape, strict=True)
        )
        given, count = len(geometry.channels), length.get("c", 1)
        if given not in (0, count):
            warnings.warn(
                f"{path or 'source'}: {given} channels are named, the image has {count}; the names are "
                "left out",
                UserWarning,
                stacklevel=4,
            )
            self.geometry = dataclasses.replace(geometry, channels=())
        self.items: tuple[tuple[int, int], ...] = tuple(
            (t, c) for t in range(length.get("t", 1)) for c in range(length.get("c", 1))
        )
        self.axes = "".join(a for a in "tc" if a in self._stored_axes) + geometry.spatial_axes
        self._reopen: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def __reduce__(self) -> Any:
        if self._reopen is None:
            raise TypeError("this source cannot be sent to another process: open_source has not made it")
        arguments, options = self._reopen
        return _opened, (arguments, options)

    def __repr__(self) -> str:
        name = str(self.path) if self.path is not None else self.layout.get("format", "array")
        return f"<Source {name}: {len(self.items)} x {self.shape} {self.dtype}>"

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        return self.geometry.voxel_size

    @property
    def affine(self) -> np.ndarray | None:
        """None where the file states no orientation."""
        return self.geometry.affine

    @property
    def unit(self) -> str | None:
        return self.geometry.unit

    @property
    def origin(self) -> tuple[float, ...] | None:
        return self.geometry.origin

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name per channel; empty where the file names none."""
        channels = self.geometry.channels
        return tuple(str(c.get("label", f"channel {i}")) for i, c in enumerate(channels))

    @property
    def metadata(self) -> dict[str, Any]:
        return self.geometry.metadata

    def read(self, item: int, region: Sequence[slice] | None = None) -> np.ndarray:
        """The voxels of a region; any number of threads may read at a time.

        Parameters
        ----------
        item : int
            Which of `items`.
        region : sequence of slice, optional
            One slice per spatial axis, without steps; the whole item by default.

        Returns
        -------
        numpy.ndarray
            (z, y, x) or (y, x), C-contiguous, the caller's own.

        Raises
        ------
        ValueError
            The region lies outside; a chunk is damaged or truncated (the message names its file); the file
            has changed since it was opened.
        OSError
            The file or folder has vanished, or cannot be read.
        """
        number = _validate.integer(item, "item", minimum=0, maximum=len(self.items) - 1)
        place = checked_region(region, self.shape)
        time, channel = self.items[number]
        at = {"t": slice(time, time + 1), "c": slice(channel, channel + 1), ".": slice(0, 1)}
        at |= dict(zip(self.geometry.spatial_axes, place, strict=True))
        values = self._fetch(tuple(at[a] for a in self._stored_axes))
        stored, spatial = self._stored_axes, self.geometry.spatial_axes
        order = [i for i, a in enumerate(stored) if a not in spatial]
        order += [stored.index(a) for a in spatial if a in stored]
        shape = tuple(s.stop - s.start for s in place)
        return np.ascontiguousarray(values.transpose(order).reshape(shape), self.dtype)

    def volume(self) -> Volume:
        """The whole image, with the axes t, c (where it has them), z, y, x."""
        array = np.empty((len(self.items), *self.shape), self.dtype)
        for item in range(len(self.items)):
            array[item] = self.read(item)
        count = {"t": len({t for t, _ in self.items}), "c": len({c for _, c in self.items})}
        shape = tuple(count[a] for a in self.axes if a in count) + self.shape
        return self.geometry.volume(array.reshape(shape), self.axes)

    def identity(self) -> dict[str, Any]:
        """What tells this input from another, or from itself after a change; JSON can hold it.

        Of files: path, size and time of the last change (of Zarr: a digest of the metadata, and one of all
        chunks' sizes and times), and which of its images; of a mapped array its file and where the array lies
        in it; of arrays in memory a digest of their values; of dask arrays their name.
        """
        geometry = self.geometry.to_json()
        return {
            **self._identify(),
            "series": self._series,
            "axes": self._stored_axes,
            "shape": list(self.shape),
            "items": len(self.items),
            "dtype": self.dtype.str,
            "voxel_size": None if self.voxel_size is None else list(self.voxel_size),
            "affine": geometry["affine"],
            "unit": self.unit,
        }


def checked_region(region: Sequence[slice] | None, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices with start and stop inside `shape`."""
    if region is None:
        return tuple(slice(0, n) for n in shape)
    place = tuple(region)
    if len(place) != len(shape) or not all(isinstance(s, slice) and s.step in (None, 1) for s in place):
        raise ValueError(f"region: got {region!r}, expected {len(shape)} slices without steps")
    made = tuple(
        slice(0 if s.start is None else int(s.start), n if s.stop is None else int(s.stop))
        for s, n in zip(place, shape, strict=True)
    )
    if not all(0 <= s.start < s.stop <= n for s, n in zip(made, shape, strict=True)):
        raise ValueError(f"region: got {region!r}, expected slices inside the shape {shape}")
    return made


# ---------------------------------------------------------------- opening


def _opened(arguments: tuple[Any, ...], options: dict[str, Any]) -> Source:
    return open_source(*arguments, **options)


def open_source(
    source: Any,
    *,
    level: int = 0,
    series: str | int | None = None,
    axes: str | None = None,
    voxel_size: Any = None,
    unit: str | None = None,
    max_bytes: int = WHOLE,
) -> Source:
    """Open an image of which regions are read, without reading it.

    Parameters
    ----------
    source : path-like, Volume, numpy.ndarray or dask.array.Array
        A file or folder: OME-Zarr 0.1 to 0.5 and plain Zarr (formats 2 and 3, sharded or not), NIfTI that is
        not compressed, .npy, TIFF, BigTIFF, OME-TIFF. What has no random access (.nii.gz, DICOM, NRRD) is
        read as a whole, up to `max_bytes`.
    level : int
        OME-Zarr: which level of the pyramid; 0 is the full resolution.
    series : str or int, optional
        Which image of a TIFF, or of an OME-Zarr of several (bioformats2raw's layout), from 0. DICOM: the
        series of a folder with several, by UID, number or description.
    axes : str, optional
        One letter of t, c, z, y, x per axis as stored, such as "tczyx", for Zarr and arrays that do not say,
        or say it wrongly. Arrays of two or three axes are (y, x) or (z, y, x).
    voxel_size : float or sequence of float, optional
        In the order (z, y, x), instead of the file's.
    unit : {"mm", "um"}, optional
        Of the voxel size, instead of the file's.
    max_bytes : int
        Largest image that is read as a whole.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError
        There is no such file or folder.
    ValueError
        It is damaged or truncated, its axes or units make no sense, or it has no such level or series; it is
        larger than `max_bytes` and has no random access.
    TypeError
        `source` is neither a path nor an array.
    ImportError
        A library is missing; the message names the extra.

    Warns
    -----
    UserWarning
        As `mf.io.read`; the file holds several images and `series` chose none: the first is read.
    """
    options = {
        "level": level, "series": series, "axes": axes, "voxel_size": voxel_size, "unit": unit,
        "max_bytes": max_bytes,
    }  # fmt: skip
    level = _validate.integer(level, "level", minimum=0)
    if isinstance(source, str | os.PathLike):
        path = Path(source).absolute()
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        with naming(path):
            made = _open_path(path, level, series, axes, unit, max_bytes, sized=voxel_size is not None)
        held = made.layout.get("images", 1)
        if series is None and held > 1:
            warnings.warn(first_of(path, held, made.shape), UserWarning, stacklevel=2)
            options["series"] = 0  # other processes need not say it again
        kept: Any = str(path)
    else:
        if level or series is not None:
            raise ValueError("level and series are for files, and the source is an array")
        made = _open_array(source, axes)
        kept = source
    made.geometry = made.geometry.changed(voxel_size, unit)
    made._reopen = ((kept,), options)
    return made


def _open_path(
    path: Path,
    level: int,
    series: str | int | None,
    axes: str | None,
    unit: str | None,
    max_bytes: int,
    *,
    sized: bool,
) -> Source:
    """`sized`: `unit` is that of a voxel size which is given, and not the file's."""
    if _zarr.is_zarr(path):
        number = None if series is None else number_of_series(series)
        try:
            opened = _zarr.open_path(
                path, level=level, series=number, axes=axes, unit=None if sized else unit
            )
        except ValueError:
            if not sized or unit is None:
                raise
            # Its own unit may be none that is known.
            opened = _zarr.open_path(path, level=level, series=number, axes=axes, unit=unit)
        warn_of_shear(path, opened.geometry.affine, opened.geometry.spatial_axes, 3)
        return _open_zarr(path, opened, level)
    if path.suffix.lower() == ".zarr":
        raise ValueError(f"{path}: is named as Zarr, but has none of its {', '.join(_zarr.METADATA_FILES)}")
    if level:
        raise ValueError(f"level: got {level}, but only OME-Zarr has levels")
    if axes is not None and path.suffix.lower() != ".npy":
        raise ValueError(f"axes: got {axes!r}, but {path.name} says its axes itself")
    # The series of DICOM have names, and text may be one that is a number: that is for `read` to say.
    number = number_of_series(series) if series is not None and _lazy.has_regions(path) else None
    found = _lazy.open_file(path, number, axes)
    return _open_whole(path, series, max_bytes) if found is None else _of_found(path, found, number)


def first_of(path: Path, held: int, shape: tuple[int, ...]) -> str:
    """Of a file of several images none was chosen."""
    return (
        f"{path}: holds {held} images, of which the first is read, {shape}; series=1 to {held - 1} (on the "
        "command line --series) are the others"
    )


def number_of_series(series: str | int | None) -> int:
    """The images of TIFF and OME-Zarr have no names; the command line hands over text."""
    if series is None:
        return 0
    if isinstance(series, str) and not series.isdigit():
        raise ValueError(f"series: got {series!r}, expected the number of an image in the file, from 0")
    return int(series)


def open_streamed(path: Path) -> Source:
    """As `open_source`, for one pass in the order of the file: compressed NIfTI need not fit into memory."""
    if not path.name.lower().endswith(".nii.gz"):
        return open_source(path)
    with naming(path):
        return _of_found(path, _lazy.open_compressed(path))


def _of_found(path: Path, found: _lazy.Found, series: int | None = None) -> Source:
    warn_of_shear(path, found.geometry.affine, found.geometry.spatial_axes, 4)
    return Source(
        found.fetch,
        found.axes,
        found.lengths,
        found.dtype,
        found.chunks,
        found.geometry,
        found.state.identity,
        stored_dtype=found.stored_dtype,
        path=path,
        layout={"format": found.format, "images": found.images},
        series=int(series or 0),  # no choice is the first
    )


def _open_zarr(path: Path, opened: _zarr.Opened, level: int) -> Source:
    region, array = _zarr.Region(opened.array, opened.folder), opened.array
    dtype, scale = array.dtype, opened.scale

    def identify() -> dict[str, Any]:
        files = _zarr.listing(opened.folder)
        return {"path": str(path), "array": str(opened.folder), "metadata": opened.documents, "chunks": files}

    fetch: Fetch = region
    if scale != (1.0, 0.0):
        dtype = _nifti.scaled_dtype(dtype)

        def fetch(index: tuple[slice, ...]) -> np.ndarray:
            return _nifti.scaled(region(index), scale, dtype)

    return Source(
        fetch,
        opened.axes,
        array.shape,
        dtype,
        array.chunks,
        opened.geometry,
        identify,
        stored_dtype=array.dtype,
        path=path,
        layout={**opened.layout, "level": level},
    )


def _open_whole(path: Path, series: str | int | None, max_bytes: int) -> Source:
    from . import read  # which knows all formats, and stands on this module

    size = _lazy.whole_bytes(path)
    if size > max_bytes:
        raise ValueError(
            f"{path}: takes {size} bytes and has no random access, so that it would have to be read as a "
            f"whole (up to max_bytes = {max_bytes}); decompress it (gunzip), or convert it to OME-Zarr with "
            "mf.io.write(NAME.zarr, mf.io.read(…)) where memory allows"
        )
    state = _lazy.State(path, _itk.referred(path))
    volume = read(path, series=series)
    # Whatever the choice was made by, or though there was none: of a folder it is this series of DICOM.
    chosen = volume.metadata.get("series_uid") or series or 0
    made = _of_volume(
        volume,
        state.identity,
        # That of the values is another where the file gives its integers a scale.
        stored_dtype=volume.metadata.get("stored_dtype"),
        series=chosen if isinstance(chosen, str) else int(chosen),
    )
    made.path, made.layout = path, {"format": str(volume.metadata.get("format", path.suffix))}
    return made


def _of_volume(
    volume: Volume,
    identify: Callable[[], dict[str, Any]] | None = None,
    *,
    stored_dtype: Any = None,
    series: str | int | None = None,
) -> Source:
    volume = dataclasses.replace(volume)  # whose fields may have been changed since they were checked
    array = volume.array
    return Source(
        lambda index: array[index].copy(),
        volume.axes,
        array.shape,
        array.dtype,
        array.shape,
        Geometry.of(volume),
        identify or (lambda: {"array": _digest(array)}),
        stored_dtype=stored_dtype,
        resident=array.nbytes,
        layout={"format": "array"},
        series=series,
    )


def _open_array(source: Any, axes: str | None) -> Source:
    if isinstance(source, Volume):
        if axes is not None:
            raise ValueError("axes: the volume has its own; give them to mf.io.Volume")
        return _of_volume(source)
    if type(source).__module__.startswith("dask.array"):
        return _of_dask(source, axes)
    # What was written into a copy-on-write array is not in its file.
    if isinstance(source, np.memmap) and source.filename is not None and source.mode != "c":
        _validate.numeric(source.dtype, "source")
        file, place = _lazy.State(Path(source.filename)), _place_in_file(source)
        return _of_array(source, axes, lambda: {**file.identity(), **place})
    array, _ = to_numpy(source, "source")
    return _of_array(array, axes, lambda: {"array": _digest(array)})


def _place_in_file(array: np.memmap) -> dict[str, Any]:
    """Which of a file's bytes a mapped array or a view of one shows, and in what order."""
    mapped: Any = array._mmap  # type: ignore[attr-defined]
    start, first = (a.__array_interface__["data"][0] for a in (np.frombuffer(mapped, np.uint8), array))
    begin = array.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY  # of what is mapped
    return {"offset": begin + first - start, "strides": list(array.strides), "stored": array.dtype.str}


def _of_array(array: Any, axes: str | None, identify: Callable[[], dict[str, Any]]) -> Source:
    names = _array_axes(axes, array.ndim, array.shape)
    geometry = Geometry("".join(a for a in SPATIAL if a in names))
    return Source(
        lambda index: np.array(array[index]),
        names,
        array.shape,
        array.dtype,
        array.shape,
        geometry,
        identify,
        resident=array.nbytes,
        layout={"format": "array"},
    )


def _of_dask(array: Any, axes: str | None) -> Source:
    _validate.numeric(array.dtype, "source")
    names = _array_axes(axes, array.ndim, array.shape)
    if any(n != n for n in array.shape):
        raise ValueError("source: the dask array has chunks of unknown size; call .compute_chunk_sizes()")

    def fetch(index: tuple[slice, ...]) -> np.ndarray:
        # One thread: the caller reads several regions at a time, and may itself run inside a dask worker.
        return np.asarray(array[index].compute(scheduler="synchronous"))

    return Source(
        fetch,
        names,
        array.shape,
        array.dtype,
        [max(c) for c in array.chunks],
        Geometry("".join(a for a in SPATIAL if a in names)),
        lambda: {"dask": array.name},
        layout={"format": "dask array"},
    )


def _array_axes(axes: str | None, ndim: int, shape: tuple[int, ...]) -> str:
    from ._ome import check_axes

    if axes is None:
        if not 2 <= ndim <= 3:
            raise ValueError(
                f"axes: the array has {ndim} axes of shape {shape}; say which they are, one letter of "
                "t, c, z, y, x per axis, such as 'tczyx'"
            )
        return SPATIAL[3 - ndim :]
    if not isinstance(axes, str):
        raise TypeError(f"axes: got {_validate.shown(axes)}, expected a text such as 'tczyx'")
    if len(check_axes(axes)) != ndim:
        raise ValueError(f"axes: got {axes!r} for an array of {ndim} axes, shape {shape}")
    return axes


def _digest(array: np.ndarray) -> str:
    """Of the values, in the order of the axes, without a copy of the whole."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for part in array.reshape(1) if array.ndim == 0 else array:
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]
