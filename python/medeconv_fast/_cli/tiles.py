"""``medeconv restore`` in tiles: images that do not fit into memory, several processes, several machines."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

from ..volumes._numbers import METHODS as IN_TILES
from ..volumes._restore_volume import described
from .images import Outline, psf_for, settled_method, shown_size, with_geometry
from .parser import METHODS
from .session import Progress, Session, UserError, peak_memory_bytes

# Options that only a run in tiles has; each asks for one.
_OPTIONS = (
    "memory", "workers", "scheduler", "shard_index", "num_shards", "halo", "tile", "dtype", "scale", "seed",
    "no_resume", "no_verify",
)  # fmt: skip
# A run on the whole image takes about so many bytes per voxel; files below this size are not worth a look.
_BYTES_PER_VOXEL, _LARGE_FILE = 30, 1 << 28


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether the options ask for tiles, or the image leaves no choice."""
    given = (getattr(arguments, name) for name in _OPTIONS)
    if any(value is not None and value is not False for value in given):  # 0 is a value
        return True
    path = Path(arguments.input)
    if not path.exists() or (path.is_dir() and not mf.io.is_zarr(path)):
        return False
    if path.is_file() and path.stat().st_size < _LARGE_FILE:
        return False
    available = _available_memory()
    if available is None:
        return False
    try:
        source = mf.io.open_source(path, series=arguments.series)
    except (
        ValueError
    ):  # it cannot be read in parts; what is wrong with it else, the run on the whole will say
        return False
    return len(source.items) * int(np.prod(source.shape)) * _BYTES_PER_VOXEL > available


def _available_memory() -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def opened(arguments: argparse.Namespace) -> tuple[Any, mf.io.Volume]:
    """The source, and its outline for what needs a volume."""
    for name in ("channel", "frame"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name}: is not for a run in tiles")
    series = arguments.series
    source = mf.io.open_source(arguments.input, series=series)
    outline = Outline.of(source.shape, source.voxel_size, source.affine, source.unit)
    like = with_geometry(outline, arguments, arguments.input)
    if (like.voxel_size, like.unit) != (outline.voxel_size, outline.unit):
        source = mf.io.open_source(arguments.input, series=series, voxel_size=like.voxel_size, unit=like.unit)
    return source, like


def options_for(
    arguments: argparse.Namespace, options: dict[str, Any], source: mf.io.Source, session: Session
) -> dict[str, Any]:
    """What `restore_volume` and `plan_volume` take alike; `options` are those of the method."""
    if arguments.method not in IN_TILES:
        known = ", ".join(m for m in METHODS if m in IN_TILES)
        raise UserError(f"--method: {arguments.method} does not work in tiles (only {known})")
    if arguments.method == "rl":
        options = {"negative": "raise", **options}
    made = {
        "method": settled_method(arguments, source.metadata, options, session),
        "memory": "4 GB" if arguments.memory is None else arguments.memory,
        "halo": "auto" if arguments.halo is None else arguments.halo,
        "tile": arguments.tile,
        "dtype": "float32" if arguments.dtype is None else arguments.dtype,
        "scale": arguments.scale,
        "seed": 0 if arguments.seed is None else arguments.seed,
        **options,
    }
    return made


def restore(arguments: argparse.Namespace, session: Session, options: dict[str, Any]) -> None:
    for name in ("pre", "mask", "keep_preprocessed"):
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')}: is not for a run in tiles")
    if arguments.workers is not None and arguments.scheduler is not None:
        raise UserError("--workers: got it together with --scheduler, which has workers of its own")
    if (arguments.shard_index is None) != (arguments.num_shards is None):
        raise UserError("--shard-index and --num-shards: expected both, or neither")
    session.spare_inputs(arguments, "output")  # what exists of it may be gone on with
    session.reserve(arguments.output)
    session.claim(arguments, "report", "json")
    source, like = opened(arguments)
    if arguments.report is not None:
        from . import volume_report

        volume_report.check(arguments.report, like)
    psf = psf_for(like, arguments, session, arguments.input)
    shard = None if arguments.shard_index is None else (arguments.shard_index, arguments.num_shards)
    with _client(arguments.scheduler) as client, _Shown(session) as shown, _stale(session):
        done = mf.restore_volume(
            source,
            arguments.output,
            psf.array,
            **options_for(arguments, options, source, session),
            resume=not arguments.no_resume,
            verify=not arguments.no_verify,
            workers=arguments.workers,
            client=client,
            shard=shard,
            overwrite=session.overwrite,
            psf_name=psf.text,
            progress=shown,
        )
    session.writing = False
    for text in done.warnings:
        session.note(text)
    plan = done.plan
    session.say(
        f"image     {arguments.input}: {plan.images} x {' x '.join(map(str, plan.shape))}, voxels of "
        f"{shown_size(like.voxel_size, like.unit)}"
    )
    session.say(f"PSF       {psf.text}")
    for number, entry in enumerate(done.numbers):
        which = "" if len(done.numbers) == 1 else f" (channel {number})"
        session.say(f"method    {described(entry)}{which}")
    session.say(
        f"tiles     {done.done} of {done.tiles} done, {done.computed} now: cores of "
        f"{' x '.join(map(str, plan.core))}, halo {' x '.join(map(str, plan.halo))}"
    )
    if done.seam is not None:
        session.say(f"seam      {done.seam['largest']:.1e} of the range, estimated on the brightest part")
    if done.computed:
        session.say(
            f"computed  backend {plan.backend}, {done.seconds:.3g} s, "
            f"{done.voxels_per_second / 1e6:.3g} million voxels/s"
        )
    if done.clipped:
        stored = source.stored_dtype if arguments.dtype == "input" else arguments.dtype or "float32"
        scaled = "" if arguments.scale is None else " with this --scale"
        session.note(f"{done.clipped} voxels of the result were clipped: {stored}{scaled} does not hold them")
    if done.finished:
        session.say(f"{'wrote' if done.computed else 'exists'}     {arguments.output}")
        session.written.append(arguments.output)
    else:
        session.say(f"unfinished {arguments.output}: {done.tiles - done.done} tiles are left to other shards")
    if arguments.report is not None and done.finished:
        with session.report(arguments.report):
            volume_report.write(
                arguments.report,
                source,
                done,
                like,
                title=f"Restoration of {os.path.basename(arguments.input)}",
                psf=psf.text,
                warnings=session.warnings,
                peak_memory=peak_memory_bytes(),
                overwrite=session.overwrite,
            )
    session.write_json(
        {
            "command": "restore",
            "version": mf.__version__,
            "input": arguments.input,
            "output": arguments.output,
            "psf": psf.record,
            "report": arguments.report if arguments.report in session.written else None,
            "method": arguments.method,
            **done,
            "peak_memory_bytes": peak_memory_bytes(),
        }
    )


class _Shown:
    """Progress on stderr; from the first tile on, errors are failures and say what is kept."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._progress: Progress | None = None

    def __enter__(self) -> _Shown:
        return self

    def __call__(self, state: dict[str, Any]) -> None:
        session = self._session
        session.writing = True
        session.kept = f"{state['done']} of {state['tiles']} tiles are done, the same command does the others"
        if self._progress is None:
            self._progress = Progress("restoring", state["tiles"], enabled=not session.quiet)
            self._progress.done = state["done"]
            return
        peak = peak_memory_bytes()
        memory = "" if peak is None else f", {peak / 1e9:.2f} GB"
        self._progress.label = f"restoring, {state['voxels_per_second'] / 1e6:.3g} Mvoxel/s{memory}"
        self._progress.step()

    def __exit__(self, *words: object) -> None:
        if self._progress is not None:
            self._progress.__exit__(*words)


@contextlib.contextmanager
def _stale(session: Session) -> Iterator[None]:
    """What is done of an input that has changed is nothing to go on with."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ESTALE and error.filename is None:
            session.kept = "nothing of it is of use"
        raise


@contextlib.contextmanager
def _client(address: str | None) -> Iterator[Any]:
    if address is None:
        yield None
        return
    from .._extras import library

    distributed = library("distributed", "dask", "--scheduler")
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(f"--scheduler {address}: no scheduler answers there ({error})") from error
    with client:
        yield client
