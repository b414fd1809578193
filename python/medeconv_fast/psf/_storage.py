"""A PSF in a file, with its voxel size."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from ._sampling import _checked

_UNITS = ("mm", "um")


def save(path: Any, psf: Any, voxel_size: Any, unit: str, *, overwrite: bool = False) -> None:
    """Write a PSF with its voxel size, in any format of `medeconv_fast.io`.

    Parameters
    ----------
    path : path-like
        Its ending decides the format; float64 fits .npy, .nii, .nii.gz and .ome.tif (ImageJ's .tif holds
        float32 at most: convert with ``psf.astype("float32")``).
    psf : array_like
        One to three axes (z, y, x); its dtype is kept (bool as uint8 where the format has none), and so are
        its values.
    voxel_size : float or sequence of float
        In the axes' order, in `unit`.
    unit : {"mm", "um"}
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError
        The file exists and `overwrite` is False.
    ValueError, TypeError
        NaN or Inf, a wrong number of axes or lengths, an unknown unit, a dtype that the format cannot hold.
    ImportError
        The format's library is missing; the message names the extra.
    OSError
        The directory is missing or not writable, or the disk is full.
    """
    from .. import io  # here, as most uses of a PSF need no files, and formats take long to load

    _checked(psf)
    array = np.asarray(psf)
    size = _validate.voxel_size(voxel_size, "voxel_size", array.ndim)
    _validate.choice(unit, "unit", _UNITS)
    volume = io.Volume(array, size, None, unit)
    io.write(path, volume, overwrite=_validate.flag(overwrite, "overwrite"))


def load(path: Any, unit: str) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """Read a PSF and its voxel size.

    Parameters
    ----------
    path : path-like
    unit : {"mm", "um"}
        Of the returned voxel size, whichever the file's is.

    Returns
    -------
    psf : numpy.ndarray
        One to three axes (z, y, x), as stored: neither converted nor normalised.
    voxel_size : tuple of float or None
        None where the file has none.

    Raises
    ------
    FileNotFoundError
    ValueError, TypeError
        Channels or time points, NaN or Inf, a voxel size whose unit the file does not say, an unknown unit, a
        file that is not what its ending says.
    ImportError
        The format's library is missing; the message names the extra.
    """
    from .. import io

    _validate.choice(unit, "unit", _UNITS)
    volume = io.read(path)
    if volume.axes != volume.spatial_axes:
        raise ValueError(
            f"{path}: has the axes {volume.axes} (shape {volume.shape}), expected a PSF of one to three axes "
            "z, y, x without channels or time points"
        )
    _checked(volume.array, str(path))
    if volume.voxel_size is None:
        return volume.array, None
    if volume.unit is None:
        raise ValueError(
            f"{path}: has voxels of {volume.voxel_size} in no stated unit, expected mm or µm; read it with "
            "medeconv_fast.io.read and say which"
        )
    return volume.array, volume.to_unit(unit).voxel_size
