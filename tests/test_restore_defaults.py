"""mf.restore: what it chooses, and that it says so."""

import warnings

import numpy as np
import pytest

import medeconv_fast as mf

PSF = np.outer([1, 2, 1], [1, 2, 1])


@pytest.fixture
def image(rng):
    return rng.random((14, 15)).astype(np.float32) * 100 + 1


def test_default_is_richardson_lucy(image, backend):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = mf.restore(image, PSF, backend=backend)
    assert np.array_equal(estimate, mf.richardson_lucy(image, PSF, backend=backend))


@pytest.mark.parametrize("method", ["rl", "richardson-lucy"])
def test_named_richardson_lucy(image, backend, method):
    estimate, info = mf.restore(
        image, PSF, method, num_iter=4, boundary="mirror", return_info=True, backend=backend
    )
    assert np.array_equal(estimate, mf.richardson_lucy(image, PSF, 4, boundary="mirror", backend=backend))
    assert info.settings["method"] == "richardson_lucy"


def test_named_wiener(image, backend):
    estimate = mf.restore(image, PSF, "wiener", balance=0.1, backend=backend)
    assert np.array_equal(estimate, mf.wiener(image, PSF, 0.1, backend=backend))


def test_noise_below_zero_is_clipped_with_a_warning(image, backend):
    image[3, 4] = -2
    with pytest.warns(UserWarning, match=r"1 negative values \(smallest -2\) were set to zero"):
        estimate, info = mf.restore(image, PSF, return_info=True, backend=backend)
    assert np.array_equal(estimate, mf.richardson_lucy(np.maximum(image, 0), PSF, backend=backend))
    assert any("set to zero" in w for w in info.warnings)
    assert info.settings["clipped"] == 1


def test_stated_negative_is_followed_silently(image, backend):
    image[3, 4] = -2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clipped = mf.restore(image, PSF, negative="clip", backend=backend)
        shifted = mf.restore(image, PSF, negative="shift", backend=backend)
    assert np.array_equal(clipped, mf.richardson_lucy(image, PSF, negative="clip", backend=backend))
    assert np.array_equal(shifted, mf.richardson_lucy(image, PSF, negative="shift", backend=backend))
    with pytest.raises(ValueError, match="negative, the smallest -2"):
        mf.restore(image, PSF, negative="raise", backend=backend)


def test_signed_scale_gets_the_wiener_filter(image, backend):
    signed = image * 20 - 1000
    with pytest.warns(UserWarning, match=r"signed scale, restored with the Wiener filter.*negative='shift'"):
        estimate, info = mf.restore(signed, PSF, return_info=True, backend=backend)
    assert np.array_equal(estimate, mf.wiener(signed, PSF, backend=backend))
    assert info.settings["method"] == "wiener"
    steps = []
    with pytest.warns(UserWarning, match="signed scale"):
        mf.restore(signed, PSF, callback=lambda i, e: steps.append((i, e.shape)), backend=backend)
    assert steps == [(1, signed.shape)]
    # An option that only Richardson-Lucy has decides for it.
    with pytest.warns(UserWarning, match="set to zero"):
        clipped = mf.restore(signed, PSF, num_iter=3, backend=backend)
    assert np.array_equal(clipped, mf.richardson_lucy(signed, PSF, 3, negative="clip", backend=backend))


def test_option_of_one_method_decides(image, backend):
    assert np.array_equal(
        mf.restore(image, PSF, balance=0.2, backend=backend), mf.wiener(image, PSF, 0.2, backend=backend)
    )
    estimate = mf.restore(image, PSF, num_iter=3, backend=backend)
    assert np.array_equal(estimate, mf.richardson_lucy(image, PSF, 3, backend=backend))


def test_unknown_method_and_options(image):
    with pytest.raises(
        ValueError, match="method: got 'lucy', expected one of 'auto', 'richardson-lucy', 'rl', 'wiener'"
    ):
        mf.restore(image, PSF, "lucy")
    with pytest.raises(
        TypeError, match="iterations: the method richardson_lucy has no such option; it takes"
    ):
        mf.restore(image, PSF, iterations=3)
    with pytest.raises(TypeError, match="num_iter: the method wiener has no such option"):
        mf.restore(image, PSF, "wiener", num_iter=3)


def test_no_argument_is_changed(image, backend):
    image[0, 0] = -1
    before = image.copy()
    options = {"return_info": True, "backend": backend}
    with pytest.warns(UserWarning, match="set to zero"):
        mf.restore(image, PSF, **options)
    assert options == {"return_info": True, "backend": backend}
    assert np.array_equal(image, before)


OTHERS = {
    "tikhonov": {"weight": 0.1, "regularizer": 1},
    "inverse_filter": {"threshold": 0.3},
    "unsupervised_wiener": {"num_iter": 20},
    "landweber": {"num_iter": 3, "non_negative": True},
    "fista": {"weight": 0.5, "num_iter": 3},
    "van_cittert": {"num_iter": 3},
}


@pytest.mark.parametrize("method", OTHERS)
def test_method_by_name(method, image, backend):
    got = mf.restore(image, PSF, method, backend=backend, **OTHERS[method])
    assert np.array_equal(got, getattr(mf, method)(image, PSF, backend=backend, **OTHERS[method]))
    with pytest.raises(TypeError, match=f"acceleration: the method {method} has no such option; it takes"):
        mf.restore(image, PSF, method, acceleration="heavy-ball")
