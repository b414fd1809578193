"""``medeconv restore``."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .images import check_format, parts, psf_for, read_image, shown_size, with_geometry
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
    """Keyword arguments of the algorithm; an option that it has no use for is refused, not dropped."""
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
    session.claim(arguments, "output", "json")
    volume = with_geometry(read_image(arguments.input, arguments), arguments, arguments.input)
    psf = psf_for(volume, arguments, session, arguments.input)
    dtype = result_dtype(volume.dtype)
    check_format(arguments.output, volume, dtype)
    methods: dict[str, Any] = {"auto": mf.restore, "rl": mf.richardson_lucy, "wiener": mf.wiener}
    run = methods[arguments.method]
    iterative = arguments.method != "wiener"

    image = volume.array
    estimate = np.empty(image.shape, dtype=dtype)
    runs: list[dict[str, Any]] = []
    started = time.perf_counter()
    every = parts(volume)
    for number, (label, index) in enumerate(every, 1):
        title = "restoring" if len(every) == 1 else f"restoring {number} of {len(every)} ({label})"
        steps = options.get("num_iter", 30) if iterative else 1
        with Progress(title, steps, enabled=not session.quiet) as progress:
            # A callback is given a copy of the estimate each time: only where somebody watches.
            callback = {"callback": progress.step} if progress.enabled and iterative else {}
            try:
                result, info = run(
                    image[index],
                    psf.array,
                    return_info=True,
                    **callback,
                    **options,
                )
            except (ValueError, TypeError) as error:
                where = f" ({label})" if label else ""
                raise UserError(f"{arguments.input}{where}: {error}") from error
        estimate[index] = result
        runs.append({"part": label, **info})
        for text in info["warnings"]:
            if not any(text in said for said in session.warnings):
                session.note(text)
    seconds = time.perf_counter() - started

    first = runs[0]
    settings = first["settings"]
    if settings["method"] == "wiener":
        how = "by cross-validation" if settings["balance_searched"] else "given"
        method = f"wiener, balance {settings['balance']:.4g} ({how}), boundary {settings['boundary']}"
    else:
        method = f"richardson-lucy, {first['num_iter']} iterations, boundary {settings['boundary']}"
    restored = volume.with_array(estimate)
    restored.metadata["derivation"] = f"version {mf.__version__}, restored by {method}; PSF {psf.text}"
    with session.output(arguments.output):
        mf.io.write(arguments.output, restored, overwrite=session.overwrite)
    size = " x ".join(map(str, image.shape))
    several = "" if len(every) == 1 else f" ({', '.join(volume.axes)}), {len(every)} parts"
    voxels = shown_size(volume.voxel_size, volume.unit)
    session.say(f"image     {arguments.input}: {size}{several}, voxels of {voxels}")
    session.say(f"PSF       {psf.text}")
    session.say(f"method    {method}")
    session.say(f"computed  backend {first['backend']}, {settings['num_threads']} threads, {seconds:.3g} s")
    session.say(f"wrote     {arguments.output} ({dtype})")
    session.write_json(
        {
            "command": "restore",
            "version": mf.__version__,
            "input": arguments.input,
            "output": arguments.output,
            "shape": image.shape,
            "dtype": str(dtype),
            "axes": volume.axes,
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
