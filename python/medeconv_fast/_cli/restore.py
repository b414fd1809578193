"""``medeconv restore``."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import numpy as np

import medeconv_fast as mf

from .images import psf_for, read, shown_size, spatial, sub_volumes, with_geometry
from .session import Progress, Session, UserError, peak_memory_bytes


def refuse_unbuilt(arguments: argparse.Namespace) -> None:
    for name in ("memory", "report"):
        if getattr(arguments, name, None) is not None:
            raise NotImplementedError(f"--{name} is not built yet in this version of medeconv_fast")


def check_device(device: str) -> None:
    if device == "cuda" or device.startswith("cuda:"):
        raise NotImplementedError(f"--device {device}: the CUDA backend is not built yet; use --device cpu")
    if device not in ("auto", "cpu"):
        raise UserError(f"--device: got {device!r}, expected auto or cpu")


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of the algorithm; an option that the method has no use for is refused, not dropped."""
    method = arguments.method
    options: dict[str, Any] = {"backend": arguments.backend, "num_threads": arguments.threads}
    for name, flag, methods in (
        ("num_iter", "iterations", ("auto", "rl")),
        ("background", "background", ("auto", "rl")),
        ("negative", "negative", ("auto", "rl")),
        ("balance", "balance", ("wiener",)),
        ("boundary", "boundary", ("auto", "rl", "wiener")),
    ):
        value = getattr(arguments, flag)
        if value is None:
            continue
        if method not in methods:
            raise UserError(f"--{flag}: --method {method} has no use for it (only {', '.join(methods)})")
        options[name] = value
    return options


def restore(arguments: argparse.Namespace, session: Session) -> None:
    refuse_unbuilt(arguments)
    check_device(arguments.device)
    options = options_of(arguments)
    session.claim(arguments.output, arguments.json)
    volume = with_geometry(read(arguments.input), arguments, arguments.input)
    psf = psf_for(volume, arguments, session, arguments.input)
    image = np.asarray(volume.array)
    count = sum(1 for _ in sub_volumes(image, volume.axes))
    run = {"auto": mf.restore, "rl": mf.richardson_lucy, "wiener": mf.wiener}[arguments.method]

    estimate = np.empty(image.shape, dtype=np.float32)
    runs: list[dict[str, Any]] = []
    started = time.perf_counter()
    pairs = zip(sub_volumes(image, volume.axes), sub_volumes(estimate, volume.axes), strict=True)
    iterations = options.get("num_iter", 30) if arguments.method != "wiener" else 1
    for number, ((label, source), (_, destination)) in enumerate(pairs, 1):
        title = "restoring" if count == 1 else f"restoring {number} of {count} ({label})"
        with Progress(title, iterations, enabled=not session.quiet) as progress:
            # A callback is given a copy of the estimate each time: only where somebody watches.
            callback = {"callback": progress.step} if progress.enabled and arguments.method != "wiener" else {}
            try:
                result, info = run(source, psf.array, return_info=True, **callback, **options)
            except (ValueError, TypeError) as error:
                where = f" ({label})" if label else ""
                raise UserError(f"{arguments.input}{where}: {error}") from error
        destination[...] = result
        runs.append({"part": label, **info})
    seconds = time.perf_counter() - started

    with session.output(arguments.output):
        mf.io.write(
            arguments.output, dataclasses.replace(volume, array=estimate), overwrite=session.overwrite
        )
    first = runs[0]
    parts = "" if count == 1 else f", {count} parts"
    session.say(f"{arguments.input}: {' x '.join(map(str, image.shape))} voxels of {shown_size(volume.voxel_size, volume.unit)}{parts}")
    session.say(f"PSF: {psf.text}")
    session.say(f"{describe_run(first)}, {seconds:.2f} s in all")
    session.say(f"wrote {arguments.output}")
    session.write_json(
        {
            "command": "restore",
            "version": mf.__version__,
            "input": arguments.input,
            "output": arguments.output,
            "shape": image.shape,
            "axes": volume.axes,
            "spatial_axes": spatial(volume.axes),
            "voxel_size": volume.voxel_size,
            "unit": volume.unit,
            "psf": psf.record,
            "method": arguments.method,
            "options": options,
            "runs": runs,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        }
    )


def describe_run(info: dict[str, Any]) -> str:
    """Method, iterations, backend and threads of one run, in words."""
    settings = info.get("settings", {})
    words = [str(settings.get("method", info.get("method", "")))]
    if info.get("num_iter"):
        words.append(f"{info['num_iter']} iterations")
    words.append(f"backend {info.get('backend')}")
    return ", ".join(word for word in words if word)
