"""The simulated degradation: blur against SciPy, noise against its statistics, seeds."""

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf


@pytest.fixture
def truth():
    return ndimage.gaussian_filter(np.random.default_rng(0).random((12, 40, 42)), 2) * 100


def test_blur_equals_scipy(truth):
    psf = np.random.default_rng(1).random((3, 5, 5))
    result = mf.simulate(truth, psf, noise=None, background=3.0)
    expected = ndimage.convolve(truth, psf / psf.sum(), mode="reflect") + 3
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_gaussian_noise(truth):
    psf = mf.psf.gaussian(3.0, (1, 1, 1))
    clean = mf.simulate(truth, psf, noise=None)
    noise = mf.simulate(truth, psf, noise="gaussian", sigma=2.0, seed=4) - clean
    assert noise.std() == pytest.approx(2.0, rel=0.03) and abs(noise.mean()) < 0.05


def test_poisson_noise_keeps_the_scale(truth):
    psf = mf.psf.gaussian(3.0, (1, 1, 1))
    clean = mf.simulate(truth, psf, noise=None)
    noisy = mf.simulate(truth, psf, photons=400.0, seed=1)
    counts = noisy * 400.0 / clean.max()
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert noisy.mean() == pytest.approx(clean.mean(), rel=2e-3)
    z = (noisy - clean) / np.sqrt(clean * clean.max() / 400.0)
    assert z.std() == pytest.approx(1.0, rel=0.03)


def test_seed_decides(truth):
    psf = np.ones((3, 3, 3))
    a, b, c = (mf.simulate(truth, psf, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"noise": "pink"}, "noise"),
        ({"noise": "gaussian"}, "sigma"),
        ({"noise": "gaussian", "sigma": -1}, "sigma"),
        ({"noise": "poisson", "sigma": 1.0}, "sigma"),
        ({"noise": "gaussian", "sigma": 1.0, "photons": 5}, "photons"),
        ({"photons": 0}, "photons"),
        ({"boundary": "extended"}, "boundary"),
        ({"background": -1}, "background"),
    ],
)
def test_bad_options(truth, options, name):
    with pytest.raises(ValueError, match=name):
        mf.simulate(truth, np.ones((3, 3, 3)), **options)


def test_negative_truth_has_no_poisson_noise(truth):
    with pytest.raises(ValueError, match="negative"):
        mf.simulate(truth - 50, np.ones((3, 3, 3)))


def test_scales_that_leave_the_dtypes_range(backend):
    truth = np.full((20, 22), 1e37, np.float32)
    with pytest.raises(ValueError, match=r"truth: the largest value is 1e\+37, .*; rescale the truth"):
        mf.simulate(truth, np.ones((3, 3)), noise=None, backend=backend)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photons": 1e30}, r"photons: got 1e\+30, expected at most 9e\+18 counts"),
        ({"background": 1e25}, r"truth: blurred, .* values up to 1e\+25, expected at most 9e\+18 counts"),
        ({"noise": "gaussian", "sigma": 1e39}, r"sigma: got 1e\+39, expected .* in float32"),
        ({"noise": None, "background": 1e39}, r"background: got 1e\+39, expected .* in float32"),
    ],
)
def test_numbers_that_leave_the_range(truth, options, words):
    with pytest.raises(ValueError, match=words):
        mf.simulate(truth.astype(np.float32), np.ones((3, 3, 3)), **options)


def test_counts_beyond_integers(truth):
    psf, large = np.ones((3, 3, 3)), truth * 1e18
    with pytest.raises(ValueError, match=r"truth: blurred, .*; say with photons"):
        mf.simulate(large, psf)
    np.testing.assert_allclose(
        mf.simulate(large, psf, photons=9e18), mf.simulate(large, psf, noise=None), 1e-6
    )


def test_negative_counts_are_refused():
    psf = np.full((9, 9), -0.02)
    psf[4, 4] = 2.6
    truth = np.zeros((40, 40))
    truth[15:25, 15:25] = 100.0
    with pytest.raises(ValueError, match=r"psf: its negative values make expected counts down to -72"):
        mf.simulate(truth, psf, photons=1e3)
    assert mf.simulate(truth, psf, noise="gaussian", sigma=1.0).min() < -60
