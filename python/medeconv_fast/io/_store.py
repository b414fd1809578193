"""Images that are written block by block, under NAME.partial until they are whole.

NAME.partial is a folder: ``store.json`` (what is being made), ``image.zarr`` (the blocks), ``clipped`` (a
file per region in which values were clipped) and, at the end, ``complete`` (how many values that were). A
block is a chunk, or a shard where there are shards: one file, which zarr writes under another name and
renames, so that it is whole or not there. OME-Zarr is ``image.zarr`` with its pyramid; other formats are made
of it by `_assemble`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .. import _validate
from . import _assemble, _convert, _ome, _pyramid, _zarr
from ._files import check_parent, is_at, lock, write_whole
from ._geometry import Geometry
from ._source import Source, checked_region, open_source
from ._volume import Volume

SUFFIX = ".partial"
STATE, IMAGE, CLIPPED, PREVIOUS = "store.json", "image.zarr", "clipped", "previous"
OUT = "out"  # files of another format, complete
# All is made, and from now on renamed: where the image is no longer here, it has got its name.
COMPLETE = "complete"
# A chunk is what a viewer loads for one look, a shard what a writer keeps in memory: 1 and 8 MiB of float32.
CHUNK_VOXELS = 2**18
CHUNKS_PER_SHARD = 2  # along each axis
WAY_OUT = "; overwrite=True (on the command line --overwrite) replaces it"


class Store:
    """An image that is being written; `create_store` and `open_partial` make it. It may be pickled.

    Attributes
    ----------
    path : pathlib.Path
        The final name.
    partial : pathlib.Path
        The folder in which the image grows; `finish` removes it with all that is in it.
    shape : tuple of int
        Spatial shape of one item.
    items : tuple of (int, int)
        Time point and channel of each, as the source's.
    blocks : tuple of int
        Spatial write unit: regions start at multiples of it, and end at one or at the image's end. No two
        writers may write into one block at a time.
    chunks : tuple of int
        Spatial read unit.
    dtype : numpy.dtype
    scale : (float, float)
        Slope and intercept: value = slope · stored + intercept.
    geometry : Geometry
    id : str or None
        Another one in each image that is begun, of the same name too.
    """

    def __init__(self, partial: Path) -> None:
        self.partial = partial
        try:
            state = json.loads((partial / STATE).read_text(encoding="utf-8"))
            self.path = partial.with_name(state["name"])
            self.shape: tuple[int, ...] = tuple(state["shape"])
            self.items: tuple[tuple[int, int], ...] = tuple((t, c) for t, c in state["items"])
            self.axes = str(state["axes"])
            self.blocks: tuple[int, ...] = tuple(state["blocks"])
            self.chunks: tuple[int, ...] = tuple(state["chunks"])
            self.dtype = np.dtype(state["dtype"])
            self.scale: tuple[float, float] = (float(state["scale"][0]), float(state["scale"][1]))
            self.geometry = Geometry.from_json(state["geometry"])
            self._overwrite = bool(state["overwrite"])
            self.id: str | None = state.get("id")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{partial / STATE}: damaged ({error}); the unfinished image cannot be gone on with"
            ) from error
        self._image = partial / IMAGE
        self._times = sorted({t for t, _ in self.items})
        self._channels = sorted({c for _, c in self.items})
        self._clipped: int | None = None
        self._region: _zarr.Region | None = None
        if not self.named and self._image.exists():
            self._region = _zarr.Region(_opened(self._image / "0"), self._image / "0")

    def __reduce__(self) -> Any:
        return Store, (self.partial,)

    def __repr__(self) -> str:
        return f"<Store {self.path}: {len(self.items)} x {self.shape} {self.dtype}, blocks {self.blocks}>"

    # ------------------------------------------------------------ blocks

    def write(self, item: int, region: Sequence[slice], array: Any) -> str:
        """Store the values of whole blocks, each of them as a whole or not at all.

        Parameters
        ----------
        item : int
            Which of `items`.
        region : sequence of slice
            Starts at multiples of `blocks` and ends at one, or at the image's end.
        array : numpy.ndarray
            Values, of the region's shape.

        Returns
        -------
        str
            Checksum of the voxels as stored; what `checksum` gives of them.

        Raises
        ------
        ValueError
            The region is not made of whole blocks, the array has another shape, or NaN is to be stored as an
            integer.
        OSError
            The disk is full, or the folder has vanished, is that of another image that was begun since, or
            cannot be written to.
        """
        index = self._index(item, region)
        place = index[-len(self.shape) :]
        for s, block, n in zip(place, self.blocks, self.shape, strict=True):
            if s.start % block or (s.stop % block and s.stop != n):
                raise ValueError(
                    f"region: got {region!r}, expected whole blocks of {self.blocks} voxels: two writers "
                    "would share one"
                )
        values = _validate.real(array, "array")
        _validate.same_shape(values, "array", tuple(s.stop - s.start for s in place), "region")
        stored, clipped = _convert.stored(values, self.dtype, self.scale)
        found = self._blocks_at()
        if not found.is_there():  # zarr would make the folders anew
            raise FileNotFoundError(f"{self._image}: has vanished while it was being written")
        with self.at_work(), _at(self.path):
            self._note_clipped(item, place, clipped)
            for chunk in found.chunks_of(index):
                # The region is all of the block; zarr would read one at the image's end before it fills it,
                # and a damaged one could not be replaced.
                found.file_of(chunk).unlink(missing_ok=True)
            found.array[index] = stored.reshape(tuple(s.stop - s.start for s in index))
            for chunk in found.chunks_of(index):
                _sync(found.file_of(chunk))
        return _checksum(stored)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep others from discarding the image meanwhile (``overwrite=True``); any number of writers may.

        Raises
        ------
        FileNotFoundError
            It has been discarded already.
        """
        name = self.partial / STATE
        gone = f"{self._image}: has vanished while it was being written"
        try:
            file = open(name, "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError as error:
            raise FileNotFoundError(gone) from error
        with file:
            locked = _locked(file, shared=True, wait=True)
            if not is_at(file, name):
                raise FileNotFoundError(gone)
            if json.load(file).get("id") != self.id:
                raise FileNotFoundError(f"{self.partial}: is another image, which was begun since")
            if not locked:
                file.close()  # Windows removes no open file
            yield

    def checksum(self, item: int, region: Sequence[slice]) -> str:
        """Checksum of what is stored; that of a block that was never written raises ValueError."""
        index = self._index(item, region)
        found = self._blocks_at()
        for chunk in found.chunks_of(index):
            if not found.file_of(chunk).is_file():
                raise ValueError(f"{found.file_of(chunk)}: this block was never written")
        return _checksum(self.read(item, region))

    def read(self, item: int, region: Sequence[slice] | None = None) -> np.ndarray:
        """What is stored, in the stored dtype; zeros where nothing is yet."""
        index = self._index(item, region)
        shape = tuple(s.stop - s.start for s in index[-len(self.shape) :])
        return np.ascontiguousarray(self._blocks_at()(index).reshape(shape))

    def _blocks_at(self) -> _zarr.Region:
        if self._region is None:
            raise FileNotFoundError(f"{self._image}: the image is finished, or its folder has vanished")
        return self._region

    def _index(self, item: int, region: Sequence[slice] | None) -> tuple[slice, ...]:
        number = _validate.integer(item, "item", minimum=0, maximum=len(self.items) - 1)
        at = dict(zip("tc", self.positions[number], strict=True))
        others = tuple(slice(at[a], at[a] + 1) for a in self.axes if a in at)
        return others + checked_region(region, self.shape)

    def _note_clipped(self, item: int, place: tuple[slice, ...], count: int) -> None:
        """A file per region: whoever writes the region again writes the same file again."""
        name = "-".join(str(v) for v in (item, *(s.start for s in place)))
        note = self.partial / CLIPPED / name
        if count:
            write_whole(note, lambda p: p.write_text(str(count), encoding="ascii"), overwrite=True)
        else:
            note.unlink(missing_ok=True)

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Of the whole image, in the order of `axes`."""
        count = {"t": len(self._times), "c": len(self._channels)}
        return tuple(count[a] for a in self.axes if a in count) + self.shape

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Of each item along the time and channel axes of the image."""
        return [(self._times.index(t), self._channels.index(c)) for t, c in self.items]

    @property
    def clipped(self) -> int:
        """Voxels, of all that were written so far by whatever process, that the dtype could not hold."""
        if self._clipped is not None:
            return self._clipped
        if self.named:  # some of the notes may be gone
            return int((self.partial / COMPLETE).read_text(encoding="ascii"))
        notes = (self.partial / CLIPPED).glob("[0-9]*")
        return sum(int(note.read_text(encoding="ascii")) for note in notes)

    # ------------------------------------------------------------ the end

    @property
    def named(self) -> bool:
        """Whether the image has its final name already, and `finish` was killed while it tidied up."""
        made = self._image if _assemble.is_zarr(self.path) else self.partial / OUT / self.path.name
        return (self.partial / COMPLETE).exists() and not made.exists()

    def missing(self) -> list[tuple[int, tuple[slice, ...]]]:
        """Item and region of each block that was not written yet."""
        found, lacking = self._blocks_at(), []
        grid = [range(0, n, b) for n, b in zip(self.shape, self.blocks, strict=True)]
        for item in range(len(self.items)):
            for starts in itertools.product(*grid):
                region = tuple(
                    slice(s, min(s + b, n)) for s, b, n in zip(starts, self.blocks, self.shape, strict=True)
                )
                (chunk,) = found.chunks_of(self._index(item, region))
                if not found.file_of(chunk).is_file():
                    lacking.append((item, region))
        return lacking

    def finish(self, *, overwrite: bool = False) -> None:
        """Make the pyramid and the metadata, or the file of another format, and give it its name.

        Killed at any moment, it may be called again, also on what `open_partial` gives.

        Parameters
        ----------
        overwrite : bool
            Replace an existing image, also where `create_store` was not told so.

        Raises
        ------
        ValueError
            Blocks are missing, or the format cannot hold the image.
        FileExistsError
            The name has been taken meanwhile, and `overwrite` was True neither here nor when it was begun.
        OSError
            The disk is full, or the folder cannot be written to.
        """
        self._overwrite |= _validate.flag(overwrite, "overwrite")
        with self.at_work(), _at(self.path):
            if not self.named:
                lacking = self.missing()
                if lacking:
                    raise ValueError(
                        f"{self.path}: {len(lacking)} blocks were not written, the first is item "
                        f"{lacking[0][0]}, region {lacking[0][1]}"
                    )
                pairs, clipped = self._complete(), str(self.clipped)
                write_whole(
                    self.partial / COMPLETE, lambda p: p.write_text(clipped, encoding="ascii"), overwrite=True
                )
                for made, name in pairs:
                    self._rename(made, name)
            elif not self.path.exists():
                raise FileNotFoundError(f"{self._image}: has vanished before the image was finished")
            self._clipped, self._region = self.clipped, None
            # What it is stays known to the last: a folder that nobody knows would block the name.
            for entry in sorted(self.partial.iterdir()):
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in (STATE, COMPLETE):
                    entry.unlink()
            aside = _set_aside(self.partial)
        shutil.rmtree(aside, ignore_errors=True)  # NFS removes no folder in which a file is open

    def _complete(self) -> list[tuple[Path, Path]]:
        """What is to get its final name, and that; the image itself last."""
        if _assemble.is_zarr(self.path):
            self._complete_zarr()
            return [(self._image, self.path)]
        out = self.partial / OUT
        if not out.exists():
            _assemble.assemble(self, out)
        names = reversed(_assemble.names(self.path))
        # A run that was killed here may have moved some of them already.
        return [(out / name.name, name) for name in names if (out / name.name).exists()]

    def _complete_zarr(self) -> None:
        for left in self._image.rglob(f"*{SUFFIX}"):  # zarr's names for files of writers that were killed
            left.unlink()
        levels = _pyramid.build(self._image, self.shape, self.geometry.voxel_size)
        windows = _pyramid.windows(self._image / str(len(levels) - 1), self.axes, len(self._channels))
        attributes = _ome.build(
            self.path.name.removesuffix(".zarr").removesuffix(".ome"),
            self.geometry,
            self.axes,
            levels,
            windows,
            self._own(),
        )
        group = _zarr.zarr_library().open_group(store=str(self._image), mode="r+")
        group.update_attributes(attributes)

    def _own(self) -> dict[str, Any]:
        """What OME-NGFF has no place for, and of which level 0 it is true."""
        entry = self.geometry.to_json()
        own: dict[str, Any] = {key: entry[key] for key in ("voxel_size", "affine", "metadata")}
        own["shape"], own["dtype"] = list(self.shape), self.dtype.name
        own["translation"] = list(self.geometry.origin or (0.0,) * len(self.shape))
        if self.scale != (1.0, 0.0):
            own["intensity_scale"] = list(self.scale)
        return own

    def _rename(self, made: Path, name: Path) -> None:
        if name.exists() and not (name.is_dir() and not any(name.iterdir())):
            if not self._overwrite:
                raise FileExistsError(f"{name}: exists already{WAY_OUT}")
            if made == self._image:  # somebody may have put files there meanwhile
                check_zarr(name, overwrite=True)
            previous = self.partial / PREVIOUS / name.name
            previous.parent.mkdir(exist_ok=True)
            if previous.exists():
                (shutil.rmtree if previous.is_dir() else os.unlink)(previous)
            os.rename(name, previous)
        os.rename(made, name)


def _opened(folder: Path) -> Any:
    """Every block becomes a file, one of zeros too: what is not there was not written."""
    return _zarr.open_array(folder, "r+").with_config({"write_empty_chunks": True})


def _checksum(stored: np.ndarray) -> str:
    little = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{little.dtype.str}{little.shape}".encode())
    digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def _sync(path: Path) -> None:
    """A manifest that calls a block done must not outlive it when the power fails."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _at(path: Path) -> Iterator[None]:
    """Say of which image "No space left on device" is."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError | BlockingIOError) and error.errno is None:
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, f"{reason} (at {error.filename})", str(path)) from error


def _locked(file: Any, **how: bool) -> bool:
    """False also where the file system has no locks."""
    try:
        return lock(file, **how)
    except BlockingIOError:
        raise
    except OSError:
        return False


@contextlib.contextmanager
def _idle(partial: Path) -> Iterator[Any]:
    """While nobody is writing to an unfinished image; gives its id."""
    with open(partial / STATE, "rb+") as file:
        try:
            locked = _locked(file)
        except BlockingIOError as error:
            name = partial.name.removesuffix(SUFFIX)
            raise BlockingIOError(
                f"{partial.with_name(name)}: another process is at work on it (it holds {file.name})"
            ) from error
        try:
            number = json.load(file).get("id")
        except ValueError:  # damaged
            number = None
        if not locked:
            file.close()
        yield number


def remove(partial: Path, *, own: str | None = None) -> None:
    """Take an unfinished image away; with `own` only the one of this id.

    Raises
    ------
    BlockingIOError
        Somebody is writing to it.
    """
    try:
        with _idle(partial) as found:
            if own not in (None, found):
                return
            aside = _set_aside(partial)
    except FileNotFoundError:  # whoever was writing it has finished meanwhile
        return
    shutil.rmtree(aside, ignore_errors=True)  # as in `finish`


def _set_aside(partial: Path) -> Path:
    """Under a name of its own: half of it would be no unfinished image, and block the name."""
    aside = Path(tempfile.mkdtemp(prefix=".medeconv-", dir=partial.parent))
    try:
        os.rename(partial, aside / partial.name)
    except BaseException:
        os.rmdir(aside)
        raise
    return aside


# ---------------------------------------------------------------- making one


def partial_of(path: Any) -> Path:
    """The folder in which `path` grows."""
    path = Path(path).absolute()
    return path if path.name.endswith(SUFFIX) else path.with_name(path.name + SUFFIX)


def create_store(
    path: Any,
    source: Source,
    *,
    dtype: Any = "float32",
    scale: Any = None,
    chunks: Any = "auto",
    shards: Any = "auto",
    overwrite: bool = False,
    derivation: str | None = None,
) -> Store:
    """Begin an image that is written block by block, on the grid of a source.

    Parameters
    ----------
    path : path-like
        The final name. One that ends in .zarr or .ome.zarr is OME-Zarr 0.5 on Zarr 3; any other that `write`
        knows is made by `Store.finish` of the blocks. Until then everything is in the folder NAME.partial
        beside it.
    source : Source
        Whose shape, items and geometry the image has.
    dtype : {"float32", "float16", "input"} or dtype
        Of the stored voxels; "input" is that of the source's file.
    scale : float or (float, float), optional
        value = slope · stored + intercept; needed for integers (1 rounds to whole numbers). What the dtype
        cannot hold is clipped and counted, see `Store.clipped`. OME-Zarr and NIfTI keep it; in other formats
        it must be 1.
    chunks : "auto" or sequence of int
        Spatial read unit, (z, y, x) or (y, x); by default about 1 MiB of float32.
    shards : "auto", None or sequence of int
        Spatial write unit, multiples of the chunks; by default two chunks along each axis. None: a file per
        chunk.
    overwrite : bool
        Let `finish` replace an existing image, and discard an unfinished one of the same name now.
    derivation : str, optional
        What the metadata, and of a DICOM series its Derivation Description, say was done; by default what the
        source's metadata say.

    Returns
    -------
    Store

    Raises
    ------
    FileExistsError
        The image, or an unfinished one, exists and `overwrite` is False; or what exists is no image, or a
        Zarr folder that holds more than one (a plate, labels).
    BlockingIOError
        Another process is writing the unfinished one.
    ValueError, TypeError
        An argument that makes no sense; a format that cannot hold such an image.
    OSError
        The directory is missing, cannot be written to, or the disk is full.
    """
    if not isinstance(source, Source):
        raise TypeError(f"source: got {_validate.shown(source)}, expected what mf.io.open_source gives")
    path, overwrite = Path(path).absolute(), _validate.flag(overwrite, "overwrite")
    if path.name.endswith(SUFFIX):
        raise ValueError(f"{path}: names of unfinished images end in {SUFFIX}; give the final name")
    if not isinstance(derivation, str | None):
        raise TypeError(f"derivation: got {_validate.shown(derivation)}, expected a text or None")
    partial = partial_of(path)
    wanted, pair = _convert.output(dtype, scale, source.stored_dtype)
    if path.name.lower().endswith(_assemble.SCALED):
        # NIfTI keeps float32: what is stored is for the scale that it will be read with.
        pair = (float(np.float32(pair[0])), float(np.float32(pair[1])))
    inner, outer = _grid(source.shape, chunks, shards)
    check_new(path, source, dtype, scale, overwrite=overwrite)
    _check_free(partial, overwrite)
    counts = {"t": len({t for t, _ in source.items}), "c": len({c for _, c in source.items})}
    others = [counts[a] for a in source.axes if a in counts]
    geometry = source.geometry
    if derivation is not None:
        metadata = {**geometry.metadata, "derivation": derivation}
        geometry = dataclasses.replace(geometry, metadata=metadata)
    state = {
        "version": 1,
        "id": uuid.uuid4().hex,
        "name": path.name,
        "shape": source.shape,
        "items": source.items,
        "axes": source.axes,
        "blocks": outer or inner,
        "chunks": inner,
        "dtype": wanted.name,
        "scale": pair,
        "geometry": geometry.to_json(),
        "overwrite": overwrite,
    }
    with _at(path):
        if partial.exists():
            remove(partial)
        temporary = Path(tempfile.mkdtemp(prefix=".medeconv-", dir=path.parent))
        try:
            ones = (1,) * len(others)
            _pyramid.create_group(temporary / IMAGE)
            _pyramid.create_level(
                temporary / IMAGE / "0",
                (*others, *source.shape),
                (*ones, *inner),
                None if outer is None else (*ones, *outer),
                wanted,
                source.axes,
            )
            (temporary / CLIPPED).mkdir()
            (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            try:
                os.rename(temporary, partial)
            except OSError as error:
                if not partial.exists():
                    raise
                raise FileExistsError(
                    f"{partial}: another process has begun it meanwhile; mf.io.open_partial goes on with it"
                ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Store(partial)


def open_partial(path: Any) -> Store:
    """The unfinished image of a name, to go on with.

    Parameters
    ----------
    path : path-like
        The final name, or NAME.partial.

    Returns
    -------
    Store

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        Its state is damaged.
    """
    partial = partial_of(path)
    if not (partial / STATE).is_file():
        raise FileNotFoundError(f"{partial}: no unfinished image there")
    return Store(partial)


def check_new(path: Path, source: Source, dtype: Any, scale: Any, *, overwrite: bool) -> None:
    """Refuse a name, or what its format cannot hold, before any work."""
    if _assemble.is_zarr(path):
        check_zarr(path, overwrite=overwrite)
        return
    _assemble.check_names(path, overwrite=overwrite)
    _assemble.check(path, source, *_convert.output(dtype, scale, source.stored_dtype))


def _check_free(partial: Path, overwrite: bool) -> None:
    if partial.exists():
        if not (partial / STATE).is_file():
            raise FileExistsError(
                f"{partial}: exists and is no unfinished image; remove it or choose another name"
            )
        if not overwrite:
            raise FileExistsError(
                f"{partial}: an unfinished image; mf.io.open_partial goes on with it, overwrite=True (on the "
                "command line --overwrite) discards it"
            )
        with contextlib.suppress(FileNotFoundError), _idle(partial):
            pass  # that of somebody who has finished meanwhile is gone


def check_zarr(path: Path, *, overwrite: bool) -> None:
    """Refuse the name of a Zarr folder now that could not be given to one after the work is done.

    Raises
    ------
    FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError
    """
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"{path}: exists already{WAY_OUT}")
        if not _zarr.is_zarr(path):
            raise FileExistsError(
                f"{path}: exists and is no Zarr; replacing it would delete it, choose another name"
            )
        try:
            kept = _zarr.foreign(path)
        except ValueError as error:
            raise FileExistsError(
                f"{error}; what else replacing {path} would delete is not known: remove it or choose another "
                "name"
            ) from error
        if kept is not None:
            raise FileExistsError(
                f"{path}: holds {kept.relative_to(path)}, which is no part of one image; replacing the "
                "folder would delete it, choose another name"
            )
    check_parent(path)


def write_volume(path: Path, volume: Volume, *, overwrite: bool) -> None:
    """A whole volume as OME-Zarr."""
    source = open_source(volume)
    store = create_store(path, source, dtype=volume.dtype, scale=1, overwrite=overwrite)
    try:
        # Ctrl-C leaves a thread alone: no block is still being written when the folder is taken away.
        with store.at_work(), ThreadPoolExecutor(1, "medeconv-write") as writing:
            for item, region in store.missing():
                writing.submit(store.write, item, region, source.read(item, region)).result()
        store.finish()
    except BaseException:
        with contextlib.suppress(OSError):
            remove(store.partial, own=store.id)
        raise


def _grid(shape: tuple[int, ...], chunks: Any, shards: Any) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunks and shards: about as long as wide, and no longer than the image."""
    if isinstance(chunks, str) and chunks == "auto":
        edge, inner = 16, tuple(min(16, n) for n in shape)
        while math.prod(inner) < CHUNK_VOXELS and inner != shape:
            edge *= 2
            inner = tuple(min(edge, n) for n in shape)
    else:
        inner = _edges(chunks, "chunks", shape)
    if shards is None:
        return inner, None
    if isinstance(shards, str) and shards == "auto":
        return inner, tuple(c if c >= n else CHUNKS_PER_SHARD * c for c, n in zip(inner, shape, strict=True))
    outer = _edges(shards, "shards", shape)
    if any(s % c for s, c in zip(outer, inner, strict=True)):
        if not (isinstance(chunks, str) and chunks == "auto"):
            raise ValueError(f"shards: got {outer}, expected multiples of the chunks {inner}")
        inner = tuple(s if s <= c else math.gcd(s, c) for s, c in zip(outer, inner, strict=True))
    return inner, outer


def _edges(given: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(given, str) or np.ndim(given) != 1 or len(given) != len(shape):
        raise ValueError(
            f"{name}: got {_validate.shown(given)}, expected 'auto' or {len(shape)} integers, one per "
            "spatial axis"
        )
    return tuple(_validate.integer(n, f"{name}[{i}]", minimum=1) for i, n in enumerate(given))
