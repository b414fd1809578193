"""Every comparison of `cases.CASES`: check agreement, then time. Run by `make bench`; see run.py.

One test is one contender in one case; its name has the operation, the sizes and the contender, so that
``-k "iteration and 256x256x256 and wrap"`` selects. Marks: quick (tiny), large (512 cubed and the like).
A contender that is not installed, and an engine that refuses the PSF, are skipped with the reason.
"""

import functools
import importlib.util
import math
import time

import numpy as np
import pytest

import medeconv_fast as mf
import rates
from cases import CASES, ENGINES, bytes_moved, operations, working_set
from medeconv_fast import _blur
from medeconv_fast._cli import peers

OWN = tuple(f"medeconv-{engine}" for engine in _blur.ENGINES if engine != "auto")
# Seconds for which a step is repeated; the median counts.
REPEAT_FOR_S = 1.0
FEWEST, MOST = 5, 200
# Beyond this a direct sum takes minutes, whatever the engine would accept.
LARGEST_DIRECT_SUM = 3e11
PRECISION_ITERATIONS = 50


def _parameters():
    for case in CASES:
        marks = [getattr(pytest.mark, name) for name in ("quick", "large") if getattr(case, name)]
        for entry in case.contenders:
            for contender in OWN if entry == ENGINES else (entry,):
                yield pytest.param(case, contender, id=f"{case.id}/{contender}", marks=marks)


@functools.lru_cache(maxsize=1)
def _problem(case, threads):
    framed = case.operation == "function"
    boundary = "extended" if framed else case.boundary
    return peers.problem(case.shape, case.psf, case.kind, boundary, threads, framed=framed)


@functools.lru_cache(maxsize=1)
def _reference(case, threads, initial):
    return peers.reference(_problem(case, threads), case.operation, initial)


def _time(benchmark, case, contender, step, iterations, info, checked_s=0.0):
    """Time a step as often as fits, FEWEST times at least; one that takes very long is timed once.

    `checked_s` is what the check took, which is warm-up enough for those.
    """
    once = checked_s
    if checked_s < 10:
        begun = time.perf_counter()
        step()
        once = time.perf_counter() - begun
    fewest = FEWEST if once < 3 else 1
    benchmark.group = case.id
    benchmark.extra_info.update(
        operation=case.operation,
        shape=case.shape,
        psf=case.psf,
        kind=case.kind,
        boundary=case.boundary,
        contender=contender,
        iterations=iterations,
        **info,
    )
    rounds = min(max(math.ceil(REPEAT_FOR_S / once), fewest), MOST)
    benchmark.pedantic(step, rounds=rounds, iterations=1)


@pytest.mark.parametrize(("case", "contender"), list(_parameters()))
def test_cpu(benchmark, case, contender, threads, copy, product):
    if case.operation == "copy":
        made = rates.Copy(case.voxels, threads)
        made.step()
        assert np.array_equal(made.source, made.target)
        _time(benchmark, case, contender, made.step, 1, {"bytes": made.bytes})
        return
    if case.operation == "precision":
        _precision(benchmark, case, contender, threads)
        return
    module = peers.CONTENDERS.get(contender, ("",))[0]
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"SKIPPED: {peers.PACKAGES[module]} is not installed")
    engine = peers.own_engine(contender)
    if engine == "direct" and math.prod(case.psf) * case.voxels > LARGEST_DIRECT_SUM:
        pytest.skip("SKIPPED: a direct sum over this PSF would take minutes")
    given = _problem(case, threads)
    try:
        task = peers.task(contender, given, case.operation)
    except (ValueError, NotImplementedError) as refusal:
        if engine is None:
            raise
        pytest.skip(f"SKIPPED: {refusal}")
    bound = peers.BOUNDS[case.operation]
    expected = _reference(case, threads, task.initial)
    begun = time.perf_counter()
    error = peers.disagreement(task, case.operation, expected)
    checked_s = time.perf_counter() - begun
    assert error <= bound, f"{contender} disagrees with float64 by {error:.2e}, allowed {bound:.0e}"
    info = {"error": error, "bound": bound, **task.info}
    if engine is not None and case.operation in ("iteration", "convolution"):
        sizes = (case, engine, task.info["grid"], given.reached)
        info |= {
            "bytes": bytes_moved(*sizes),
            "operations": operations(*sizes),
            "working_set": working_set(task.info["grid"], case),
            "copy_bytes_per_s": rates.bandwidth(copy),
            "arithmetic_per_s": rates.arithmetic(product),
        }
    _time(benchmark, case, contender, task.step, task.iterations, info, checked_s)


def _precision(benchmark, case, contender, threads):
    """Float32 against float64 after many iterations, on beads before a background of zeros."""
    engine = peers.own_engine(contender)
    psf, _ = peers.psf_of(case.psf, case.kind)
    rng = np.random.default_rng(2)
    beads = np.zeros(case.shape)
    beads[tuple(rng.integers(8, n - 8, 60) for n in case.shape)] = rng.uniform(500, 3000, 60)
    options = {"boundary": case.boundary, "num_threads": threads}
    image = np.maximum(mf.Blur(psf, case.shape, **options).forward(beads), 0)

    def restore(dtype):
        return mf.richardson_lucy(image.astype(dtype), psf, PRECISION_ITERATIONS, engine=engine, **options)

    try:
        expected = restore(np.float64)
    except (ValueError, NotImplementedError) as refusal:
        pytest.skip(f"SKIPPED: {refusal}")
    error = float(np.linalg.norm(restore(np.float32) - expected) / np.linalg.norm(expected))
    _time(
        benchmark,
        case,
        contender,
        lambda: restore(np.float32),
        PRECISION_ITERATIONS,
        {"error": error, "compared_iterations": PRECISION_ITERATIONS},
    )
