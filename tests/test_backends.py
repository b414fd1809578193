"""Which backend computes: the call, use_backend, MEDECONV_BACKEND, and no silent fallback."""

import gc
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import backends
from medeconv_fast.backends import cpp, numba, reference


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.delenv("MEDECONV_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_chosen", "auto")
    return monkeypatch


def used(**options):
    return mf.richardson_lucy(np.ones((4, 4)), np.ones((3, 3)), 1, return_info=True, **options)[1].backend


def test_reference_is_always_there():
    assert "reference" in mf.backends.available()
    assert reference.unavailable_reason() is None


def test_auto_takes_the_first_available(clean):
    assert used() == mf.backends.available()[0]
    clean.setattr(cpp, "is_available", lambda: False)
    clean.setattr(numba, "is_available", lambda: True)
    assert mf.backends.available() == ("numba", "reference")
    assert backends.resolve() is numba
    clean.setattr(numba, "is_available", lambda: False)
    assert mf.backends.available() == ("reference",)
    with pytest.warns(RuntimeWarning):
        assert used() == "reference"


def test_the_reference_warns_once_when_nobody_asked_for_it(clean):
    clean.setattr(backends, "_warned", False)
    clean.setattr(cpp, "is_available", lambda: False)
    clean.setattr(cpp, "unavailable_reason", lambda: "no compiler that day")
    clean.setattr(numba, "is_available", lambda: False)
    clean.setattr(numba, "unavailable_reason", lambda: "no Numba either")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert used(backend="reference") == "reference"
        assert not seen
        assert used() == used() == "reference"
    (one,) = seen
    assert one.category is RuntimeWarning
    for text in ("NumPy alone", "no compiler that day", "no Numba either"):
        assert text in str(one.message)


@pytest.mark.parametrize("missing", ["numba", "scipy"])
def test_without_numba(missing):
    """Named: the error says what to install. Left to auto: the next one, and Numba is not missed."""
    code = f"""
import sys, warnings
sys.modules[{missing!r}] = None  # import raises ImportError
sys.modules["medeconv_fast._cpp"] = None
import numpy as np
import medeconv_fast as mf
assert mf.backends.available() == ("reference",)
image, psf = np.ones((8, 9)), np.ones((3, 3))
try:
    mf.convolve(image, psf, backend="numba")
except ImportError as error:
    assert 'pip install "medeconv-fast[numba]"' in str(error), error
    assert "backend: 'numba' is not available here" in str(error), error
else:
    raise AssertionError("not refused")
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        mf.convolve(image, psf)
assert [w.category for w in seen] == [RuntimeWarning], seen
assert 'pip install "medeconv-fast[numba]"' in str(seen[0].message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numba_is_asked_only_when_it_is_needed():
    """Its import takes half a second: not paid by those who have the compiled module."""
    if not cpp.is_available():
        pytest.skip("SKIPPED: the compiled module is not available here")
    code = (
        "import sys, numpy as np, medeconv_fast as mf; mf.convolve(np.ones((8, 9)), np.ones((3, 3))); "
        "assert not {'numba', 'scipy'} & set(sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MEDECONV_BACKEND"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_order_of_settings(clean):
    clean.setenv("MEDECONV_BACKEND", "reference")
    assert used() == "reference"
    mf.use_backend(mf.backends.available()[0])
    assert used() == mf.backends.available()[0]
    assert used(backend="reference") == "reference"
    mf.use_backend("auto")
    assert used() == "reference"


def test_unavailable_backend_raises_with_the_reason(clean):
    clean.setattr(cpp, "is_available", lambda: False)
    clean.setattr(cpp, "unavailable_reason", lambda: "the moon is full")
    with pytest.raises(ImportError, match="backend: 'cpp' is not available here: the moon is full"):
        used(backend="cpp")
    with pytest.raises(ImportError, match="the moon is full"):
        mf.use_backend("cpp")
    clean.setenv("MEDECONV_BACKEND", "cpp")
    with pytest.raises(ImportError, match="environment variable MEDECONV_BACKEND: 'cpp' is not available"):
        used()


def test_bad_names(clean):
    with pytest.raises(
        ValueError, match="name: got 'gpu', expected one of 'auto', 'cpp', 'numba', 'reference', 'cuda'"
    ):
        mf.use_backend("gpu")
    with pytest.raises(TypeError, match="name: got None"):
        mf.use_backend(None)
    clean.setenv("MEDECONV_BACKEND", "c++")
    with pytest.raises(ValueError, match=r"environment variable MEDECONV_BACKEND: got 'c\+\+'"):
        used()


def test_backends_agree(backend, rng, tol, relative_error):
    image, psf = rng.random((9, 14, 11)) + 0.5, rng.random((3, 4, 5))
    for run in (
        lambda b: mf.richardson_lucy(image, psf, 10, backend=b),
        lambda b: mf.wiener(image, psf, 0.05, backend=b),
        lambda b: mf.convolve(image, psf, backend=b),
    ):
        assert relative_error(run(backend), run("reference")) < tol("backends")


def test_release_memory(backend, rng):
    image = rng.random((40, 50)).astype(np.float32) + 1
    gc.collect()  # what others have left; blocks of GPU memory that hold an array stay
    before = mf.richardson_lucy(image, np.ones((3, 3)), 2, backend=backend)
    if backend == "cuda":
        assert mf.backends.resolve(backend).describe()["cached_bytes"] > 0
    mf.release_memory()
    if backend != "reference":
        assert mf.backends.resolve(backend).describe()["cached_bytes"] == 0
    assert np.array_equal(mf.richardson_lucy(image, np.ones((3, 3)), 2, backend=backend), before)


@pytest.mark.parametrize("boundary", ["reflect", "zero", "wrap"])
@pytest.mark.parametrize("shape", [(250, 21), (17, 23), (9, 31, 10)])
def test_filters_do_not_depend_on_the_backends_transforms(backend, shape, boundary, tol):
    """Their responses have no end, so that the padding is part of the result: the same on every backend."""
    rng = np.random.default_rng(4)
    image, psf = rng.uniform(1, 2, shape), mf.psf.gaussian((3.0,) * len(shape), (1.0,) * len(shape))
    psf = psf[tuple(slice(0, min(k, n)) for k, n in zip(psf.shape, shape, strict=True))]
    filters = {
        "wiener": {"balance": 1e-3},
        "tikhonov": {"weight": 1e-3},
        "inverse_filter": {"threshold": 0.05},
        "unsupervised_wiener": {"num_iter": 30},
    }
    for name, options in filters.items():
        function = getattr(mf, name)
        wanted = function(image, psf, boundary=boundary, backend="reference", **options)
        got = function(image, psf, boundary=boundary, backend=backend, **options)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tol("backends") * np.abs(wanted).max())
