"""``medeconv restore``."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

from .._arrays import result_dtype
from .._device import choose_device
from ..algorithms._options import unusual
from ..algorithms._restore import choose
from . import batch, tiles
from .images import check_format, parts, psf_for, read_image, settled_method, shown_size, with_geometry
from .parser import METHODS
from .preparing import prepare, scale_of
from .session import Progress, Session, UserError, peak_memory_bytes


def settle_device(arguments: argparse.Namespace) -> None:
    """Let --device and --backend say the same; a GPU that was asked for and cannot compute is an error."""
    device, backend = arguments.device, arguments.backend
    if device == "auto":
        return
    if device == "cpu":
        if mf.backends.resolve(backend).NAME == "cuda":
            raise UserError("--device cpu: the backend 'cuda' computes on a GPU; give another --backend")
        return
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        raise UserError(f"--device: got {device!r}, expected auto, cpu, cuda or cuda:NUMBER")
    if backend not in ("auto", "cuda"):
        raise UserError(f"--device {device}: the backend {backend!r} computes on the CPU; leave it out")
    try:
        mf.backends.resolve("cuda")
        choose_device(int(found[1] or 0))
    except (ImportError, ValueError) as error:
        raise UserError(f"--device {device}: {error}") from error
    arguments.backend = "cuda"


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of the algorithm; an option that it has no use for is refused, not dropped."""
    method = arguments.method
    options: dict[str, Any] = {"backend": arguments.backend, "num_threads": arguments.threads}
    for name, flag in (
        ("num_iter", "iterations"),
        ("background", "background"),
        ("negative", "negative"),
        ("balance", "balance"),
        ("weight", "weight"),
        ("boundary", "boundary"),
    ):
        value = getattr(arguments, flag)
        if value is None:
            continue
        users = [m for m in METHODS if name in _parameters(m)]
        if method not in users:
            raise UserError(f"--{flag}: --method {method} has no use for it (only {', '.join(users)})")
        options[name] = value
    if method == "fista" and arguments.weight is None:
        raise UserError("--weight: --method fista needs the weight of total variation")
    return options


def _algorithm(method: str) -> Callable[..., Any]:
    """What does the work; "auto" takes what Richardson-Lucy takes."""
    function: Callable[..., Any] = mf.richardson_lucy if method in ("auto", "rl") else getattr(mf, method)
    return function


def _parameters(method: str) -> Collection[str]:
    return inspect.signature(_algorithm(method)).parameters


def settle_sign(
    arguments: argparse.Namespace, volume: mf.io.Volume, unit: str | None, options: dict[str, Any]
) -> str | None:
    """Let FISTA go below 0 on a signed scale, where it would set all such values to 0; says so if it did."""
    if arguments.method != "fista":
        return None
    extremes = float(volume.array.min()), float(volume.array.max())
    if choose({}, lambda: extremes, unit)[0] != "wiener":
        return None
    options["non_negative"] = False
    return (
        f"{arguments.input}: values from {extremes[0]:g} to {extremes[1]:g} are a signed scale, so that "
        "--method fista may go below 0"
    )


def _rescaled(arguments: argparse.Namespace) -> bool:
    """Whether ``--pre`` moves the zero of the image's scale: it is another one then, signed or not."""
    return any(op.name in ("normalize", "background") for op in arguments.pre or [])


class Changes:
    """Callback that notes by how much each iteration changed the estimate, relative to it."""

    def __init__(self) -> None:
        self.values: list[float | None] = []
        self._previous: np.ndarray | None = None

    def __call__(self, iteration: int, estimate: np.ndarray) -> None:
        size = float(np.linalg.norm(estimate))
        change = None
        if self._previous is not None and size > 0:
            change = float(np.linalg.norm(estimate - self._previous)) / size
        self.values.append(change)
        self._previous = estimate  # a copy of its own

    def note(self, trace: list[dict[str, Any]]) -> None:
        for entry, change in zip(trace, self.values, strict=False):
            if change is not None:
                entry.setdefault("relative_change", change)


def _all_of(callbacks: Sequence[Callable[..., Any]]) -> Callable[..., None]:
    def call(*words: Any) -> None:
        for callback in callbacks:
            callback(*words)

    return call


def _described(info: dict[str, Any]) -> str:
    """The method and what was chosen for it, in a few words."""
    settings = info["settings"]
    words = [settings["method"].replace("_", "-")]
    if settings.get("acceleration") is not None:
        words.append(settings["acceleration"])
    if isinstance(settings.get("regularizer"), tuple):
        words.append("{} {:.4g}".format(*settings["regularizer"]))
    if info["stopped_by"] != "closed form":
        words.append(f"{info['num_iter']} iterations")
        if info["stopped_by"] not in ("num_iter", "callback"):
            words[-1] += f" (by {info['stopped_by']})"
    if "weight" in settings:
        words.append(f"weight {settings['weight']:.4g}")
    return ", ".join([*words, *unusual(settings), f"boundary {settings['boundary']}"])


def restore(arguments: argparse.Namespace, session: Session) -> None:
    settle_device(arguments)
    images = batch.images_of(Path(arguments.input))
    if images:
        batch.restore(arguments, session, images, restore)
        return
    options = options_of(arguments)
    if tiles.wanted(arguments):
        tiles.restore(arguments, session, options)
        return
    session.claim(arguments, "output", "report", "json")
    begun = time.perf_counter()
    source = with_geometry(read_image(arguments.input, arguments), arguments, arguments.input)
    reading = time.perf_counter() - begun
    if arguments.report is not None:
        mf.report.check(arguments.report, source)
    volume, chain = prepare(source, arguments, session)
    psf = psf_for(volume, arguments, session, arguments.input, scale_of(chain))
    dtype = result_dtype(volume.dtype)
    keep = chain is None or arguments.keep_preprocessed
    check_format(arguments.output, volume if keep else source, dtype)
    scale = {} if _rescaled(arguments) else volume.metadata
    chosen = settled_method(arguments, scale, options, session)
    signed = settle_sign(arguments, volume, scale.get("intensity_unit"), options)
    if signed is not None:
        session.note(signed)
    run: Callable[..., Any] = mf.restore if chosen == "auto" else _algorithm(chosen)
    iterative = "callback" in _parameters(chosen)
    if "voxel_size" in _parameters(chosen):  # gradients are per unit of length
        options["voxel_size"] = volume.voxel_size

    image = volume.array
    estimate = np.empty(image.shape, dtype=dtype)
    runs: list[dict[str, Any]] = []
    started = time.perf_counter()
    every = parts(volume)
    for number, (label, index) in enumerate(every, 1):
        title = "restoring" if len(every) == 1 else f"restoring {number} of {len(every)} ({label})"
        steps = options.get("num_iter", 50 if chosen == "auto" else 30) if iterative else 1
        changes = Changes() if arguments.report is not None and number == 1 and iterative else None
        with Progress(title, steps, enabled=not session.quiet) as progress:
            # A callback is given a copy of the estimate each time: only where somebody watches.
            watchers = [w for w in (progress.step if progress.enabled else None, changes) if w is not None]
            callback = {"callback": _all_of(watchers)} if watchers and iterative else {}
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
        if changes is not None:
            changes.note(info["trace"])
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
        method = _described(first)
    restored = volume.with_array(estimate)
    derivation = f"version {mf.__version__}, restored by {method}; PSF {psf.text}"
    if chain is not None:
        before = ", ".join(op.text for op in arguments.pre) + (" (kept)" if keep else " (undone)")
        derivation += f"; preprocessing {before}"
        if not keep:
            restored = chain.undo(restored)
    restored.metadata["derivation"] = derivation
    with session.output(arguments.output):
        mf.io.write(arguments.output, restored, overwrite=session.overwrite)
    size = " x ".join(map(str, image.shape))
    several = "" if len(every) == 1 else f" ({', '.join(volume.axes)}), {len(every)} parts"
    voxels = shown_size(volume.voxel_size, volume.unit)
    session.say(f"image     {arguments.input}: {size}{several}, voxels of {voxels}")
    session.say(f"PSF       {psf.text}")
    session.say(f"method    {method}")
    session.say(f"computed  backend {first['backend']}, {settings['num_threads']} threads, {seconds:.3g} s")
    stored = "DICOM, 16 bits with a slope" if mf.io.is_dicom(arguments.output) else dtype
    session.say(f"wrote     {arguments.output} ({stored})")
    if arguments.report is not None:
        record = {"input": arguments.input, "output": arguments.output, "PSF": psf.text}
        if chain is not None:
            record["preprocessing"] = before
        with session.report(arguments.report):
            mf.report.write(
                arguments.report,
                volume if keep else source,
                restored,
                psf.array,
                info=first,
                psf_voxel_size=volume.voxel_size,
                title=f"Restoration of {os.path.basename(arguments.input)}",
                settings=record,
                timings={"reading": reading, "restoring": seconds},
                peak_memory=peak_memory_bytes(),
                warnings=session.warnings,
                overwrite=session.overwrite,
            )
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
            "preprocessing": None if chain is None else chain.settings,
            "preprocessing_kept": keep if chain is not None else None,
            "report": arguments.report if arguments.report in session.written else None,
            "method": arguments.method,
            "options": options,
            "runs": runs,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        }
    )
