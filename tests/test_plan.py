"""`mf.plan`: it says what Blur and Richardson-Lucy then do, and makes nothing of the image's size."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _costs

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("engine", ["auto", "spectral", "separable", "direct"])
@pytest.mark.parametrize("shape", [(61,), (20, 31), (12, 13, 14)])
def test_plan_is_what_blur_and_richardson_lucy_do(backend, dtype, engine, boundary, shape):
    psf = mf.psf.gaussian((2.5,) * len(shape), (1.0,) * len(shape))
    plan = mf.plan(shape, psf, boundary=boundary, dtype=dtype, engine=engine, backend=backend)
    blur = mf.Blur(psf, shape, boundary=boundary, dtype=dtype, engine=engine, backend=backend)
    assert plan.bytes == blur.workspace_bytes
    assert (plan.grid, plan.engine, plan.estimate_shape) == (blur.grid, blur.engine, blur.estimate_shape)
    assert plan.backend == backend
    assert set(plan.predicted_ms) == {"spectral", "separable", "direct"}
    image = np.ones(shape, dtype)
    _, info = mf.richardson_lucy(
        image, psf, 1, boundary=boundary, engine=engine, backend=backend, return_info=True
    )
    assert plan.richardson_lucy_bytes == info.bytes


def test_length_of_a_transform_is_found_at_once():
    """Smooth lengths are listed, not met: between two of them lie millions of others at this size."""
    if not mf.backends.cpp.is_available():
        pytest.skip("SKIPPED: the compiled module is not available here")
    (size,) = mf.plan((10**12,), (9,), engine="spectral", backend="cpp").grid
    assert 10**12 + 8 <= size < 1.05 * 10**12


def test_plan_takes_no_memory():
    psf = mf.psf.gaussian((4, 4, 4), (1, 1, 1))
    mf.plan((16, 16, 16), psf)
    tracemalloc.start()
    plan = mf.plan((700, 800, 900), psf)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < plan.bytes
    assert mf.plan((64, 64, 64), (60, 60, 60)).engine == "spectral"


def test_a_shape_stands_for_a_general_psf(rng):
    of_shape, of_array = (mf.plan((40, 50), psf) for psf in ((7, 9), rng.random((7, 9))))
    assert of_shape == of_array
    assert "separable" not in of_shape.predicted_ms
    assert "separable" in mf.plan((40, 50), (1, 9)).predicted_ms


def test_threads_scale_times_and_choose_nothing():
    one, many = (mf.plan((64, 64, 64), (5, 5, 5), num_threads=n) for n in (1, 4))
    assert one.engine == many.engine and one.reason == many.reason
    assert all(one.predicted_ms[name] > many.predicted_ms[name] for name in one.predicted_ms)
    for plan in (one, many):
        for name, ms in plan.predicted_ms.items():
            assert plan.predicted_iteration_ms[name] == 2 * ms > 0


def test_choice_is_the_smallest_prediction():
    for shape, psf in (((300,), (5,)), ((64, 80), (15, 15)), ((30, 40, 50), (3, 3, 3))):
        plan = mf.plan(shape, psf)
        assert plan.engine == min(plan.predicted_ms, key=plan.predicted_ms.get)


def test_periodic_images_of_any_length_take_a_cheap_grid():
    rough, smooth = (mf.plan((400, n), (9, 9), boundary="wrap") for n in (401, 420))
    assert smooth.grid == (400, 420)
    assert rough.grid[0] == 400 and rough.grid[1] >= 401 + 8  # continued by the PSF's reach
    assert rough.predicted_ms["spectral"] < 1.1 * smooth.predicted_ms["spectral"]


@pytest.mark.parametrize(
    "memory, count",
    [(1000, 1000), ("4GB", 4e9), ("4 gb", 4e9), ("1.5 MiB", 1.5 * 2**20), ("7", 7), ("2 TB", 2e12)],
)
def test_memory_as_text(memory, count):
    assert mf.plan((8, 9), (3, 3), memory=memory).memory == count


def test_too_little_memory_is_a_warning():
    enough = mf.plan((64, 64), (3, 3), memory="1 GB").warnings  # that of a backend without predicted times
    assert not any("tiles" in warning for warning in enough)
    plan = mf.plan((64, 64), (3, 3), memory="1 kB")
    assert plan.tiles == (1, 1)
    (added,) = [warning for warning in plan.warnings if warning not in enough]
    assert "do not even hold a tile" in added


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_memory_for_a_part_gives_tiles(boundary):
    psf = mf.psf.gaussian((3, 3), (1, 1))
    whole = mf.plan((400, 500), psf, boundary=boundary)
    plan = mf.plan((400, 500), psf, boundary=boundary, memory=whole.richardson_lucy_bytes // 4)
    number = np.prod(plan.tiles)
    assert 4 <= number <= 24
    assert any(f"{plan.tiles[0]} x {plan.tiles[1]} of them" in warning for warning in plan.warnings)
    assert mf.plan((400, 500), psf, boundary=boundary, memory=whole.richardson_lucy_bytes).tiles == (1, 1)


@pytest.mark.parametrize(
    "arguments, options, error, name",
    [
        (((0, 3), (3, 3)), {}, ValueError, "shape"),
        (((8, 9), (3,)), {}, ValueError, "psf"),
        (((8, 9), (3, 0)), {}, ValueError, "psf"),
        (((8, 9), np.full((3, 3), np.nan)), {}, ValueError, "psf"),
        (((8, 9), (9, 9)), {"boundary": "wrap"}, ValueError, "psf"),
        (((8, 9), (3, 3)), {"boundary": "odd"}, ValueError, "boundary"),
        (((8, 9), (3, 3)), {"engine": "odd"}, ValueError, "engine"),
        (((8, 9), (3, 3)), {"engine": "separable"}, ValueError, "engine"),
        (((8, 9), (3, 3)), {"backend": "odd"}, ValueError, "backend"),
        (((8, 9), (3, 3)), {"dtype": "int16"}, ValueError, "dtype"),
        (((8, 9), (3, 3)), {"dtype": "nonsense"}, ValueError, "dtype"),
        (((8, 9), (3, 3)), {"dtype": None}, ValueError, "dtype"),
        (((8, 9), (3, 3)), {"memory": "much"}, ValueError, "memory"),
        (((8, 9), (3, 3)), {"memory": "0 GB"}, ValueError, "memory"),
        (((8, 9), (3, 3)), {"memory": "0.1"}, ValueError, "memory"),
        (((8, 9), (3, 3)), {"memory": "9" * 400 + " GB"}, ValueError, "memory"),
        (((8, 9), (3, 3)), {"memory": 0}, ValueError, "memory"),
        (((8, 9), (3, 3)), {"memory": 1.5}, TypeError, "memory"),
        (((8, 9), (3, 3)), {"num_threads": 0}, ValueError, "num_threads"),
    ],
)
def test_errors_name_the_argument(arguments, options, error, name):
    with pytest.raises(error, match=rf"^{name}\b"):
        mf.plan(*arguments, **options)


def test_plan_as_text(backend):
    plan = mf.plan((20, 30), (5, 3), backend=backend, memory=1)
    text = str(plan)
    for part in ("20 x 30", "24 x 32", plan.engine, "per application", "per iteration", "MB", "warning"):
        assert part in text
    with pytest.raises(AttributeError, match="no entry 'nonsense'"):
        _ = plan.nonsense


def test_explain_shows_prediction_and_then_measurement(backend):
    blur = mf.Blur(np.ones((5, 3)), (20, 30), backend=backend, boundary="reflect")
    assert "predicted per application" in blur.explain()
    assert "measured" not in blur.explain()
    blur.forward(np.ones((20, 30), np.float32))
    blur.adjoint(np.ones((20, 30), np.float32))
    text = blur.explain()
    assert "measured per application, float32" in text and "latest 2" in text


def test_costs_of_a_gpu_are_those_that_were_measured():
    """Iterations, two applications each, of the results that the report shows."""
    results = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu.json"
    entries = [e for e in json.loads(results.read_text())["entries"] if e["kind"] == "deconvolution"]
    assert len(entries) == 3
    for entry in entries:
        grid, measured = tuple(entry["grid"]), entry["ms_per_iteration"]
        taps = _costs.Taps((15, 15, 15), (15, 15, 15), 1)
        costs = _costs.predicted_ns(taps, grid, grid, on_gpu=True)
        assert min(costs, key=costs.get) == "separable"
        for engine, name in (("separable", "ours"), ("spectral", "ours, any psf")):
            assert 0.8 < 2 * _costs.milliseconds(costs[engine], on_gpu=True) / measured[name] < 1.25
