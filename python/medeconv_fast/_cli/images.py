"""From files and options to arrays: geometry, PSF, sub-volumes."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import medeconv_fast as mf

from .session import Session, UserError

# Lengths of one unit in mm, for the units that files carry.
UNITS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "nm": 1e-6}
SAME = 1e-3  # voxel sizes closer than this (relative) are the same: files round them


def read(path: str | os.PathLike[str]) -> Any:
    """mf.io.read with an error that names the file, whatever the reader raised."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file")
    if os.path.isdir(path):
        raise UserError(f"{path}: is a directory, expected an image file (DICOM folders are not built yet)")
    return mf.io.read(path)


def spatial(axes: str) -> str:
    return "".join(letter for letter in axes if letter in "zyx")


def broadcast(values: tuple[float, ...], ndim: int, flag: str, axes: str) -> tuple[float, ...]:
    """One value for all axes, or one per axis."""
    if len(values) == 1:
        return values * ndim
    if len(values) != ndim:
        raise UserError(f"{flag}: got {len(values)} numbers, expected 1 or {ndim} for the axes ({', '.join(axes)})")
    return values


def shown_size(voxel_size: Any, unit: str | None) -> str:
    if voxel_size is None:
        return "unknown"
    return " x ".join(f"{v:.6g}" for v in voxel_size) + f" {unit or '(no unit)'}"


def given_voxel_size(arguments: argparse.Namespace, axes: str) -> tuple[tuple[float, ...], str] | None:
    """The voxel size of the command line and its unit, one value per spatial axis."""
    for unit in ("mm", "um"):
        values = getattr(arguments, f"voxel_size_{unit}")
        if values is not None:
            return broadcast(values, len(axes), f"--voxel-size-{unit}", axes), unit
    return None


def with_geometry(volume: Any, arguments: argparse.Namespace, path: str) -> Any:
    """The volume with the voxel size of the command line, where the file has none or may be overridden."""
    axes = spatial(volume.axes)
    given = given_voxel_size(arguments, axes)
    if given is None:
        if arguments.override_voxel_size:
            raise UserError("--override-voxel-size: needs --voxel-size-mm or --voxel-size-um")
        return volume
    size, unit = given
    flag = f"--voxel-size-{unit}"
    if volume.voxel_size is not None and volume.unit in UNITS:
        factor = UNITS[unit] / UNITS[volume.unit]
        converted = tuple(v * factor for v in size)
        differs = any(abs(a - b) > SAME * b for a, b in zip(converted, volume.voxel_size, strict=True))
        if differs and not arguments.override_voxel_size:
            raise UserError(
                f"{flag}: got {shown_size(size, unit)}, but {path} says {shown_size(volume.voxel_size, volume.unit)}; "
                "leave the option out, or add --override-voxel-size if the file is wrong"
            )
        if not differs:
            return volume
    affine = volume.affine
    if affine is not None and volume.voxel_size is not None:
        # Columns of the affine are in reversed order (x, y, z); the origin keeps its place in the old unit's numbers.
        affine = np.array(affine, dtype=float)
        for i, (new, old) in enumerate(zip(reversed(size), reversed(volume.voxel_size), strict=True)):
            affine[:3, i] *= new / old
        if volume.unit in UNITS:
            affine[:3, 3] *= UNITS[volume.unit] / UNITS[unit]
    return dataclasses.replace(volume, voxel_size=size, unit=unit, affine=affine)


class Psf(NamedTuple):
    array: np.ndarray
    record: dict[str, Any]
    text: str


def psf_for(volume: Any, arguments: argparse.Namespace, session: Session, path: str) -> Psf:
    """The PSF that the options ask for, on the volume's grid."""
    axes = spatial(volume.axes)
    ndim = len(axes)
    for unit in ("mm", "um"):
        values = getattr(arguments, f"fwhm_{unit}")
        if values is None:
            continue
        flag = f"--fwhm-{unit}"
        fwhm = broadcast(values, ndim, flag, axes)
        need_voxel_size(volume, path, flag)
        factor = UNITS[unit] / UNITS[volume.unit]
        array = mf.psf.gaussian(fwhm=tuple(v * factor for v in fwhm), voxel_size=volume.voxel_size)
        record = {"kind": "gaussian", "fwhm": fwhm, "unit": unit, "shape": array.shape}
        return Psf(array, record, f"Gaussian, FWHM {shown_size(fwhm, unit)}")
    if arguments.psf is None:
        raise UserError("a PSF is needed: --psf FILE, --fwhm-mm Z Y X or --fwhm-um Z Y X")

    measured = read(arguments.psf)
    array = np.asarray(measured.array)
    if array.ndim != ndim:
        raise UserError(f"--psf: {arguments.psf} has {array.ndim} axes, the image {path} has {ndim} ({', '.join(axes)})")
    record = {"kind": "file", "path": str(arguments.psf), "shape": array.shape, "resampled": False}
    text = f"{arguments.psf}, {' x '.join(map(str, array.shape))} voxels"
    if measured.voxel_size is None or measured.unit not in UNITS:
        session.note(f"{arguments.psf} has no voxel size: taken as sampled on the image's grid")
        return Psf(array, record, text)
    need_voxel_size(volume, path, "--psf FILE with a voxel size")
    factor = UNITS[measured.unit] / UNITS[volume.unit]
    size = tuple(v * factor for v in measured.voxel_size)
    if any(abs(a - b) > SAME * b for a, b in zip(size, volume.voxel_size, strict=True)):
        array = mf.psf.resample(array, size, volume.voxel_size)
        session.note(
            f"{arguments.psf} has voxels of {shown_size(size, volume.unit)}: resampled to the image's "
            f"{shown_size(volume.voxel_size, volume.unit)}, its sum kept"
        )
        record.update(resampled=True, resampled_from=size, shape=array.shape)
    return Psf(array, record, text)


def need_voxel_size(volume: Any, path: str, why: str) -> None:
    if volume.voxel_size is None:
        raise UserError(f"{why}: {path} has no voxel size; give it with --voxel-size-mm or --voxel-size-um")
    if volume.unit not in UNITS:
        raise UserError(
            f"{why}: {path} has a voxel size without a unit that we know (got {volume.unit!r}); give it with "
            "--voxel-size-mm or --voxel-size-um"
        )


def sub_volumes(array: np.ndarray, axes: str) -> Iterator[tuple[str, np.ndarray]]:
    """Views of `array` over its spatial axes, one per channel and time point, each with a label such as "t=3"."""
    places = [i for i, letter in enumerate(axes) if letter in "zyx"]
    others = [i for i in range(array.ndim) if i not in places]
    moved = np.moveaxis(array, others, range(len(others)))
    for index in np.ndindex(moved.shape[: len(others)]):
        label = ", ".join(f"{axes[i]}={n}" for i, n in zip(others, index, strict=True))
        yield label, moved[index]
