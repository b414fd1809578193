"""``medeconv bench``: our engines beside the libraries that are installed here, on this machine, in a minute.

The whole comparison, with every size and with rooflines, is ``make bench`` in a source checkout; both use
`peers`, so that they measure the same thing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import medeconv_fast as mf

from . import peers
from .session import Progress, Session, UserError

# Shape and largest PSF length. In the order of cost: what the time no longer allows is at the end.
CASES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((64, 64, 64), 9),
    ((1024, 1024), 25),
    ((128, 128, 128), 17),
    ((256, 256, 256), 33),
)
TAPS = 13  # of the Gaussian
OTHERS = ("pyfftw", "scipy.fft", "torch.fft")
# Seconds that one contender may be repeated for; its median counts.
REPEAT_FOR_S = 0.7
# FFTW plans by measuring; at 256 cubed it would go on for longer than everything else takes.
PLANNING_LIMIT_S = 4.0
# Preparing, checking and warming up take about as long as this many of its steps.
OVERHEAD_STEPS = 6
TITLES = {
    "iteration": "Richardson-Lucy iteration, periodic, planned ahead",
    "function": "Richardson-Lucy function as called, per iteration",
}


def bench(arguments: argparse.Namespace, session: Session) -> None:
    from .._blur import ENGINES
    from .._threads import resolve_num_threads

    session.claim(arguments, "json")
    if importlib.util.find_spec("scipy") is None:
        raise UserError("bench: results are checked against scipy.fft before they are timed; install scipy")
    threads = resolve_num_threads(arguments.threads)
    backend = mf.backends.resolve(arguments.backend)
    missing = {
        name: package
        for name, package in peers.PACKAGES.items()
        if name in ("skimage", "torch", "pyfftw") and importlib.util.find_spec(name) is None
    }
    details = backend.describe()
    session.say(
        f"medeconv-fast {mf.__version__}, backend {backend.NAME}"
        + (f" ({details['isa']})" if "isa" in details else "")
        + f", {threads} threads, {platform.machine()}, float32"
    )
    for name, package in missing.items():
        session.say(f"not installed, not compared: {name} (pip install {package})")
    shapes = CASES if arguments.shape is None else ((arguments.shape, 33),)
    engines = [f"medeconv-{engine}" for engine in ENGINES if engine != "auto"]
    clock = _Clock(arguments.seconds)
    records = []
    plans = list(_plans(shapes, engines, missing))
    with Progress("bench", len(plans), enabled=not session.quiet) as progress:
        for shape, psf_shape, kind, operation, names in plans:
            record = _case(
                shape, psf_shape, kind, operation, names, threads=threads, backend=backend.NAME, clock=clock
            )
            records.append(record)
            progress.step()
            _print(record, session)
    skipped = sum(row["skipped"] is not None for record in records for row in record["rows"])
    if skipped:
        session.note(
            f"{skipped} measurements were left out to stay below {arguments.seconds:g} s (--seconds)"
        )
    wrong = [
        f"{row['contender']} on {record['title']}"
        for record in records
        for row in record["rows"]
        if row["error"] is not None and row["error"] > record["bound"]
    ]
    session.write_json(
        {
            "command": "bench",
            "version": mf.__version__,
            "backend": backend.NAME,
            "details": details,
            "num_threads": threads,
            "versions": _versions(),
            "missing": missing,
            "seconds": clock.elapsed(),
            "cases": records,
        }
    )
    if any(name.startswith("medeconv") for name in wrong):
        raise RuntimeError(f"results disagree with scipy.fft in float64: {'; '.join(wrong)}")
    for name in wrong:
        session.note(f"{name}: disagrees with scipy.fft in float64 and was not timed")


class _Clock:
    """The time left, and what a contender's next case will take, from its last one's time per voxel."""

    def __init__(self, limit: float) -> None:
        self._begun, self._limit = time.perf_counter(), limit
        self._per_voxel: dict[tuple[str, str], float] = {}

    def elapsed(self) -> float:
        return time.perf_counter() - self._begun

    def allows(self, contender: str, operation: str, voxels: int) -> bool:
        predicted = self._per_voxel.get((contender, operation), 0.0) * voxels * OVERHEAD_STEPS
        return self.elapsed() + predicted < self._limit

    def learn(self, contender: str, operation: str, voxels: int, step: float) -> None:
        self._per_voxel[contender, operation] = step / voxels


Plan = tuple[tuple[int, ...], tuple[int, ...], str, str, list[str]]


def _plans(
    shapes: tuple[tuple[tuple[int, ...], int], ...], engines: list[str], missing: dict[str, str]
) -> Iterator[Plan]:
    for shape, largest in shapes:
        general = tuple(_odd(min(largest, n // 6)) for n in shape)
        gaussian = tuple(_odd(min(TAPS, n)) for n in shape)
        others = [name for name in OTHERS if peers.CONTENDERS[name][0] not in missing]
        yield shape, general, "general", "iteration", engines + others
        yield shape, gaussian, "gaussian", "iteration", [*engines]
        if "skimage" not in missing:
            yield shape, general, "general", "function", ["medeconv", "scikit-image"]


def _odd(n: int) -> int:
    return max(n - 1 + n % 2, 1)


def _case(
    shape: tuple[int, ...],
    psf_shape: tuple[int, ...],
    kind: str,
    operation: str,
    names: list[str],
    *,
    threads: int,
    backend: str,
    clock: _Clock,
) -> dict[str, Any]:
    """Check and time every contender on one problem."""
    framed = operation == "function"
    given = peers.problem(shape, psf_shape, kind, "extended" if framed else "wrap", threads, framed=framed)
    expected = None
    rows: list[dict[str, Any]] = []
    for name in names:
        row: dict[str, Any] = {"contender": name, "ms": None, "error": None, "skipped": None}
        if not clock.allows(name, operation, math.prod(shape)):
            rows.append(row | {"skipped": "time"})
            continue
        try:
            task = peers.task(name, given, operation, backend=backend, planning_limit_s=PLANNING_LIMIT_S)
        except (ValueError, NotImplementedError):
            continue  # an engine that does not take this PSF
        if expected is None:
            expected = peers.reference(given, operation)
        row["error"] = peers.disagreement(task, operation, expected)
        if row["error"] <= peers.BOUNDS[operation]:
            step = median_time(task.step, REPEAT_FOR_S)
            clock.learn(name, operation, math.prod(shape), step)
            row["ms"] = step / task.iterations * 1e3
        rows.append(row)
    ours = [row["ms"] for row in rows if row["contender"].startswith("medeconv") and row["ms"] is not None]
    for row in rows:
        row["ratio"] = row["ms"] / min(ours) if row["ms"] is not None and ours else None
    kinds = {"general": "any PSF", "gaussian": "Gaussian"}
    return {
        "title": f"{_times(shape)}, {kinds[kind]} {_times(psf_shape)}",
        "operation": operation,
        "shape": shape,
        "psf": psf_shape,
        "kind": kind,
        "bound": peers.BOUNDS[operation],
        "rows": rows,
    }


def median_time(step: Callable[[], Any], seconds: float, fewest: int = 3) -> float:
    """Median of the seconds that `step` takes, repeated for about so long; a long one runs once."""
    taken: list[float] = []
    while (
        not taken
        or (sum(taken) < seconds and len(taken) < 200)
        or (len(taken) < fewest and max(taken) < seconds)
    ):
        begun = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))


def _print(record: dict[str, Any], session: Session) -> None:
    session.say()
    session.say(record["title"])
    session.say(f"  {TITLES[record['operation']]}")
    if all(row["skipped"] for row in record["rows"]):
        session.say("    left out: no time")
        return
    for row in record["rows"]:
        if row["skipped"]:
            text = "left out: no time"
        elif row["ms"] is None:
            text = f"not timed: differs from float64 by {row['error']:.1e}"
        else:
            ratio = "" if row["contender"].startswith("medeconv") else f"  {row['ratio']:6.1f} x our time"
            text = f"{row['ms']:10.2f} ms{ratio}"
        session.say(f"    {peers.shown(row['contender']):22}{text}")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for package in peers.PACKAGES.values():
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
