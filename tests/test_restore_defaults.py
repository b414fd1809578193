"""mf.restore: what it chooses, and that it says so."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf
from medeconv_fast.algorithms._noise import SAMPLE, _equal_parts, noise_of, sample

PSF = np.outer([1, 2, 1], [1, 2, 1])


@pytest.fixture
def image(rng):
    return rng.random((14, 15)).astype(np.float32) * 100 + 1


@pytest.fixture
def counts(rng):
    """A blurred image with Poisson noise of a gain of 3, its truth and its PSF."""
    truth = np.zeros((60, 64))
    truth[12:40, 15:50], truth[22:30, 25:36] = 80, 160
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    blurred = mf.Blur(psf, truth.shape, boundary="reflect").forward(truth + 20)
    return truth + 20, psf, (3.0 * rng.poisson(blurred)).astype(np.float32)


def test_default_is_what_it_says(counts, backend):
    """Every choice is in info, and handing the choices to richardson_lucy gives the same result."""
    _, psf, image = counts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate, info = mf.restore(image, psf, return_info=True, backend=backend)
    chosen = info.settings["chosen"]
    assert set(chosen) == {"acceleration", "regularizer", "stop", "num_iter", "negative"}
    assert info.settings["noise"]["gain"] == pytest.approx(3, rel=0.15)
    assert info.settings["acceleration"] == chosen["acceleration"] == "biggs-andrews"
    kind, weight = info.settings["regularizer"]
    assert kind == "tv" and chosen["regularizer"] == f"('tv', {weight})"
    level = float((image.astype(float) ** 2).sum() / image.sum(dtype=float))
    assert weight == pytest.approx(0.065 * np.sqrt(3 / level), rel=0.15)
    assert info.stopped_by == "thinning" and 1 <= info.num_iter < 50
    assert "Thinning(gain=" in chosen["stop"] and "fraction=0.1" in chosen["stop"]
    again = mf.richardson_lucy(
        image,
        psf,
        info.num_iter,
        acceleration="biggs-andrews",
        regularizer=(kind, weight),
        negative="clip",
        backend=backend,
    )
    assert np.array_equal(estimate, again)


def test_default_is_better_than_plain(counts, backend):
    truth, psf, image = counts
    errors = [
        float(np.linalg.norm(result / 3 - truth))
        for result in (image, mf.richardson_lucy(image, psf, backend=backend), mf.restore(image, psf))
    ]
    assert errors[2] < 0.85 * min(errors[:2])


def test_noise_that_does_not_come_from_counts(counts, rng, backend):
    """Its variance becomes an offset, so that values below zero need no clipping."""
    truth, psf, _ = counts
    clean = mf.Blur(psf, truth.shape, boundary="reflect").forward(truth - 20)
    image = (clean + rng.normal(0, 6, truth.shape)).astype(np.float32)
    assert image.min() < -10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate, info = mf.restore(image, psf, return_info=True, backend=backend)
    assert info.settings["clipped"] == 0
    noise = info.settings["noise"]
    assert noise["gain"] * 20 + noise["variance"] == pytest.approx(36, rel=0.2)
    assert info.settings["readout_variance"] > 0 and "readout_variance" in info.settings["chosen"]
    assert info.stopped_by == "thinning"
    plain = mf.richardson_lucy(image, psf, info.num_iter, negative="clip", backend=backend)
    errors = [np.linalg.norm(result - (truth - 20)) for result in (estimate, image, plain)]
    assert errors[0] < 0.95 * min(errors[1:])


def test_without_noise_it_runs_until_nothing_comes(backend):
    flat = np.full((20, 21), 7, np.float32)
    estimate, info = mf.restore(flat, PSF, return_info=True, backend=backend)
    np.testing.assert_allclose(estimate, 7, rtol=1e-4)
    assert info.settings["noise"] == {"gain": 0, "variance": 0}
    assert set(info.settings["chosen"]) == {"acceleration", "stop", "num_iter", "negative"}
    assert info.stopped_by == "i-divergence"
    for shape in ((3,), (1, 2), (5, 5)):
        assert np.isfinite(
            mf.restore(
                np.arange(1.0, np.prod(shape) + 1).reshape(shape), PSF[:1, :1].reshape((1,) * len(shape))
            )
        ).all()


def test_what_is_given_is_not_overridden(counts, backend):
    _, psf, image = counts
    options = {"return_info": True, "backend": backend}
    for given, chosen in (
        ({"regularizer": None}, {"acceleration", "stop", "num_iter", "negative"}),
        ({"acceleration": None}, {"regularizer", "stop", "num_iter", "negative"}),
        ({"num_iter": 4}, {"acceleration", "regularizer", "negative"}),
        ({"stop": "i-divergence"}, {"acceleration", "regularizer", "negative"}),
        ({"back_projector": "butterworth"}, {"negative"}),
    ):
        info = mf.restore(image, psf, **given, **options)[1]
        assert set(info.settings["chosen"]) == chosen
    assert info.settings["acceleration"] is None and info.num_iter == 2
    for background in (2, np.float32(2), np.int64(2)):
        assert mf.restore(image, psf, background=background, **options)[1].settings["regularizer"] is not None
    with pytest.raises(TypeError, match="background"):
        mf.restore(image, psf, background="none", **options)
    assert mf.restore(image, psf, num_iter=4, **options)[1].num_iter == 4


def test_scale_does_not_matter(counts, backend):
    _, psf, image = counts
    estimate, info = mf.restore(image, psf, return_info=True, backend=backend)
    for factor in (2.0**-80, 1 / 1024, 4096, 2.0**80):
        scaled, same = mf.restore(image * np.float32(factor), psf, return_info=True, backend=backend)
        assert same.num_iter == info.num_iter
        np.testing.assert_allclose(scaled / factor, estimate, rtol=1e-4)


@pytest.mark.parametrize(
    ("gain", "variance"), [(1.0, 0.0), (0.02, 0.0), (50.0, 0.0), (0.0, 9.0), (2.0, 400.0)]
)
def test_noise_is_found(gain, variance, rng):
    """On a smooth object of 50 to 1000 units, within 15 %; where one part is small, their sum is."""
    z, y, x = np.indices((24, 60, 70))
    clean = 50 + 950 * np.sin(z / 9) ** 2 * np.sin(y / 11) ** 2 * np.cos(x / 13) ** 2
    image = gain * rng.poisson(clean / gain) if gain else clean
    found = noise_of(image + rng.normal(0, np.sqrt(variance), clean.shape))
    for mean in (100, 400, 900):
        assert found.at(mean) ** 2 == pytest.approx(gain * mean + variance, rel=0.15)
    spread, offset = found.as_counts(400.0, 1000.0)
    assert spread * (400 + offset) == pytest.approx(found.at(400) ** 2)
    for mean in (50, 1000):
        assert 0.5 < spread * (mean + offset) / found.at(mean) ** 2 < 2
    assert offset <= 500


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_those_of_a_stable_sort(dtype, rng):
    for values in (
        rng.normal(0, 3, 20001),
        rng.normal(0, 3, 3000) * (1e-30 if dtype == np.float32 else 1e-300),
        rng.integers(-5, 6, 20001) / 4,
        np.where(rng.random(5000) < 0.5, -0.0, 0.0) + rng.integers(-1, 2, 5000),
        np.append(rng.normal(100, 3, 5000), [1e9, -1e9]),
        np.zeros(999),
        -np.arange(77.0),
    ):
        values = values.astype(dtype)
        order = np.argsort(values, kind="stable")
        for found, expected in zip(_equal_parts(values, 7), np.array_split(order, 7), strict=True):
            np.testing.assert_array_equal(found, np.sort(expected))


def test_noise_in_single_precision_is_that_in_double(rng):
    """But for ties, which may go to another bin; also beside values that are far away, and on an offset."""
    z, y, _ = np.indices((24, 60, 70))
    image = rng.poisson(50 + 950 * np.sin(z / 9) ** 2 * np.sin(y / 11) ** 2) * 0.7
    image[3, 4, 5], image[10, 20, 30] = 1e28, -1e28
    for given in (image, rng.normal(1e4, 3, (24, 60, 70))):
        one, other = noise_of(given.astype(np.float32)), noise_of(given)
        for mean in (100, 400, 900):
            assert one.at(mean) == pytest.approx(other.at(mean), rel=5e-3)


@pytest.mark.parametrize("shape", [(12, 14), (40, 40)])  # one bin of details, and several
def test_noise_does_not_depend_on_the_unit(shape, rng):
    image = rng.poisson(rng.random(shape) * 100 + 20) + 0.3
    found = noise_of(image)
    assert shape != (12, 14) or (found.gain > 0 and found.variance == 0)
    for unit in (2.0**k for k in (-300, -66, -10, 1, 33, 66, 300)):
        scaled = noise_of(image * unit)
        assert scaled.gain / unit == pytest.approx(found.gain, rel=1e-9)
        assert scaled.variance / unit**2 == pytest.approx(found.variance, rel=1e-9)


def test_noise_is_that_of_voxels_that_count(counts):
    _, psf, image = counts
    weights = np.ones_like(image)
    weights[: len(weights) // 3] = 0
    weights[len(weights) // 2, ::7] = 0
    estimates = []
    for mark in (0, 65535, -1e6):
        marked = np.where(weights > 0, image, mark).astype(image.dtype)
        estimate, info = mf.restore(marked, psf, weights=weights, return_info=True)
        estimates.append(estimate)
        assert not info.settings["clipped"]
        assert info.settings["noise"]["gain"] == pytest.approx(3, rel=0.25)
    assert np.array_equal(estimates[0], estimates[1]) and np.array_equal(estimates[0], estimates[2])


def test_few_counts_are_counts(rng):
    """Among zeros there is no noise to be seen, but that of counts is known."""
    assert noise_of(rng.poisson(0.05, (40, 50)).astype(float)) == (1, 0)
    assert noise_of(rng.poisson(0.05, (40, 50)) + 20.0) == (1, 0)
    assert noise_of(rng.poisson(0.05, (40, 50)) * 0.5).gain != 1


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
        estimate, info = mf.restore(image, PSF, "rl", return_info=True, backend=backend)
    assert np.array_equal(estimate, mf.richardson_lucy(np.maximum(image, 0), PSF, backend=backend))
    assert any("set to zero" in w for w in info.warnings)
    assert info.settings["clipped"] == 1


def test_stated_negative_is_followed_silently(image, backend):
    image[3, 4] = -2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clipped = mf.restore(image, PSF, "rl", negative="clip", backend=backend)
        shifted = mf.restore(image, PSF, "rl", negative="shift", backend=backend)
        assert mf.restore(image, PSF, negative="shift", backend=backend).min() >= -2.001
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
    with pytest.warns(UserWarning, match="signed scale"):
        kept = mf.restore(signed, PSF, callback=lambda i, e: e.fill(7), backend=backend)
    assert np.array_equal(kept, estimate)  # the callback has a copy
    with pytest.raises(TypeError, match="callback: got 5"):
        mf.restore(signed, PSF, callback=5, backend=backend)
    # An option that only Richardson-Lucy has decides for it.
    with pytest.warns(UserWarning, match="set to zero"):
        clipped, info = mf.restore(
            signed, PSF, num_iter=3, readout_variance=0, return_info=True, backend=backend
        )
    assert info.settings["method"] == "richardson_lucy" and info.settings["clipped"] > 0
    assert clipped.min() >= 0


def test_option_of_one_method_decides(image, backend):
    assert np.array_equal(
        mf.restore(image, PSF, balance=0.2, backend=backend), mf.wiener(image, PSF, 0.2, backend=backend)
    )
    info = mf.restore(image, PSF, num_iter=3, return_info=True, backend=backend)[1]
    assert info.settings["method"] == "richardson_lucy" and info.num_iter == 3


def test_unknown_method_and_options(image):
    with pytest.raises(TypeError, match="method: got ndarray of shape"):
        mf.restore(image, PSF, method=np.ones(3))
    with pytest.raises(
        ValueError, match="method: got 'lucy', expected one of 'auto', 'richardson-lucy', 'richardson_lucy', "
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
    if method == "fista":
        with pytest.raises(TypeError, match="weight: not given, and the method fista has no default"):
            mf.restore(image, PSF, method)


@pytest.mark.parametrize("shape", [(64, 300, 300), (12, 520, 520)])
def test_the_noise_of_a_large_volume_is_found_where_the_object_is(shape, rng):
    """Slices that are looked at are a part of many: all of them may not lie before or behind the object."""
    image = np.zeros(shape, np.float32)
    inside = (slice(12, 52), slice(20, 280)) if shape[0] > 12 else (slice(None), slice(60, 460))
    image[inside] = rng.poisson(50.0, image[inside].shape)
    image[inside] *= 3
    noise = noise_of(image)
    assert noise.at(150.0) == pytest.approx(np.sqrt(3 * 150.0), rel=0.1)
    assert sample(image).size < 1.5 * SAMPLE


def _masked(ndim, share):
    """A smooth object of 60 to 140 units, and where it is: that share of every axis."""
    shape = {1: (6000,), 2: (110, 120), 3: (30, 60, 70)}[ndim]
    object_ = 100 + 40 * np.prod([np.sin(axis / 9) for axis in np.indices(shape)], axis=0)
    inside = np.zeros(shape, bool)
    inside[tuple(slice(int(n * (1 - share) / 2), int(n * (1 + share) / 2)) for n in shape)] = True
    return object_, inside


@pytest.mark.parametrize("fill", [0, 500])
@pytest.mark.parametrize("share", [0.75, 0.6, 0.4])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_noise_beside_a_mask_is_found(ndim, share, fill, rng):
    """What a mask has filled has no noise, and is not what the noise of the rest is judged by."""
    object_, inside = _masked(ndim, share)
    for gain, sigma, dtype in (
        (3, 0, np.float32),
        (0.37, 0, np.float64),
        (7, 0, np.uint16),
        (1, 0, np.uint8),
        (0, 5, np.float32),
        (0.5, 6, np.uint8),
    ):
        image = gain * rng.poisson(object_ / gain) if gain else object_
        image = np.clip(image + rng.normal(0, sigma, object_.shape) if sigma else image, 0, 65535)
        if dtype == np.uint8:
            image = np.minimum(image, 255)
        image = image.astype(dtype).astype(np.result_type(dtype, np.float32))
        image[~inside] = fill
        found = noise_of(image).at(100.0)
        assert found == pytest.approx(np.sqrt(gain * 100 + sigma**2), rel=0.15), (gain, sigma, dtype)


def test_a_mask_hides_no_noise_around_zero(rng):
    """Padding is not the smallest value there."""
    object_, inside = _masked(3, 0.7)
    image = np.where(inside, object_ - 100 + rng.normal(0, 3, object_.shape), 0)
    assert image.min() < -20
    assert noise_of(image).at(0.0) == pytest.approx(3, rel=0.15)


def test_noise_is_found_where_the_background_was_clipped(rng):
    object_, inside = _masked(3, 0.7)
    image = rng.poisson(np.where(inside, object_, 0) + 50) - 50.0
    clipped = 3 * np.maximum(image - 3 * np.sqrt(50), 0)
    assert (clipped == 0).mean() > 0.6
    found = noise_of(clipped)
    assert found.at(300.0) == pytest.approx(3 * np.sqrt(100 + 50), rel=0.2)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_noise_beside_what_is_saturated_is_found(ndim, bits, rng):
    """Where a background was clipped as well there are two values without noise."""
    object_, inside = _masked(ndim, 0.75)
    full = 2**bits - 1
    mean = np.where(inside, object_ * full / 120, 0)  # a fourth of it above full scale
    image = np.minimum(rng.poisson(mean), full).astype(np.float32)
    assert 0.02 < (image == full).mean() < (image == 0).mean()
    assert noise_of(image).at(full / 2) == pytest.approx(np.sqrt(full / 2), rel=0.2)
    seen = np.ones(image.shape, bool)
    seen[0] = False
    marked = np.where(seen, image, 1e6)
    # What is nearly saturated has less noise: the gain may be too far from 1 to be that of counts.
    assert noise_of(marked, seen=[seen]).at(full / 2) == pytest.approx(np.sqrt(full / 2), rel=0.35)


@pytest.mark.parametrize("unit", [1.0, 0.37])
@pytest.mark.parametrize(("sigma", "step"), [(0, 16), (1, 32), (4, 16), (4, 32), (4, 4)])
def test_rounding_to_few_levels_is_noise(sigma, step, unit, rng):
    """Most of the finest details are 0 then: 21 dB of an image of 29."""
    psf = mf.psf.gaussian((2.0, 2.0), (1.0, 1.0))
    scene = ndimage.gaussian_filter(rng.standard_normal((150, 160)), 4)
    scene = 40 + 170 * (scene > 0) * (0.4 + 0.6 * np.mgrid[:150, :160][1] / 160)
    blurred = ndimage.convolve(scene, psf) + sigma * rng.standard_normal(scene.shape)
    image = (np.rint(blurred / step) * step).clip(0, 255).astype(np.float32) * np.float32(unit)
    expected = unit * np.sqrt(sigma**2 + step**2 / 12)
    assert noise_of(image).at(100 * unit) == pytest.approx(expected, rel=0.25)
    found = mf.restore(image, psf)
    assert np.linalg.norm(found - unit * scene) < np.linalg.norm(image - unit * scene)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("fwhm", [0, 2, 4])
@pytest.mark.parametrize("constant", [False, True])
def test_a_phantom_has_no_noise(ndim, fwhm, constant):
    """Nor where most of it is empty: constant objects and blurred edges are none either."""
    object_, inside = _masked(ndim, 0.5)
    image = np.where(inside, 100 if constant else object_, 0).astype(np.float32)
    if fwhm:
        psf = mf.psf.gaussian(fwhm=(fwhm,) * ndim, voxel_size=(1.0,) * ndim)
        image = mf.Blur(psf, image.shape, boundary="reflect").forward(image)
        image[image < 1e-3] = 0
    assert (image == 0).mean() > 0.4
    assert noise_of(image).at(100.0) < 0.05  # in one dimension the object's own details
    if constant and not fwhm:
        assert noise_of(image) == (0, 0)


@pytest.mark.parametrize("shape", [(6000,), (110, 120), (30, 60, 70)])
@pytest.mark.parametrize("mean", [0.02, 0.05, 0.1, 0.3, 1, 3])
def test_few_counts_are_no_mask(shape, mean, rng):
    """Zeros among counts are alike, too, and often three of them in a row."""
    counts = rng.poisson(mean, shape).astype(float)
    assert noise_of(counts) == (1, 0)
    padded = np.pad(counts, 4)
    assert noise_of(padded) == (1, 0)
    scaled = noise_of(0.37 * counts)
    assert scaled.at(0.37 * mean) < 0.37 * np.sqrt(mean) * 1.2
    if mean >= 0.3 and len(shape) > 1:  # of three in a row as many may be ones as zeros
        assert scaled.at(0.37 * mean) > 0.37 * np.sqrt(mean) / 1.2


def test_what_is_not_seen_fills_nothing(rng):
    """A mask of weights goes on counting beside one that has been filled."""
    object_, inside = _masked(3, 0.7)
    image = np.where(inside, 3.0 * rng.poisson(object_ / 3), 0)
    seen = np.ones(image.shape, bool)
    seen[:15] = False
    marked = np.where(seen, image, 1e6)
    assert noise_of(marked, seen=[seen]) == noise_of(image, seen=[seen])
    assert noise_of(marked, seen=[seen]).at(100.0) == pytest.approx(np.sqrt(300), rel=0.15)
    half = noise_of(image[:15], image[15:])
    assert half.at(100.0) == pytest.approx(np.sqrt(300), rel=0.15)
    assert noise_of(np.zeros(image.shape), seen=[np.zeros(image.shape, bool)]) == (0, 0)


def test_faint_noise_asks_for_no_offset(rng):
    """On a blurred disc without noise the offset of what is found for it took 3 dB."""
    y, x = np.indices((96, 96))
    truth = np.where((y - 48) ** 2 + (x - 48) ** 2 < 30**2, 40 + 20 * np.sin(x / 2) * np.sin(y / 3), 0.0)
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    image = np.maximum(mf.Blur(psf, truth.shape, boundary="reflect").forward(truth), 0).astype(np.float32)
    image[image < 1e-4] = 0
    for sigma, offset in ((0.0, False), (3.0, True)):
        noisy = np.where(image > 0, image + rng.normal(0, sigma, image.shape), 0).clip(0).astype(np.float32)
        chosen = mf.restore(noisy, psf, return_info=True)[1]["settings"]["chosen"]
        assert ("readout_variance" in chosen) is offset
