"""``medeconv simulate``: an image that the other commands work on."""

from __future__ import annotations

import argparse

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .images import check_format, parts, psf_for, read_image, with_geometry
from .session import Session, UserError


def simulate(arguments: argparse.Namespace, session: Session) -> None:
    noise = None if arguments.noise == "none" else arguments.noise
    for name, owner in (("photons", "poisson"), ("sigma", "gaussian")):
        if getattr(arguments, name) is not None and noise != owner:
            raise UserError(f"--{name}: belongs to --noise {owner}, got --noise {arguments.noise}")
    if noise == "gaussian" and arguments.sigma is None:
        raise UserError("--noise gaussian: needs --sigma S")
    session.claim(arguments, "output", "json")
    volume = with_geometry(read_image(arguments.truth, arguments), arguments, arguments.truth)
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
    made = volume.with_array(result)
    made.metadata["derivation"] = (
        f"version {mf.__version__}, simulated: blurred by {kernel.text}, noise {arguments.noise}, "
        f"seed {arguments.seed}"
    )
    with session.output(arguments.output):
        mf.io.write(arguments.output, made, overwrite=session.overwrite)
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
