"""``medeconv plan``: what restoring an image would take; nothing is computed."""

from __future__ import annotations

import argparse

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .._planner import Plan
from .images import parts, psf_for, read_image, shown_size, with_geometry
from .restore import settle_device
from .session import Session, UserError


def _volume(arguments: argparse.Namespace) -> tuple[mf.io.Volume, str]:
    """The file's image, or one of the given shape that takes no memory; and what to call it."""
    if (arguments.input is None) == (arguments.shape is None):
        raise UserError("plan: give either an image file IN or --shape Z Y X, and not both")
    if arguments.input is not None:
        return with_geometry(
            read_image(arguments.input, arguments), arguments, arguments.input
        ), arguments.input
    shape = tuple(arguments.shape)
    blank = np.broadcast_to(np.float32(0), shape)
    volume = mf.io.Volume(blank, None, None, None, "zyx"[3 - len(shape) :])
    return with_geometry(volume, arguments, "--shape"), "--shape"


def plan(arguments: argparse.Namespace, session: Session) -> None:
    settle_device(arguments)
    session.claim(arguments, "json")
    volume, name = _volume(arguments)
    psf = psf_for(volume, arguments, session, name)
    every = parts(volume)
    shape = tuple(
        n for n, axis in zip(volume.array.shape, volume.axes, strict=True) if axis in volume.spatial_axes
    )
    made = mf.plan(
        shape,
        psf.array,
        boundary=arguments.boundary,
        dtype=result_dtype(volume.dtype),
        backend=arguments.backend,
        memory=arguments.memory,
        num_threads=arguments.threads,
        calibration=arguments.calibration,
    )
    for text in made.warnings:
        session.note(text)
    several = "" if len(every) == 1 else f", {len(every)} parts of which each takes this"
    session.say(f"{name}: voxels of {shown_size(volume.voxel_size, volume.unit)}; {psf.text}{several}")
    shown = Plan({**made, "warnings": []})  # notes already say them
    session.say(str(shown))
    session.write_json(
        {
            "command": "plan",
            "version": mf.__version__,
            "input": arguments.input,
            "voxel_size": volume.voxel_size,
            "unit": volume.unit,
            "psf": psf.record,
            "parts": len(every),
            "plan": made,
        }
    )
