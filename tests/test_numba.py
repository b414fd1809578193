"""The Numba backend's own promises: float32 arithmetic, threads, compilation. What it computes is tested by
the whole suite, through the fixture `backend`."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.backends import _numba_base, numba

if not numba.is_available():
    pytest.skip(f"SKIPPED: {numba.unavailable_reason()}", allow_module_level=True)

F, I = np.float32(1), np.int64(1)
LINE, PLACES = np.ones(8, np.float32), np.arange(4)
FOUR = np.ones((4, 4), np.float32)
# Arguments of the kernels that do all of their arithmetic in the arrays' dtype.
KERNELS = {
    "_accumulate": (LINE, LINE, I, PLACES, LINE, I, I),
    "_accumulate_four": (np.ones(2048, np.float32), I, LINE, I, PLACES, FOUR, I, I),
    "fold_middle": (np.ones((1, 2, 2), np.float32), PLACES, np.ones((1, 2, 2), np.float32), I, I),
    "multiply_spectrum": (np.ones((2, 2), np.complex64), np.ones((2, 2), np.complex64), I, True),
    "ratio": (LINE, LINE, LINE, F, F),
    "multiply": (LINE, LINE, LINE, LINE),
    "residual": (LINE, LINE, LINE, F),
    "add": (LINE, LINE, LINE, LINE, F, True),
    "extrapolate": (LINE, LINE, F),
    "bias_and_relu": (FOUR, LINE, True),
    "end_results": (LINE, LINE, True, F),
}


@pytest.mark.parametrize("name", KERNELS)
def test_float32_is_never_widened(name):
    """Numba takes a Python float for float64, and everything that meets it."""
    import numba as compiler

    from medeconv_fast.backends import _numba_kernels

    fresh = compiler.njit(getattr(_numba_kernels, name).py_func)  # a cached one does not show its code
    fresh.compile(tuple(compiler.typeof(a) for a in KERNELS[name]))
    (code,) = fresh.inspect_llvm().values()
    assert " float " in code or "float>" in code
    assert "fpext" not in code
    assert "fast" not in [word for line in code.splitlines() if " fmul " in line for word in line.split()]


def test_every_unit_once_on_at_most_so_many_threads():
    done, threads = [], set()

    def body(unit):
        time.sleep(0.002)
        done.append(unit)
        threads.add(threading.get_ident())

    _numba_base.run(50, 3, body)
    assert sorted(done) == list(range(50))
    assert 1 < len(threads) <= 3
    done.clear()
    threads.clear()
    _numba_base.run(5, 1, body)
    assert done == list(range(5))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("where", ["caller", "helper"])
def test_an_error_stops_the_others_and_is_raised(where):
    started = []

    def body(unit):
        started.append(unit)
        if (threading.current_thread() is threading.main_thread()) == (where == "caller"):
            raise RuntimeError("in a unit")
        time.sleep(0.01)

    with pytest.raises(RuntimeError, match="in a unit"):
        _numba_base.run(10_000, 3, body)
    assert len(started) < 100
    # Nothing is left running, and the pool is usable.
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count
    done = []
    _numba_base.run(20, 3, done.append)
    assert sorted(done) == list(range(20))


def test_callers_share_the_threads():
    """n callers that ask for t threads each: no more than t - 1 helpers, which make room for the others."""
    running, samples, lock = [0], [], threading.Lock()

    def body(unit):
        with lock:
            running[0] += 1
            samples.append(running[0])
        time.sleep(0.002)
        with lock:
            running[0] -= 1

    pool = _numba_base.Pool()
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda _: pool.run(100, 4, body), range(4)))
    assert len(pool._executor._threads) <= 3
    assert max(samples) <= 7
    assert np.mean(samples) <= 4.5


def test_same_bits_from_several_callers_at_once():
    rng = np.random.default_rng(3)
    images = [rng.random((20, 30, 25 + i), np.float32) for i in range(6)]
    psf = rng.random((3, 4, 5))

    def run(image):
        return mf.richardson_lucy(image, psf, 3, backend="numba", num_threads=3)

    expected = [run(image) for image in images]
    with ThreadPoolExecutor(6) as callers:
        for got, wanted in zip(callers.map(run, images), expected, strict=True):
            assert np.array_equal(got, wanted)


def test_rounding_does_not_grow_with_the_taps(tol, relative_error):
    rng = np.random.default_rng(4)
    for shape, k in [((40, 50, 60), (33, 31, 29)), ((90, 100), (90, 77))]:
        psf = rng.random(k) + 0.1
        one, other = (
            mf.Blur(psf, shape, engine=engine, backend="numba", dtype=dtype)
            for engine, dtype in (("direct", np.float32), ("spectral", np.float64))
        )
        x = rng.random(one.estimate_shape, np.float32)
        assert relative_error(one.forward(x), other.forward(x)) < tol("same_grid", np.float32)


def test_buffers_are_kept_within_bounds():
    kept = _numba_base.Kept()
    one = kept.take(1000)
    kept.give(one)
    assert kept.size >= 1000
    assert kept.take(100) is not one  # far too large for it
    assert kept.take(900) is one
    for _ in range(5):
        kept.give(np.empty(kept.MOST // 3, np.uint8))
    assert kept.size <= kept.MOST
    kept.release()
    assert kept.size == 0


def test_no_place_to_cache(monkeypatch):
    """A read-only installation and no home: compiled every time, but it works."""
    from medeconv_fast.backends import _numba_kernels

    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(_numba_kernels, "njit", njit)
    function, options = _numba_kernels._kernel(len)
    assert function is len
    assert options == {"nogil": True}


def test_compiled_when_needed_and_once(tmp_path):
    """From an empty cache, first asked by four threads at once; the next process compiles nothing."""
    code = textwrap.dedent(
        """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        import medeconv_fast as mf

        assert "numba" not in sys.modules
        image, psf = np.ones((12, 20), np.float32), np.ones((3, 3))
        blur = mf.Blur(psf, (12, 20), boundary="wrap", engine="direct", backend="numba")
        run = lambda n: blur.forward(image)
        with ThreadPoolExecutor(4) as callers:
            for result in callers.map(run, range(4)):
                assert np.allclose(result, 1, atol=1e-6)
        from medeconv_fast.backends import _numba_kernels
        dispatchers = [v for v in vars(_numba_kernels).values() if hasattr(v, "stats")]
        hits = sum(sum(d.stats.cache_hits.values()) for d in dispatchers)
        misses = sum(sum(d.stats.cache_misses.values()) for d in dispatchers)
        unused = [d for d in dispatchers if not d.signatures]
        print(hits, misses, len(unused))
        """
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    results = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        results.append([int(word) for word in done.stdout.split()])
    (_, compiled, unused), (hits, again, _) = results
    assert compiled > 0 and unused > 10  # what the call did not need is not compiled
    assert again == 0 and hits > 0
    assert list(tmp_path.rglob("*.nbc"))


def test_read_only_arrays_compile_nothing():
    from medeconv_fast.backends import _numba_kernels

    rng = np.random.default_rng(5)
    image, psf = rng.random((12, 20), np.float32), rng.random((3, 4))
    x, w = rng.random((2, 3, 9, 8), np.float32), rng.random((4, 3, 3, 2), np.float32)
    runs = [
        lambda: mf.richardson_lucy(image, psf, 2, boundary="reflect", weights=image, backend="numba"),
        lambda: mf.richardson_lucy(image, psf, 2, engine="direct", backend="numba"),
        lambda: mf.ops.conv(x, w, w[:, 0, 0, 0], padding=1, backend="numba"),
        lambda: mf.ops.conv_transpose(x, w[:3], padding_mode="circular", padding=1, backend="numba"),
        lambda: mf.ops.conv_weight_grad(x, x, (3, 3, 1, 1), backend="numba"),
    ]
    expected = [run() for run in runs]
    kernels = [v for v in vars(_numba_kernels).values() if hasattr(v, "signatures")]
    before = sum(len(k.signatures) for k in kernels)
    for array in (image, psf, x, w):
        array.flags.writeable = False
    for run, wanted in zip(runs, expected, strict=True):
        assert np.array_equal(run(), wanted)
    assert sum(len(k.signatures) for k in kernels) == before
    assert not image.flags.writeable
