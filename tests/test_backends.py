"""Which backend computes: the call, use_backend, MEDECONV_BACKEND, and no silent fallback."""

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import backends
from medeconv_fast.backends import cpp, reference


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
    assert mf.backends.available() == ("reference",)
    assert used() == "reference"


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
        ValueError, match="name: got 'gpu', expected one of 'auto', 'cpp', 'reference', 'numba', 'cuda'"
    ):
        mf.use_backend("gpu")
    with pytest.raises(TypeError, match="name: got None"):
        mf.use_backend(None)
    with pytest.raises(NotImplementedError, match="name='cuda' is not built yet"):
        mf.use_backend("cuda")
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
    before = mf.richardson_lucy(image, np.ones((3, 3)), 2, backend=backend)
    mf.release_memory()
    if backend == "cpp":
        assert cpp.describe()["cached_bytes"] == 0
    assert np.array_equal(mf.richardson_lucy(image, np.ones((3, 3)), 2, backend=backend), before)
