"""``medeconv psf`` and ``medeconv simulate``: files that the other commands work on."""

from __future__ import annotations

import argparse

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .images import UNITS, broadcast, check_format, parts, psf_for, shown_size, with_geometry
from .session import Session, UserError


def psf(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "output", "json")
    unit = "mm" if arguments.voxel_size_mm is not None else "um"
    size = arguments.voxel_size_mm or arguments.voxel_size_um
    fwhm = None
    if arguments.kind == "gaussian":
        fwhm_unit = "mm" if arguments.fwhm_mm is not None else "um"
        fwhm = tuple(v * UNITS[fwhm_unit] / UNITS[unit] for v in arguments.fwhm_mm or arguments.fwhm_um)
    ndim = _ndim(
        arguments.kind, [len(values) for values in (size, fwhm, arguments.shape) if values is not None]
    )
    axes = "zyx"[3 - ndim :]
    size = broadcast(size, ndim, f"--voxel-size-{unit}", axes)
    shape = arguments.shape
    if shape is not None:
        shape = tuple(int(n) for n in broadcast(shape, ndim, "--shape", axes))
    if fwhm is not None:
        array = mf.psf.gaussian(broadcast(fwhm, ndim, f"--fwhm-{unit}", axes), size, shape)
    else:
        array = _microscope(arguments, tuple(v * UNITS[unit] / UNITS["um"] for v in size), shape)
    volume = mf.io.Volume(np.asarray(array, dtype=np.float32), size, None, unit, axes)
    check_format(arguments.output, volume, volume.dtype)
    with session.output(arguments.output):
        mf.io.write(arguments.output, volume, overwrite=session.overwrite)
    try:
        width = mf.psf.fwhm(array, size)
    except ValueError:  # cropped so much that no flank is left
        width = None
    session.say(f"{arguments.kind}: {' x '.join(map(str, array.shape))} voxels of {shown_size(size, unit)}")
    session.say(
        f"FWHM {shown_size(width, unit)} as sampled, sum {float(np.sum(array, dtype=np.float64)):.6g}"
    )
    session.say(f"wrote {arguments.output}")
    session.write_json(
        {
            "command": "psf",
            "version": mf.__version__,
            "output": arguments.output,
            "kind": arguments.kind,
            "shape": array.shape,
            "voxel_size": size,
            "unit": unit,
            "fwhm": width,
        }
    )


def _ndim(kind: str, given: list[int]) -> int:
    """Number of axes: the model's own, or what the options say; one number everywhere means a volume."""
    if kind == "airy":
        return 2
    if kind != "gaussian":
        return 3
    return 3 if max(given) == 1 else max(given)


def _microscope(
    arguments: argparse.Namespace, size: tuple[float, ...], shape: tuple[int, ...] | None
) -> np.ndarray:
    """A diffraction model; every length in µm."""
    wavelength = arguments.wavelength_nm * UNITS["nm"] / UNITS["um"]
    if arguments.kind == "airy":
        return mf.psf.airy(wavelength, arguments.na, size, shape)
    if arguments.kind == "born-wolf":
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


def simulate(arguments: argparse.Namespace, session: Session) -> None:
    noise = None if arguments.noise == "none" else arguments.noise
    for name, owner in (("photons", "poisson"), ("sigma", "gaussian")):
        if getattr(arguments, name) is not None and noise != owner:
            raise UserError(f"--{name}: belongs to --noise {owner}, got --noise {arguments.noise}")
    if noise == "gaussian" and arguments.sigma is None:
        raise UserError("--noise gaussian: needs --sigma S")
    session.claim(arguments, "output", "json")
    volume = with_geometry(mf.io.read(arguments.truth), arguments, arguments.truth)
    kernel = psf_for(volume, arguments, session, arguments.truth)
    result = np.empty(volume.shape, dtype=result_dtype(volume.dtype))
    check_format(arguments.output, volume, result.dtype)
    for number, (label, index) in enumerate(parts(volume)):
        try:
            # Each part its own noise: the same draw in all would look like structure to whoever averages
            # them.
            result[index] = mf.simulate(
                volume.array[index],
                kernel.array,
                boundary=arguments.boundary,
                background=arguments.background,
                noise=noise,
                photons=arguments.photons,
                sigma=arguments.sigma,
                seed=arguments.seed + number,
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"{arguments.truth}{f' ({label})' if label else ''}: {error}") from error
    with session.output(arguments.output):
        mf.io.write(arguments.output, volume.with_array(result), overwrite=session.overwrite)
    session.say(f"PSF: {kernel.text}")
    session.say(f"noise: {arguments.noise}, seed {arguments.seed}")
    session.say(f"wrote {arguments.output} ({result.dtype})")
    session.write_json(
        {
            "command": "simulate",
            "version": mf.__version__,
            "truth": arguments.truth,
            "output": arguments.output,
            "shape": result.shape,
            "voxel_size": volume.voxel_size,
            "unit": volume.unit,
            "psf": kernel.record,
            "noise": arguments.noise,
            "photons": arguments.photons,
            "sigma": arguments.sigma,
            "background": arguments.background,
            "boundary": arguments.boundary,
            "seed": arguments.seed,
        }
    )
