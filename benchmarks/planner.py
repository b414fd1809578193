"""Does the planner choose well? Times every engine that applies in each of many cases.

    chrt -f 50 python benchmarks/planner.py -o benchmarks/results/planner.json

An engine is left out of a case only where its multiply-adds alone, at the peak rate of the machine in
NOTES.md, would take twice the time measured for another one.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from report import MARGIN

PEAK = 118e9  # multiply-adds per second in float32 of two cores
SHAPES: dict[tuple[int, ...], tuple[int, ...]] = {
    (1000,): (3, 9, 33, 65),
    (20000,): (3, 5, 9, 17, 33, 65),
    (300000,): (3, 9, 17, 33, 65),
    (24, 25): (3, 5, 7),
    (128, 128): (3, 7, 11, 15, 33),
    (300, 401): (3, 7, 11, 15, 33, 65),
    (250, 509): (5, 15, 33),
    (512, 512): (3, 7, 11, 15, 25, 65),
    (1024, 1024): (3, 7, 11, 15, 25, 65),
    (32, 32, 32): (3, 5, 7, 9),
    (40, 40, 40): (5, 9),
    (64, 64, 64): (3, 5, 7, 9, 25),
    (100, 60, 96): (3, 5, 7, 15),
    (61, 97, 101): (3, 7, 9, 13),
    (24, 256, 256): (3, 5, 7, 15),
    (128, 128, 128): (3, 5, 7, 9, 17, 33),
    (160, 160, 160): (3, 5, 7, 13, 25),
}
SECONDS = 0.12  # spent on one engine in one case


def cases(shapes: dict[tuple[int, ...], tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    """Shape, PSF, kind of PSF and boundary; the boundary alternates."""
    boundaries = itertools.cycle(("wrap", "extended"))
    for shape, widths in shapes.items():
        for width in widths:
            for kind in ("general", "symmetric", "product"):
                if len(shape) == 1 and kind == "product":
                    continue  # every line is one
                psf = tuple(min(width, n - 1 + n % 2) for n in shape)
                yield {"shape": shape, "psf": psf, "kind": kind, "boundary": next(boundaries)}


def psf_of(shape: tuple[int, ...], kind: str) -> np.ndarray:
    if kind == "general":
        return np.random.default_rng(1).random(shape) + 0.1
    axes = np.meshgrid(*[np.linspace(-1, 1, k) if k > 1 else np.zeros(1) for k in shape], indexing="ij")
    square = sum(axis**2 for axis in axes)
    return np.exp(-square) if kind == "product" else 1 / (1 + square)


def iteration(blur: Any, image: np.ndarray) -> Any:
    """One Richardson-Lucy iteration as the algorithm makes it."""
    estimate = np.ones(blur.estimate_shape, image.dtype)
    chain = blur.begin(estimate)

    def run() -> None:
        chain.sweep("ratio", image=image, eps=1e-6)
        chain.sweep("multiply", adjoint=True, out=estimate, estimate=estimate)

    return run


def measure(case: dict[str, Any], dtype: str, threads: int) -> dict[str, Any]:
    import medeconv_fast as mf

    shape, boundary = case["shape"], case["boundary"]
    psf = psf_of(case["psf"], case["kind"])
    plan = mf.plan(shape, psf, boundary=boundary, dtype=dtype, num_threads=threads)
    image = np.random.default_rng(0).random(shape).astype(dtype) + 1
    points = math.prod(plan.estimate_shape)
    runs: dict[str, Any] = {}
    samples: dict[str, list[float]] = {}
    fastest = math.inf
    for engine in sorted(plan.predicted_ms, key=("spectral", "separable", "direct").index):
        products = math.prod(
            k // 2 + 1 if case["kind"] != "general" and i != 1 else k for i, k in enumerate(case["psf"])
        )
        if engine == "direct" and 2 * points * products / PEAK > 2 * fastest:
            continue
        blur = mf.Blur(psf, shape, boundary=boundary, engine=engine, dtype=dtype, num_threads=threads)
        run = iteration(blur, image)
        run()
        begun = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - begun)
        runs[engine], samples[engine] = run, []
    left = SECONDS * len(runs)
    begun = time.perf_counter()
    while time.perf_counter() - begun < left or len(samples["spectral"]) < 5:
        for engine, run in runs.items():
            before = time.perf_counter()
            run()
            samples[engine].append(time.perf_counter() - before)
        if len(samples["spectral"]) >= 300:
            break
    measured = {engine: statistics.median(values) * 1e3 for engine, values in samples.items()}
    best = min(measured, key=measured.__getitem__)
    return {
        **case,
        "dtype": dtype,
        "chosen": plan.engine,
        "best": best,
        # An engine that was left out takes at least twice the best's time.
        "ratio": measured[plan.engine] / measured[best] if plan.engine in measured else 2.0,
        "measured_ms": measured,
        "predicted_ms": plan.predicted_iteration_ms,
        "estimate_shape": plan.estimate_shape,
        "grid": plan.grid,
    }


def hits(rows: list[dict[str, Any]]) -> int:
    return sum(row["ratio"] <= MARGIN for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--shape", type=int, nargs="+", help="only the cases of this shape")
    arguments = parser.parse_args()
    from machine import save  # notes the load before anything is measured

    only = tuple(arguments.shape or ())
    chosen = list(cases({only: SHAPES.get(only, (3, 9))} if only else SHAPES))
    rows = []
    for case in chosen:
        row = measure(case, arguments.dtype, arguments.threads)
        rows.append(row)
        if row["ratio"] > MARGIN:
            times = ", ".join(f"{name} {ms:.3g} ms" for name, ms in row["measured_ms"].items())
            name = f"{'x'.join(map(str, row['shape']))}, psf {row['psf']}, {row['kind']}, {row['boundary']}"
            print(f"miss: {name}: chose {row['chosen']}, {row['ratio']:.2f} of the best; {times}", flush=True)
    print(f"within 25 % of the best: {hits(rows)} of {len(rows)} cases")
    if arguments.output:
        save(arguments.output, arguments.threads, planner=rows)


if __name__ == "__main__":
    main()
