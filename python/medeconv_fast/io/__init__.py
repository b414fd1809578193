"""Images with their geometry: read, write, convert.

==============================  =============================================================================
NIfTI                           .nii, .nii.gz (NIfTI-1, NIfTI-2, any byte order), extra ``io``
OME-TIFF                        .ome.tif, .ome.tiff, extra ``io``
TIFF, ImageJ TIFF               .tif, .tiff; written as ImageJ TIFF (uint8, uint16, float32), extra ``io``
NumPy                           .npy; the geometry in NAME.npy.json beside it
==============================  =============================================================================

A file appears under its final name only when whole; an existing one is replaced only with ``overwrite=True``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import _nifti, _npy, _tiff
from ._files import check_writable, naming, write_whole
from ._volume import Volume

__all__ = ["Volume", "check_writable", "destinations", "formats", "read", "write"]

SUFFIXES = (".nii", ".nii.gz", ".ome.tif", ".ome.tiff", ".tif", ".tiff", ".npy")
UNBUILT = (".dcm", ".dicom", ".ima", ".nrrd", ".nhdr", ".mha", ".mhd", ".zarr")


def formats() -> tuple[str, ...]:
    """File name endings that `read` and `write` know."""
    return SUFFIXES


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    if any(name.endswith(s) for s in UNBUILT) or path.is_dir():
        kind = "a directory (DICOM series, Zarr)" if path.is_dir() else path.suffix
        raise NotImplementedError(f"{path}: {kind} is not built yet; supported are {', '.join(SUFFIXES)}")
    raise ValueError(
        f"{path}: unknown file type {path.suffix or '(no ending)'!r}, expected one of {', '.join(SUFFIXES)}"
    )


def destinations(path: Any) -> tuple[Path, ...]:
    """The files that `write` makes under this name: the image, and for .npy its geometry."""
    path = Path(path)
    return (path, _npy.sidecar(path)) if path.name.lower().endswith(".npy") else (path,)


def read(path: Any, *, series: int = 0) -> Volume:
    """Read an image.

    Parameters
    ----------
    path : path-like
        Its ending decides the format; see `formats`.
    series : int
        Which image of a TIFF with several.

    Returns
    -------
    Volume
        Values as the file means them: scaled integers come as float32 (float64 where more than 16 bits are
        stored), unscaled ones in their own dtype, in native byte order.

    Raises
    ------
    FileNotFoundError
    ValueError
        A file that is not what its ending says, is damaged or truncated, or holds something else than real
        numbers; a .npy file of more than three axes without NAME.npy.json beside it.
    NotImplementedError
        Formats that are not built yet.
    ImportError
        The format's library is missing; the message names the extra.

    Warns
    -----
    UserWarning
        The file gives a voxel size along some axes only: it is left out.

    Notes
    -----
    `Volume.affine` of a NIfTI file is nibabel's ``img.affine``, also where the file states no orientation
    (qform and sform codes 0); `Volume.oriented` is then False, and no file that it is written to claims one.
    Sizes of 1 in no unit and without orientation are what NIfTI holds where none are known: `voxel_size` is
    then None.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = _suffix(path)
    with naming(path):
        if suffix.startswith(".nii"):
            return _nifti.read(path)
        if suffix == ".npy":
            return _npy.read(path)
        return _tiff.read(path, series)


def write(path: Any, volume: Volume, *, overwrite: bool = False) -> None:
    """Write an image in the format of the name's ending; the dtype is kept, nothing is rescaled.

    Parameters
    ----------
    path : path-like
    volume : Volume
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError
        The file exists and `overwrite` is False.
    ValueError
        A dtype or axis that the format cannot hold.
    OSError
        The directory is missing or not writable, or the disk is full: then nothing is left under the name,
        and an existing file stays as it was.
    """
    if not isinstance(volume, Volume):
        raise TypeError(
            f"volume: got {type(volume).__name__}, expected a Volume (mf.io.Volume(array, voxel_size=…))"
        )
    path = Path(path)
    suffix = _suffix(path)
    with naming(path):
        if suffix.startswith(".nii"):
            write_whole(path, lambda p: _nifti.save(p, volume), overwrite=overwrite)
        elif suffix == ".npy":
            _write_npy(path, volume, overwrite)
        else:
            ome = suffix.startswith(".ome")
            write_whole(path, lambda p: _tiff.save(p, volume, ome=ome), overwrite=overwrite)


def _write_npy(path: Path, volume: Volume, overwrite: bool) -> None:
    # The geometry first: a .npy without it would silently be read as one without geometry.
    beside = _npy.sidecar(path)
    check_writable(path, overwrite=overwrite)
    previous = beside.read_bytes() if beside.exists() else None
    write_whole(beside, lambda p: _npy.save_geometry(p, volume), overwrite=overwrite)
    try:
        write_whole(path, lambda p: _npy.save(p, volume), overwrite=overwrite)
    except BaseException:
        if previous is None:
            beside.unlink(missing_ok=True)
        else:  # the array that stays belongs to the geometry that was there
            beside.write_bytes(previous)
        raise
