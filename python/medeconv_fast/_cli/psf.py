"""``medeconv psf``: point spread functions from models, from measurements, and from other ones."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .._extras import matplotlib_figure
from ..io._files import write_whole
from .images import UNITS, broadcast, check_format, need_voxel_size, read_space, shown_size, with_geometry
from .session import Session, UserError


@dataclasses.dataclass
class Made:
    """A PSF, its voxel size, and what there is to say about it."""

    array: np.ndarray
    size: tuple[float, ...] | None
    unit: str | None
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    lines: list[str] = dataclasses.field(default_factory=list)


def psf(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "output", "plot", "json")
    if arguments.plot is not None:
        if not arguments.plot.lower().endswith(".png"):
            raise UserError(
                f"--plot {arguments.plot}: pictures are PNG files, expected a name ending in .png"
            )
        matplotlib_figure("--plot")  # before anything is computed
    made = _KINDS[arguments.kind](arguments, session)
    array = made.array
    volume = mf.io.Volume(array, made.size, None, made.unit, "zyx"[3 - array.ndim :])
    check_format(arguments.output, volume, volume.dtype)
    with session.output(arguments.output):
        mf.io.write(arguments.output, volume, overwrite=session.overwrite)
    try:
        width = mf.psf.fwhm(array, made.size)
    except ValueError:  # cropped so much that no flank is left
        width = None
    unit = made.unit or "voxels"
    voxels = "" if made.size is None else f" of {shown_size(made.size, made.unit)}"
    session.say(f"{arguments.kind}: {' x '.join(map(str, array.shape))} voxels{voxels}")
    for line in made.lines:
        session.say(line)
    session.say(
        f"FWHM {shown_size(width, unit)} as sampled, sum {float(np.sum(array, dtype=np.float64)):.6g}"
    )
    session.say(f"wrote {arguments.output}")
    if arguments.plot is not None:
        figure = mf.psf.plot(array, made.size, unit=unit, title=os.path.basename(arguments.output))
        with session.output(arguments.plot):
            write_whole(
                Path(arguments.plot),
                lambda p: figure.savefig(p, format="png", dpi=110),
                overwrite=session.overwrite,
            )
        session.say(f"wrote {arguments.plot}")
    session.write_json(
        {
            "command": "psf",
            "version": mf.__version__,
            "output": arguments.output,
            "plot": arguments.plot,
            "kind": arguments.kind,
            "shape": array.shape,
            "voxel_size": made.size,
            "unit": made.unit,
            "fwhm": width,
            **made.record,
        }
    )


# ---------------------------------------------------------------- models


def _sampling(
    arguments: argparse.Namespace, ndim: int
) -> tuple[tuple[float, ...], str, tuple[int, ...] | None]:
    """Voxel size, its unit and the shape that the command line asks for."""
    unit = "mm" if arguments.voxel_size_mm is not None else "um"
    axes = "zyx"[3 - ndim :]
    size = broadcast(arguments.voxel_size_mm or arguments.voxel_size_um, ndim, f"--voxel-size-{unit}", axes)
    shape = arguments.shape
    if shape is not None:
        shape = tuple(int(n) for n in broadcast(shape, ndim, "--shape", axes))
    return size, unit, shape


def _computed(array: np.ndarray, size: tuple[float, ...], unit: str) -> Made:
    return Made(array.astype(np.float32), size, unit)


def _gaussian(arguments: argparse.Namespace, session: Session) -> Made:
    given = [arguments.voxel_size_mm or arguments.voxel_size_um, arguments.shape]
    widths = arguments.fwhm_mm or arguments.fwhm_um
    most = max(len(values) for values in (*given, widths) if values is not None)
    # One number everywhere means a volume.
    size, unit, shape = _sampling(arguments, 3 if most == 1 else most)
    fwhm_unit = "mm" if arguments.fwhm_mm is not None else "um"
    fwhm = broadcast(
        tuple(v * UNITS[fwhm_unit] / UNITS[unit] for v in widths),
        len(size),
        f"--fwhm-{fwhm_unit}",
        "zyx"[3 - len(size) :],
    )
    return _computed(mf.psf.gaussian(fwhm, size, shape), size, unit)


def _in_um(size: tuple[float, ...], unit: str) -> tuple[float, ...]:
    """The optics' unit: every length of a microscope is given in it."""
    return tuple(v * UNITS[unit] / UNITS["um"] for v in size)


def _wavelength(nanometres: float) -> float:
    return nanometres * UNITS["nm"] / UNITS["um"]


def _airy(arguments: argparse.Namespace, session: Session) -> Made:
    size, unit, shape = _sampling(arguments, 2)
    array = mf.psf.airy(_wavelength(arguments.wavelength_nm), arguments.na, _in_um(size, unit), shape)
    return _computed(array, size, unit)


def _widefield(
    arguments: argparse.Namespace, model: str, size: tuple[float, ...], shape: tuple[int, ...] | None
) -> np.ndarray:
    """One of the two wide-field models; `size` in µm."""
    wavelength = _wavelength(arguments.wavelength_nm)
    if model == "born-wolf":
        return mf.psf.born_wolf(wavelength, arguments.na, arguments.refractive_index, size, shape)
    return mf.psf.gibson_lanni(
        wavelength,
        arguments.na,
        size,
        shape,
        depth=arguments.depth_um,
        specimen_index=arguments.specimen_index,
        immersion_index=arguments.refractive_index,
    )


def _born_wolf_or_gibson_lanni(arguments: argparse.Namespace, session: Session) -> Made:
    size, unit, shape = _sampling(arguments, 3)
    return _computed(_widefield(arguments, arguments.kind, _in_um(size, unit), shape), size, unit)


def _light_sheet(arguments: argparse.Namespace, session: Session) -> Made:
    if arguments.detection in ("born-wolf", "gibson-lanni"):
        needed = {
            "--na": arguments.na,
            "--wavelength-nm": arguments.wavelength_nm,
            "--voxel-size-um or --voxel-size-mm": arguments.voxel_size_mm or arguments.voxel_size_um,
        }
        missing = [flag for flag, value in needed.items() if value is None]
        if missing:
            raise UserError(f"--detection {arguments.detection}: needs {', '.join(missing)}")
        size, unit, shape = _sampling(arguments, 3)
        detection = _widefield(arguments, arguments.detection, _in_um(size, unit), shape)
        dtype = np.dtype(np.float32)
    else:
        for flag in ("na", "wavelength_nm", "shape"):
            if getattr(arguments, flag) is not None:
                raise UserError(
                    f"--{flag.replace('_', '-')}: belongs to a computed detection PSF, got --detection "
                    f"{arguments.detection}"
                )
        volume = _psf_file(arguments, arguments.detection)
        size, unit = need_voxel_size(volume, arguments.detection, "--detection FILE")
        detection, dtype = volume.array, result_dtype(volume.dtype)
        if detection.ndim != 3:
            raise UserError(f"--detection {arguments.detection}: has {detection.ndim} axes, expected 3")
    array = mf.psf.light_sheet(
        detection,
        _in_um(size, unit),
        _wavelength(arguments.excitation_nm),
        na=arguments.sheet_na,
        waist=arguments.sheet_waist_um,
        refractive_index=arguments.medium_index,
        position=arguments.position_um,
        offset=arguments.offset_um,
    )
    return Made(array.astype(dtype), size, unit)


# ---------------------------------------------------------------- from files


def _psf_file(arguments: argparse.Namespace, path: str) -> mf.io.Volume:
    """An image or PSF of space only, with the voxel size of the command line where the file has none."""
    return with_geometry(read_space(path, "one image or PSF"), arguments, path)


def _kept(volume: mf.io.Volume, array: np.ndarray, **more: Any) -> Made:
    return Made(array.astype(result_dtype(volume.dtype)), volume.voxel_size, volume.unit, **more)


def _from_beads(arguments: argparse.Namespace, session: Session) -> Made:
    volume = _psf_file(arguments, arguments.input)
    axes = volume.spatial_axes
    shape = tuple(int(n) for n in broadcast(arguments.shape, len(axes), "--shape", axes))
    array, info = mf.psf.from_beads(volume.array, shape, threshold=arguments.threshold, return_info=True)
    lines = [f"{info.num_beads} beads used, {len(info.rejected)} left out"]
    lines += [
        f"  left out: {reason}, at ({', '.join(f'{p:g}' for p in place)})" for place, reason in info.rejected
    ]
    return _kept(volume, array, record={"input": arguments.input, **dataclasses.asdict(info)}, lines=lines)


def _from_edge(arguments: argparse.Namespace, session: Session) -> Made:
    volume = _psf_file(arguments, arguments.input)
    image, size = np.asarray(volume.array), volume.voxel_size
    if image.ndim == 3 and image.shape[0] == 1:  # one slice, as formats of volumes hold an image
        image, size = image[0], None if size is None else size[1:]
    if image.ndim != 2:
        raise UserError(
            f"{arguments.input}: is {' x '.join(map(str, image.shape))}, expected an image of two axes (y, x)"
        )
    array, info = mf.psf.from_edge(
        image,
        1.0 if size is None else size,
        model=arguments.model,
        isotropic=arguments.isotropic,
        return_info=True,
    )
    unit = volume.unit or "voxels"
    lines = [
        f"edge at {info.angle:.2f} degrees to {'yx'[1 - info.across]}, crossed along {'yx'[info.across]}, "
        f"levels {info.low:.6g} and {info.high:.6g}",
        f"Gaussian FWHM {info.fwhm:.4g} +- {info.fwhm_error:.2g} {unit} without the pixel, residual "
        f"{100 * info.residual:.2g} % of the step",
    ]
    record = {
        "input": arguments.input,
        "model": arguments.model,
        "gaussian_fwhm": info.fwhm,
        "gaussian_fwhm_error": info.fwhm_error,
        **{name: getattr(info, name) for name in ("angle", "across", "low", "high", "residual")},
    }
    out = size if array.ndim == 2 or size is None else (size[info.across],)
    return Made(array.astype(result_dtype(volume.dtype)), out, volume.unit, record, lines)


def _estimate(arguments: argparse.Namespace, session: Session) -> Made:
    volume = _psf_file(arguments, arguments.input)
    size = volume.voxel_size
    sizes = (1.0,) * volume.array.ndim if size is None else size
    width, info = mf.psf.estimate_fwhm(volume.array, sizes, isotropic=arguments.isotropic, return_info=True)
    unit = volume.unit or "voxels"
    lines = [
        f"Gaussian FWHM {shown_size(width, unit)} without the voxel, seen at {info.frequencies} frequencies "
        f"above noise of {info.noise:.4g}",
        f"the object's spectrum falls to the power {info.exponent:.2f}",
    ]
    record = {
        "input": arguments.input,
        "isotropic": arguments.isotropic,
        "gaussian_fwhm": width,
        **dataclasses.asdict(info),
    }
    return _kept(volume, mf.psf.gaussian(width, sizes), record=record, lines=lines)


def _resample(arguments: argparse.Namespace, session: Session) -> Made:
    volume = _psf_file(arguments, arguments.input)
    axes = volume.spatial_axes
    size, unit = need_voxel_size(volume, arguments.input, "resample")
    new_unit = "mm" if arguments.new_voxel_size_mm is not None else "um"
    new = broadcast(
        arguments.new_voxel_size_mm or arguments.new_voxel_size_um,
        len(axes),
        f"--new-voxel-size-{new_unit}",
        axes,
    )
    old = tuple(v * UNITS[unit] / UNITS[new_unit] for v in size)
    array = mf.psf.resample(volume.array, old, new).astype(result_dtype(volume.dtype))
    return Made(array, new, new_unit, {"input": arguments.input, "resampled_from": old})


def _recentre(arguments: argparse.Namespace, session: Session) -> Made:
    volume = _psf_file(arguments, arguments.input)
    array = np.asarray(volume.array)
    if arguments.remove_background:
        array = mf.psf.remove_background(array)
    array = mf.psf.recentre(array, method=arguments.method, threshold=arguments.threshold)
    record = {
        "input": arguments.input,
        "method": arguments.method,
        "threshold": arguments.threshold,
        "remove_background": arguments.remove_background,
    }
    return _kept(volume, array, record=record)


_KINDS: dict[str, Callable[[argparse.Namespace, Session], Made]] = {
    "gaussian": _gaussian,
    "airy": _airy,
    "born-wolf": _born_wolf_or_gibson_lanni,
    "gibson-lanni": _born_wolf_or_gibson_lanni,
    "light-sheet": _light_sheet,
    "from-beads": _from_beads,
    "from-edge": _from_edge,
    "estimate": _estimate,
    "resample": _resample,
    "recentre": _recentre,
}
