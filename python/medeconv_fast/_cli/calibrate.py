"""``medeconv calibrate``: how far predicted times are off on this machine. No result depends on it."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import medeconv_fast as mf

from .. import _costs
from .._calibration import ENGINES, KIND, RANKS
from .._threads import resolve_num_threads
from .bench import median_time
from .session import Progress, Session, write_text

# Image and width of the PSF: within the caches and beyond them.
CASES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((20_000,), 17),
    ((500_000,), 33),
    ((256, 256), 9),
    ((1000, 1024), 15),
    ((48, 48, 48), 5),
    ((128, 128, 128), 9),
)
REPEAT_FOR_S = 0.3


class Timing(NamedTuple):
    """One iteration of Richardson-Lucy, by an engine, in one case."""

    engine: str
    shape: tuple[int, ...]
    width: int
    predicted_ms: float
    measured_ms: float

    @property
    def ratio(self) -> float:
        return self.measured_ms / self.predicted_ms


def calibrate(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "save", "json")
    module = mf.backends.resolve(arguments.backend)
    isa = module.describe().get("isa")
    threads = resolve_num_threads(arguments.threads)
    instructions = "" if isa is None else f" ({isa})"
    session.say(f"backend {module.NAME}{instructions}, {threads} threads, {platform.machine()}, float32")
    timings: list[Timing] = []
    with Progress("calibrate", len(CASES), enabled=not session.quiet) as progress:
        for shape, width in CASES:
            timings += _case(shape, width, module.NAME, threads)
            progress.step()
    session.say()
    session.say("Richardson-Lucy iteration, periodic    predicted ms  measured ms  ratio")
    for t in timings:
        size = " x ".join(map(str, t.shape))
        case = f"{t.engine:9}  {size}, {t.width} taps"
        session.say(f"  {case:38} {t.predicted_ms:10.3g} {t.measured_ms:12.3g} {t.ratio:6.2f}")
    factors = {
        engine: [
            _mean(t.ratio for t in timings if t.engine == engine and len(t.shape) == rank)
            for rank in (1, 2, 3)
        ]
        for engine in ENGINES
    }
    session.say()
    session.say(f"times the predictions, which are those of {_costs.MACHINE}:")
    for engine, row in factors.items():
        shown = ", ".join(f"{name} {factor:.2f}" for name, factor in zip(RANKS, row, strict=True))
        session.say(f"  {engine:9}  {shown}")
    made = {
        "kind": KIND,
        "version": mf.__version__,
        "backend": module.NAME,
        "isa": isa,
        "num_threads": threads,
        "machine": platform.processor() or platform.machine(),
        "reference": _costs.MACHINE,
        "factors": factors,
    }
    if arguments.save is not None:
        with session.output(arguments.save):
            write_text(arguments.save, json.dumps(made, indent=2) + "\n", overwrite=session.overwrite)
        session.say(f"wrote     {arguments.save}, which 'medeconv plan --calibration' takes")
    session.write_json({"command": "calibrate", **made, "timings": [t._asdict() for t in timings]})


def _mean(ratios: Iterator[float]) -> float:
    return float(statistics.geometric_mean(ratios))


def _case(shape: tuple[int, ...], width: int, backend: str, threads: int) -> Iterator[Timing]:
    line = np.exp(-(np.linspace(-1.5, 1.5, width) ** 2))
    product = line
    for _ in shape[1:]:
        product = np.multiply.outer(product, line)
    # Neither a product nor symmetric: what the other engines are asked for.
    general = product * (1 + np.arange(product.size).reshape(product.shape) / product.size)
    image = np.random.default_rng(0).random(shape, np.float32) + np.float32(1)
    for engine in ENGINES:
        psf = product if engine == "separable" else general
        options: dict[str, Any] = {"boundary": "wrap", "backend": backend, "num_threads": threads}
        predicted = mf.plan(shape, psf, **options).predicted_iteration_ms[engine]
        estimate = np.ones_like(image)
        chain = mf.Blur(psf, shape, engine=engine, dtype=np.float32, **options).begin(estimate)

        def iteration(chain: Any = chain, estimate: np.ndarray = estimate) -> None:
            chain.sweep("ratio", image=image, eps=1e-6)
            chain.sweep("multiply", adjoint=True, out=estimate, estimate=estimate)

        iteration()
        yield Timing(engine, shape, width, predicted, median_time(iteration, REPEAT_FOR_S) * 1e3)
