"""``medeconv plan``: what restoring an image would take; nothing is computed."""

from __future__ import annotations

import argparse

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .._planner import Plan
from . import tiles
from .images import Outline, parts, psf_for, read_image, shown_size, with_geometry
from .restore import options_of, settle_device
from .session import Session, UserError


def _volume(arguments: argparse.Namespace) -> tuple[mf.io.Volume, tuple[int, ...], np.dtype, int, str]:
    """A volume, or the outline of one; shape, dtype and number of images; what to call it."""
    if (arguments.input is None) == (arguments.shape is None):
        raise UserError("plan: give either an image file IN or --shape Z Y X, and not both")
    if arguments.input is None:
        shape = tuple(arguments.shape)
        outline = Outline.of(shape, None, None, None)
        return with_geometry(outline, arguments, "--shape"), shape, outline.dtype, 1, "--shape"
    if _in_tiles(arguments):
        source, like = tiles.opened(arguments)
        return like, source.shape, source.dtype, len(source.items), arguments.input
    volume = with_geometry(read_image(arguments.input, arguments), arguments, arguments.input)
    spatial = [n for n, a in zip(volume.shape, volume.axes, strict=True) if a in volume.spatial_axes]
    return volume, tuple(spatial), volume.dtype, len(parts(volume)), arguments.input


def _in_tiles(arguments: argparse.Namespace) -> bool:
    options = ("memory", "halo", "tile", "dtype", "scale", "seed")
    return any(getattr(arguments, name) is not None for name in options)


def plan(arguments: argparse.Namespace, session: Session) -> None:
    settle_device(arguments)
    session.claim(arguments, "json")
    if arguments.input is None:
        for option in ("halo", "tile", "dtype", "scale", "seed"):
            if getattr(arguments, option) is not None:
                raise UserError(
                    f"--{option}: is of tiles, which are planned for an image, not for --shape alone"
                )
    volume, shape, dtype, number, name = _volume(arguments)
    psf = psf_for(volume, arguments, session, name)
    made = mf.plan(
        shape,
        psf.array,
        boundary=arguments.boundary or "extended",
        dtype=result_dtype(dtype),
        backend=arguments.backend,
        memory=arguments.memory,
        num_threads=arguments.threads,
        calibration=arguments.calibration,
    )
    several = "" if number == 1 else f", {number} parts of which each takes this"
    session.say(f"{name}: voxels of {shown_size(volume.voxel_size, volume.unit)}; {psf.text}{several}")
    for text in made.warnings:
        session.note(text)
    if arguments.method != "rl":
        session.say(
            f"of plain Richardson-Lucy (--method rl); {arguments.method} may work with another engine and "
            "boundary, and take more memory:"
        )
    shown = Plan({**made, "warnings": []})  # notes already say them
    session.say(str(shown))
    in_tiles = None
    if arguments.input is not None and _in_tiles(arguments):
        in_tiles = _planned_in_tiles(arguments, session, psf.array)
    session.write_json(
        {
            "command": "plan",
            "version": mf.__version__,
            "input": arguments.input,
            "voxel_size": volume.voxel_size,
            "unit": volume.unit,
            "psf": psf.record,
            "parts": number,
            "plan": made,
            "in_tiles": in_tiles,
        }
    )


def _planned_in_tiles(
    arguments: argparse.Namespace, session: Session, psf: np.ndarray
) -> mf.volumes.VolumePlan | None:
    """What `medeconv restore` with the same options would do, after a look at the sample."""
    source, _ = tiles.opened(arguments)
    try:
        options = tiles.options_for(arguments, options_of(arguments), source, session)
        made = mf.volumes.plan_volume(source, psf, **options)
    except ValueError as error:
        if not str(error).startswith("memory: got"):
            raise
        session.note(str(error))
        return None
    session.say("in tiles (medeconv restore with the same options):")
    session.say(str(made))
    return made
