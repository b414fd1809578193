"""Images with their geometry: read, write, convert.

==============================  =============================================================================
NIfTI                           .nii, .nii.gz (NIfTI-1, NIfTI-2, any byte order), extra ``io``
DICOM                           a folder, or a file of any name; written as a derived series into a folder (a
                                name without ending), extra ``io``
NRRD, MetaImage                 .nrrd, .nhdr, .mha, .mhd, extra ``itk``
OME-TIFF                        .ome.tif, .ome.tiff, extra ``io``
TIFF, ImageJ TIFF               .tif, .tiff; written as ImageJ TIFF (uint8, uint16, float32), extra ``io``
OME-Zarr, Zarr                  .ome.zarr, .zarr, or any folder that is Zarr; written as OME-Zarr 0.5, extra
                                ``zarr``
NumPy                           .npy; the geometry in NAME.npy.json beside it
==============================  =============================================================================

A file or folder appears under its final name only when whole; an existing one is replaced only with
``overwrite=True``. `open_source` and `create_store` read and write regions of images larger than memory.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from . import _dicom, _dicom_series, _itk, _nifti, _npy, _tiff, _zarr
from ._files import check_folder, check_writable, naming, write_whole, write_whole_folder
from ._source import Source, first_of, number_of_series, open_source
from ._store import Store, check_zarr, create_store, open_partial, write_volume
from ._volume import Volume, warn_of_shear

__all__ = [
    "Source",
    "Store",
    "Volume",
    "check_derivable",
    "check_destination",
    "check_writable",
    "create_store",
    "destinations",
    "formats",
    "is_dicom",
    "is_zarr",
    "open_partial",
    "open_source",
    "read",
    "write",
]

SUFFIXES = (
    ".nii", ".nii.gz", *_dicom.SUFFIXES, *_itk.SUFFIXES, ".ome.tif", ".ome.tiff", ".tif", ".tiff", ".npy",
    ".ome.zarr", ".zarr",
)  # fmt: skip
FOLDER = "(folder)"  # in place of an ending: a DICOM series


def formats() -> tuple[str, ...]:
    """File name endings that `read` and `write` know; a folder is a DICOM series."""
    return SUFFIXES


def _suffix(path: Path) -> str:
    """The ending that decides the format; where nothing of that name exists, no ending means a folder."""
    name = path.name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    if _zarr.is_zarr(path):
        return ".zarr"
    if path.is_dir() or (not path.exists() and not path.suffix):
        return FOLDER
    if _dicom.has_prefix(path):
        return _dicom.SUFFIXES[0]
    raise ValueError(
        f"{path}: unknown file type {path.suffix or '(no ending)'!r}, expected one of {', '.join(SUFFIXES)}, "
        "or a folder of DICOM files"
    )


def destinations(path: Any) -> tuple[Path, ...]:
    """What `write` makes: the image, and for .npy, .nhdr and .mhd the file that goes with it."""
    path = Path(path)
    if path.name.lower().endswith(".npy"):
        return path, _npy.sidecar(path)
    return path, *_itk.beside(path)


def sources(path: Any) -> tuple[Path, ...]:
    """What `read` reads: what `write` makes, and the files besides that a header or a set names."""
    path = Path(path)
    return *destinations(path), *_itk.referred(path), *_tiff.referred(path)


def is_part(path: Path, folder: Path) -> bool:
    """Whether a file that lies in a folder belongs to the image that the folder is."""
    return is_zarr(folder) or is_dicom(path) or _dicom.has_prefix(path)


def check_destination(path: Any, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Refuse a name now under which `write` could not write an image after the work is done.

    Parameters
    ----------
    path : path-like
    overwrite : bool
        Allow what exists.

    Returns
    -------
    tuple of pathlib.Path
        `destinations`.

    Raises
    ------
    FileExistsError, IsADirectoryError, FileNotFoundError, NotADirectoryError, PermissionError
        As `check_writable`; for a DICOM series also a folder that holds anything but an earlier one, for
        .nhdr and .mhd a file NAME.raw that is not what an earlier header of this name, and none other, refers
        to.
    """
    paths = destinations(path)
    if _is_folder(paths[0]):
        check_folder(paths[0], overwrite=overwrite, replaceable=_dicom_series.replaceable)
        return paths
    if paths[0].name.lower().endswith(".zarr"):
        check_zarr(paths[0], overwrite=overwrite)
        return paths
    _itk.check_beside(paths[0])
    for each in paths:
        check_writable(each, overwrite=overwrite)
    return paths


def is_dicom(path: Any) -> bool:
    """Whether `write` makes DICOM of this name.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
        True for the name of a folder (no ending) and for .dcm, .dicom and .ima.
    """
    return _is_folder(Path(path)) or Path(path).name.lower().endswith(_dicom.SUFFIXES)


def is_zarr(path: Any) -> bool:
    """Whether a path is a Zarr array or group that exists.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
    """
    return _zarr.is_zarr(Path(path))


def check_derivable(volume: Volume, path: Any) -> None:
    """Refuse a volume now of which `write` could not make the derived DICOM series `path`.

    Parameters
    ----------
    volume : Volume
    path : path-like
        For which `is_dicom`.

    Raises
    ------
    ValueError
        It was not read from DICOM, is no longer on its source's grid, or the source is in `path`.
    """
    with naming(Path(path)):
        source = _dicom_series.source_of(volume)
        _dicom_series.check_not_source(Path(path), source)
        if not _is_folder(Path(path)):
            _dicom_series.check_single(source)


def _is_folder(path: Path) -> bool:
    try:
        return _suffix(path) == FOLDER
    except ValueError:
        return False  # what is wrong with the name is for `write` to say


def read(
    path: Any, *, series: str | int | None = None, channel: str | None = None, frame: int | None = None
) -> Volume:
    """Read an image.

    Parameters
    ----------
    path : path-like
        Its ending decides the format; see `formats`. A folder is a DICOM series, and so is a file of another
        ending that is DICOM by its bytes.
    series : str or int, optional
        TIFF, and OME-Zarr of several images: which, from 0 (the default). DICOM: the series of a folder with
        several, by UID, number or description.
    channel : {"red", "green", "blue", "luminance"}, optional
        DICOM: what to read of a colour image; without it colour is refused. "luminance" is
        0.299 R + 0.587 G + 0.114 B, whatever the file is stored as.
    frame : int, optional
        DICOM: one frame of a multi-frame file, counted from 0.

    Returns
    -------
    Volume
        Values as the file means them: scaled integers come as float32 (float64 where more than 16 bits are
        stored), unscaled ones in their own dtype, in native byte order; ImageJ's signed 16 bits
        are int16. DICOM: each slice by its own slope and intercept; `metadata` has ``intensity_unit`` ("HU",
        "BQML", …) and ``dicom``, from which `write` makes a derived series; a single slice has the axes
        (y, x).

    Raises
    ------
    FileNotFoundError
    ValueError
        A file that is not what its ending says, is damaged or truncated, or holds something else than real
        numbers; a TIFF of colours by a palette, of others than RGB, or with an Orientation other than 1; a
        .npy file of more than three axes without NAME.npy.json beside it; a format without the `series`,
        `channel` or `frame` that is asked for. DICOM: several series without a choice; slices that are not
        one even stack (gaps, duplicates, several orientations or sizes, gantry tilt, localizers among them,
        no positions); colour without `channel`, films without `frame`; files that are not images, are
        encrypted or in a transfer syntax that pydicom does not read.
    ImportError
        The format's library is missing; the message names the extra.

    Warns
    -----
    UserWarning
        The file gives a voxel size along some axes only: it is left out. Its axes are more than 0.1 degrees
        from perpendicular: lengths count along the slanted axes. The pixdim of a NIfTI file contradicts its
        sform: the sform's sizes are taken. Another program has changed a TIFF beside the orientation that
        `write` kept in it: that is left out; or a .npy, so that NAME.npy.json is of another shape: all that
        it says is left out. The OME-XML of a TIFF is damaged, or does not tell which of its images is the one
        that is read: it is left out. A TIFF or OME-Zarr holds several images (frames that were appended one
        by one, too) and `series` chose none: the first is read; ImageJ calibrates its values by a function
        that is no straight line: they come as stored; ImageJ or OME-TIFF show them by a palette of mixed
        colours: they are taken for intensities. DICOM: there is no pixel size, or only one at the detector;
        some values are padding; files of a folder were left out.

    Notes
    -----
    `Volume.affine` of a NIfTI file is nibabel's ``img.affine``, also where the file states no orientation
    (qform and sform codes 0); `Volume.oriented` is then False, and no file that it is written to claims one.
    Sizes of 1 in no unit and without orientation are what NIfTI holds where none are known: `voxel_size` is
    then None.

    Planes of NRRD and MetaImage, and NRRD without a space, have no affine: ``metadata["origin"]`` (in the
    order of `voxel_size`) and ``metadata["direction"]`` (ITK's, of x and y) hold their place, and `write`
    restores it in these formats as long as the grid is the same. Their fourth axis has ``time_step`` and, as
    NIfTI, ``toffset``.

    The axes of Zarr come in the order t, c, z, y, x, whatever order they are stored in; colour samples are
    written as channels. OME-Zarr is read at full resolution; `open_source` reads the other levels,
    and regions.

    The slices of a DICOM volume go along the normal of their orientation (its rows' direction times its
    columns' direction), at the distances of their positions.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = _suffix(path)
    with naming(path):
        if suffix.endswith(".zarr") and channel is None and frame is None:
            return open_source(path, series=series).volume()
        if suffix == FOLDER or suffix in _dicom.SUFFIXES:
            return _dicom.read(path, series, channel, frame)
        if channel is not None or frame is not None:
            name = "channel" if channel is not None else "frame"
            raise ValueError(f"{name}: is for DICOM, which {suffix} is not")
        if suffix.startswith((".tif", ".ome")):
            volume = _tiff.read(path, number_of_series(series))
            held = volume.metadata.get("series_in_file", 1)
            if series is None and held > 1:
                warnings.warn(first_of(path, held, volume.shape), UserWarning, stacklevel=2)
        elif series is not None:
            raise ValueError(f"series: got {series!r}, but a file of the type {suffix} holds one image")
        elif suffix.startswith(".nii"):
            volume = _nifti.read(path)
        elif suffix == ".npy":
            volume = _npy.read(path)
        else:
            volume = _itk.read(path, suffix)
        warn_of_shear(path, volume.affine, volume.spatial_axes, 2)
        return volume


def write(path: Any, volume: Volume, *, overwrite: bool = False) -> None:
    """Write an image in the format of the name's ending; the dtype is kept, nothing is rescaled.

    NIfTI, TIFF, NRRD and MetaImage have no bool and get uint8, 0 and 1; DICOM has 16 bits (see the notes).

    Parameters
    ----------
    path : path-like
        A name without ending is that of a folder: a derived DICOM series, of a volume read from DICOM.
    volume : Volume
    overwrite : bool
        Replace an existing file, or the folder of an earlier derived series.

    Raises
    ------
    FileExistsError
        The file exists and `overwrite` is False; a folder holds something else than an earlier series;
        NAME.raw beside a .nhdr or .mhd is not, or not only, the values of an earlier header of this name.
    ValueError
        A dtype or axis that the format cannot hold; for DICOM a volume that was not read from DICOM, or is no
        longer on its source's grid.
    BlockingIOError
        Another process is writing Zarr of this name.
    OSError
        The directory is missing or not writable, or the disk is full: then nothing is left under the name,
        and an existing file stays as it was.

    Notes
    -----
    A derived DICOM series holds 16-bit integers with one slope and intercept for all slices: values are kept
    within half a slope, whole numbers that fit exactly. ``volume.metadata["derivation"]`` is what its
    Derivation Description says was done. Its UIDs depend on the source's, on that text and on the
    values only.
    """
    if not isinstance(volume, Volume):
        raise TypeError(
            f"volume: got {type(volume).__name__}, expected a Volume (mf.io.Volume(array, voxel_size=…))"
        )
    volume = dataclasses.replace(volume)  # whose fields may have been changed since they were checked
    path = Path(path)
    suffix = _suffix(path)
    with naming(path):
        if suffix == FOLDER:
            check_derivable(volume, path)
            write_whole_folder(
                path,
                lambda p: _dicom_series.save(p, volume),
                overwrite=overwrite,
                replaceable=_dicom_series.replaceable,
            )
        elif suffix in _dicom.SUFFIXES:
            check_derivable(volume, path)
            write_whole(path, lambda p: _dicom_series.save_file(p, volume), overwrite=overwrite)
        elif suffix in _itk.SUFFIXES:
            _itk.write(path, volume, overwrite=overwrite)
        elif suffix.startswith(".nii"):
            write_whole(path, lambda p: _nifti.save(p, volume), overwrite=overwrite)
        elif suffix.endswith(".zarr"):
            write_volume(path, volume, overwrite=overwrite)
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
