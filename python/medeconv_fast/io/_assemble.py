"""Files of other formats than Zarr, made of the blocks of a finished store.

The blocks are copied into one array in a file that is mapped into memory, in the order of the axes that the
format writes. Of NIfTI and .npy that is the file itself; of other formats it is what their writer is given.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _nifti, _npy
from ._source import Source

if TYPE_CHECKING:
    from ._store import Store

# Formats whose files have another order than t, c, z, y, x.
ORDERS = {".nii": "ctzyx", ".nii.gz": "ctzyx", ".tif": "tzcyx", ".tiff": "tzcyx"}
SCALED = (".nii", ".nii.gz")
TOGETHER = 16  # planes
RAW: dict[str, Any] = {".nii": _nifti, ".npy": _npy}


def is_zarr(path: Path) -> bool:
    return path.name.lower().endswith(".zarr")


def names(path: Path) -> tuple[Path, ...]:
    """The image, and what goes with it."""
    from . import destinations  # of all formats; stands on this module

    return destinations(path)


def check_names(path: Path, *, overwrite: bool) -> None:
    from . import check_destination

    check_destination(path, overwrite=overwrite)


def check(path: Path, source: Source, dtype: np.dtype, scale: tuple[float, float]) -> None:
    """Find out before computing whether the format can hold such an image: by writing a tiny one."""
    from . import check_derivable, is_dicom, write

    if scale != (1.0, 0.0) and not path.name.lower().endswith(SCALED):
        raise ValueError(
            f"scale: {path.name} has no place for it; choose a name ending in .zarr or .nii, or scale=1"
        )
    if is_dicom(path):
        like = source.geometry.volume(np.zeros(source.shape, np.uint8), source.geometry.spatial_axes)
        if len(source.items) > 1:
            raise ValueError(f"{path}: {len(source.items)} time points or channels, a series holds one")
        check_derivable(like, path)
        return
    shape = [1] * (len(source.axes) - len(source.shape)) + [1] * len(source.shape)
    like = source.geometry.volume(np.zeros(shape, dtype), source.axes)
    with tempfile.TemporaryDirectory() as directory:
        trial = os.path.join(directory, path.name)
        try:
            write(trial, like)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise type(error)(str(error).replace(trial, str(path))) from error


def assemble(store: Store, out: Path) -> None:
    """Make the folder `out` with the files of the format; it is there only when they are whole."""
    from . import is_dicom, write

    name = store.path.name.lower()
    order = next((axes for suffix, axes in ORDERS.items() if name.endswith(suffix)), "tczyx")
    length = dict(zip(store.axes, store.full_shape, strict=True))
    axes = "".join(a for a in order if a in length)
    if is_dicom(store.path):  # has one item
        axes = store.geometry.spatial_axes
    scratch = store.partial / "assembling"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "files").mkdir(parents=True)
    raw = next((module for suffix, module in RAW.items() if name.endswith(suffix)), None)
    whole = np.memmap(scratch / "array", store.dtype, "w+", shape=tuple(length[a] for a in axes))
    volume = store.geometry.volume(whole, axes)
    if raw is None and axes != store.axes and set(axes) == set(store.axes):
        # The file's order is how the values lie there, not what its axes are called: the image that is
        # written has the store's. Set afterwards, because a volume that is made so would copy the values.
        volume.array = volume.array.transpose([axes.index(a) for a in store.axes])
        volume.axes = store.axes
    if store.scale != (1.0, 0.0):
        volume.metadata["intensity_scale"] = store.scale
    if raw is not None:  # the values lie in the file as they do in memory
        _fill(store, scratch / "files" / store.path.name, raw.prefix(volume), axes)
        if raw is _npy:
            _npy.save_geometry(scratch / "files" / _npy.sidecar(store.path).name, volume)
    else:
        _fill(store, scratch / "array", b"", axes)
        write(scratch / "files" / store.path.name, volume)
    del whole, volume
    os.unlink(scratch / "array")
    os.rename(scratch / "files", out)


def _fill(store: Store, path: Path, prefix: bytes, axes: str) -> None:
    """Write the blocks into a file that is mapped into memory, behind the prefix."""
    length = dict(zip(store.axes, store.full_shape, strict=True))
    size = len(prefix) + math.prod(store.full_shape) * store.dtype.itemsize
    with open(path, "w+b" if prefix else "r+b") as file:
        file.write(prefix)
        file.truncate(size)
        # As large as the image from the start: a full disk must not be met as a fault of memory.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.flush()
        mapped = mmap.mmap(file.fileno(), size)
        whole: np.ndarray = np.ndarray([length[a] for a in axes], store.dtype, mapped, len(prefix))
        for item, (time, channel) in enumerate(store.positions):
            at = {"t": time, "c": channel}
            part = whole[tuple(at.get(a, slice(None)) for a in axes)]
            grid = [range(0, n, b) for n, b in zip(store.shape, store.blocks, strict=True)]
            for starts in itertools.product(*grid):
                region = tuple(
                    slice(s, min(s + b, n)) for s, b, n in zip(starts, store.blocks, store.shape, strict=True)
                )
                block, within = store.read(item, region), part[region]
                for first in range(0, len(block), TOGETHER):
                    within[first : first + TOGETHER] = block[first : first + TOGETHER]
                    if hasattr(mmap, "MADV_DONTNEED"):
                        # The pages are the system's to write; mapped ones would count as this process'
                        # memory, and a few rows of a plane map up to 2 MiB.
                        mapped.madvise(mmap.MADV_DONTNEED)
                del within
        del part, whole
        mapped.flush()
        mapped.close()
