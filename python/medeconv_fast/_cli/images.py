"""From files and options to arrays: geometry, PSF, sub-volumes."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import tempfile
from typing import Any, NamedTuple

import numpy as np

import medeconv_fast as mf

from ..algorithms._restore import choose
from ..io._volume import resized
from ..psf._sampling import centroid
from .session import Session, UserError

UNITS = {"mm": 1.0, "um": 1e-3, "nm": 1e-6}  # in mm
TURNED = 10  # degrees by which a PSF's axes may lie otherwise than the image's
OFF = 0.4  # voxels by which the core of a measured PSF may lie beside shape // 2: noise moves it, too
CORE = 0.25  # of the largest value; what is above it is the core, as `mf.psf.from_beads` centres it
SAME = 1e-3  # voxel sizes closer than this (relative) are the same: files round them


def parts(volume: mf.io.Volume) -> list[tuple[str, tuple[Any, ...]]]:
    """Every channel and time point: a label such as "t=3" (empty if there is one only), and its index."""
    others = [letter for letter in volume.axes if letter not in volume.spatial_axes]
    return [
        (
            ", ".join(
                f"{a}={i}" for a, i in zip(others, [i for i in index if isinstance(i, int)], strict=True)
            ),
            index,
        )
        for index in volume.spatial_indices()
    ]


def read_image(path: str, arguments: argparse.Namespace) -> mf.io.Volume:
    """The image of a command, with the options that choose among what a file or folder holds."""
    return mf.io.read(path, series=arguments.series, channel=arguments.channel, frame=arguments.frame)


def settled_method(
    arguments: argparse.Namespace, metadata: dict[str, Any], options: dict[str, Any], session: Session
) -> str:
    """``--method``; "auto" comes to the Wiener filter where the file says that its scale is signed."""
    if arguments.method != "auto":
        return str(arguments.method)
    unit = metadata.get("intensity_unit")
    method, why = choose(options, lambda: (0.0, 0.0), unit)  # the values are looked at later
    if why is None:
        return "auto"
    session.note(
        f"{arguments.input} is in Hounsfield units (HU), a signed scale, for which --method auto takes the "
        "Wiener filter; for Richardson-Lucy give --method rl and --negative shift"
    )
    return method


def check_format(path: str, like: mf.io.Volume, dtype: Any) -> None:
    """Find out before computing whether the format of `path` can hold such an image in this dtype.

    Writes a tiny one of the same axes into a temporary directory: the format, its library, the dtype and the
    axes are then known to be fine. A DICOM series is derived from the image's own files and holds any dtype.
    Whether the name itself can be written is `Session.claim`'s business.
    """
    if mf.io.is_dicom(path):
        try:
            mf.io.check_derivable(like, path)
        except ValueError as error:
            raise UserError(str(error)) from error
        return
    # As many colour samples as there are: their number decides how they are stored; as many channels as are
    # named, or the format would warn of the trial's.
    shape = [n if a in "cs" else min(n, 2) for a, n in zip(like.axes, like.shape, strict=True)]
    tiny = dataclasses.replace(like, array=np.zeros(shape, dtype=dtype))
    with tempfile.TemporaryDirectory() as directory:
        trial = os.path.join(directory, os.path.basename(path))
        try:
            mf.io.write(trial, tiny)
        except (ValueError, TypeError, NotImplementedError) as error:
            text = str(error).replace(trial, path)
            if like.dtype != dtype:
                text += f" (an image of {like.dtype} is computed in {np.dtype(dtype)})"
            raise UserError(text) from error


@dataclasses.dataclass
class Outline(mf.io.Volume):
    """The geometry of an image that is not read: one voxel, with the `lengths` of the whole."""

    lengths: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lengths

    @classmethod
    def of(cls, lengths: tuple[int, ...], voxel_size: Any, affine: Any, unit: str | None) -> Outline:
        one = np.zeros((1,) * len(lengths), np.float32)
        return cls(one, voxel_size, affine, unit, "zyx"[3 - len(lengths) :], lengths=tuple(lengths))


def broadcast(values: tuple[float, ...], ndim: int, flag: str, axes: str) -> tuple[float, ...]:
    """One value for all axes, or one per axis."""
    if len(values) == 1:
        return values * ndim
    if len(values) != ndim:
        raise UserError(
            f"{flag}: got {len(values)} numbers, expected 1 or {ndim} for the axes ({', '.join(axes)})"
        )
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


def with_geometry(volume: mf.io.Volume, arguments: argparse.Namespace, path: str) -> mf.io.Volume:
    """The volume with the voxel size of the command line, where the file has none or may be overridden."""
    axes = volume.spatial_axes
    given = given_voxel_size(arguments, axes)
    if given is None:
        if arguments.override_voxel_size:
            raise UserError("--override-voxel-size: needs --voxel-size-mm or --voxel-size-um")
        return volume
    size, unit = given
    flag = f"--voxel-size-{unit}"
    if volume.voxel_size is not None:
        # A file whose lengths have no unit is taken to mean the unit that is given.
        factor = 1.0 if volume.unit is None else UNITS[unit] / UNITS[volume.unit]
        converted = tuple(v * factor for v in size)
        differs = any(abs(a - b) > SAME * b for a, b in zip(converted, volume.voxel_size, strict=True))
        if differs and not arguments.override_voxel_size:
            raise UserError(
                f"{flag}: got {shown_size(size, unit)}, but {path} says "
                f"{shown_size(volume.voxel_size, volume.unit)}; leave the option out, or add "
                "--override-voxel-size if the file is wrong"
            )
        if not differs and volume.unit is not None:
            return volume
    affine = volume.affine if volume.oriented else None
    if affine is not None and volume.voxel_size is not None:
        factor = 1.0 if volume.unit is None else UNITS[volume.unit] / UNITS[unit]
        affine = resized(affine, [v * factor for v in volume.voxel_size], size, factor)
    return dataclasses.replace(volume, voxel_size=size, unit=unit, affine=affine)


def read_space(path: str, what: str, flag: str = "") -> mf.io.Volume:
    """A file that must hold no other axes than those of space: colours or time points are not planes of z."""
    volume = mf.io.read(path)
    if volume.axes != volume.spatial_axes:
        lengths = " x ".join(map(str, volume.shape))
        raise UserError(
            f"{flag}{path}: has the axes {', '.join(volume.axes)} ({lengths}), expected {what} of space only "
            "(z, y, x) without channels, colours or time points"
        )
    return volume


class Psf(NamedTuple):
    array: np.ndarray
    record: dict[str, Any]
    text: str


def psf_for(
    volume: mf.io.Volume,
    arguments: argparse.Namespace,
    session: Session,
    path: str,
    scale: tuple[float, ...] | None = None,
) -> Psf:
    """The PSF that the options ask for, on the volume's grid.

    `scale`: the size of its voxels in those of the file `path`, where preprocessing has changed it.
    """
    psf = _psf_for(volume, arguments, session, path, scale)
    if float(psf.array.max()) > 0.999 * float(psf.array.sum()):
        # What millimetres instead of micrometres make of one: nothing would be restored, and nobody told.
        session.note(f"the PSF ({psf.text}) is one voxel on the image's grid: no blur; are the units right?")
    if shift := _shift(psf.array):
        lengths = " x ".join(f"{round(s, 1) + 0:+g}" for s in shift)
        # What a half-voxel convention or a crop around elsewhere leaves: all of the result lies elsewhere.
        session.note(
            f"the PSF ({psf.text}) has its centre {lengths} voxels "
            f"({', '.join(volume.spatial_axes)}) from the middle voxel, shape // 2: images are shifted by as "
            "much; medeconv psf recentre moves it there"
        )
    return psf


def _shift(psf: np.ndarray) -> tuple[float, ...] | None:
    """Where the core of a PSF lies from ``shape // 2``, in voxels, if more than `OFF` along an axis."""
    if not (np.isfinite(psf).all() and psf.max() > 0):
        return None  # refused where it is used
    found = centroid(psf, CORE)
    return found if max(map(abs, found)) > OFF else None


def _check_width(fwhm: tuple[float, ...], target: tuple[float, ...], volume: mf.io.Volume, flag: str) -> None:
    """Refuse a width beyond the image, which in the wrong unit would be more than memory holds."""
    axes = volume.spatial_axes
    lengths = [n for n, axis in zip(volume.shape, volume.axes, strict=True) if axis in axes]
    fields = [n * size for n, size in zip(lengths, target, strict=True)]
    for axis, width, n, field in zip(axes, fwhm, lengths, fields, strict=True):
        most = field if n > 1 else max(fields)
        if width > most:
            raise UserError(
                f"{flag}: the width along {axis} is {width:.6g} {volume.unit}, more than the image's "
                f"{most:.6g} {volume.unit}; expected less: are the units right?"
            )


def _psf_for(
    volume: mf.io.Volume,
    arguments: argparse.Namespace,
    session: Session,
    path: str,
    scale: tuple[float, ...] | None,
) -> Psf:
    axes = volume.spatial_axes
    ndim = len(axes)
    for unit in ("mm", "um"):
        values = getattr(arguments, f"fwhm_{unit}")
        if values is None:
            continue
        flag = f"--fwhm-{unit}"
        fwhm = broadcast(values, ndim, flag, axes)
        target, target_unit = need_voxel_size(volume, path, flag)
        factor = UNITS[unit] / UNITS[target_unit]
        widths = tuple(v * factor for v in fwhm)
        _check_width(widths, target, volume, flag)
        array = mf.psf.gaussian(fwhm=widths, voxel_size=target)
        record: dict[str, Any] = {"kind": "gaussian", "fwhm": fwhm, "unit": unit, "shape": array.shape}
        return Psf(array, record, f"Gaussian, FWHM {shown_size(fwhm, unit)}")
    if arguments.psf is None:
        raise UserError("a PSF is needed: --psf FILE, --fwhm-mm Z Y X or --fwhm-um Z Y X")

    measured = read_space(arguments.psf, "a PSF", "--psf ")
    array = np.asarray(measured.array)
    if array.ndim != ndim:
        raise UserError(
            f"--psf: {arguments.psf} has {array.ndim} axes, the image {path} has {ndim} ({', '.join(axes)})"
        )
    if turned := _turned(measured, volume):
        session.note(
            f"{arguments.psf}: its axes point in other directions than those of {path} ({turned}); it is "
            "taken along the image's axes in their order, z with z: turn it where it was measured otherwise"
        )
    record = {"kind": "file", "path": str(arguments.psf), "shape": array.shape, "resampled": False}
    text = f"{arguments.psf}, {' x '.join(map(str, array.shape))} voxels"
    if measured.voxel_size is None or measured.unit is None:
        if scale is None or all(abs(s - 1) <= SAME for s in scale):
            session.note(f"{arguments.psf} has no voxel size: taken as sampled on the image's grid")
            return Psf(array, record, text)
        # Measured or computed beside the file, whose voxels are those that were known then.
        array = mf.psf.resample(array, (1.0,) * ndim, scale)
        voxels = " x ".join(f"{s:.6g}" for s in scale)
        session.note(
            f"{arguments.psf} has no voxel size: taken as sampled on the grid of {path}, and resampled to "
            f"the preprocessed image's, of {voxels} such voxels each, its sum kept"
        )
        own = volume.voxel_size
        size = None if own is None else tuple(v / s for v, s in zip(own, scale, strict=True))
        record.update(resampled=True, resampled_from=size, shape=array.shape)
        return Psf(array, record, text)
    target, target_unit = need_voxel_size(volume, path, "--psf FILE with a voxel size")
    factor = UNITS[measured.unit] / UNITS[target_unit]
    size = tuple(v * factor for v in measured.voxel_size)
    if any(abs(a - b) > SAME * b for a, b in zip(size, target, strict=True)):
        array = mf.psf.resample(array, size, target)
        session.note(
            f"{arguments.psf} has voxels of {shown_size(size, target_unit)}: resampled to the image's "
            f"{shown_size(target, target_unit)}, its sum kept"
        )
        record.update(resampled=True, resampled_from=size, shape=array.shape)
    return Psf(array, record, text)


def _turned(psf: mf.io.Volume, volume: mf.io.Volume) -> str | None:
    """Which axes of two oriented images do not go along each other; to and fro is the same."""
    affines = psf.affine, volume.affine
    if not (psf.oriented and volume.oriented) or affines[0] is None or affines[1] is None:
        return None
    columns = [a[:3, :3] / np.linalg.norm(a[:3, :3], axis=0) for a in affines if a is not None]
    along = np.abs((columns[0] * columns[1]).sum(0))
    length = dict(zip(psf.axes, psf.shape, strict=True))
    found = []
    for axis, cosine, own, other in zip("xyz", along, columns[0].T, columns[1].T, strict=True):
        if length.get(axis, 1) > 1 and cosine < math.cos(math.radians(TURNED)):
            found.append(f"{axis} along {_direction(own)} and {_direction(other)}")
    return ", ".join(found) or None


def _direction(axis: np.ndarray) -> str:
    """The patient's axis that a direction is nearest to."""
    return ("left-right", "front-back", "feet-head")[int(np.argmax(np.abs(axis)))]


def need_voxel_size(volume: mf.io.Volume, path: str, why: str) -> tuple[tuple[float, ...], str]:
    """The volume's voxel size and its unit, or an error that names the option to give."""
    if volume.voxel_size is None:
        raise UserError(f"{why}: {path} has no voxel size; give it with --voxel-size-mm or --voxel-size-um")
    if volume.unit is None:
        numbers = " ".join(f"{v:.6g}" for v in volume.voxel_size)
        raise UserError(
            f"{why}: {path} has voxels of {numbers} in an unknown unit; say which with "
            f"--voxel-size-mm {numbers} or --voxel-size-um {numbers}"
        )
    return volume.voxel_size, volume.unit
