"""Unsupervised Wiener: against the exact posterior, against scikit-image, and its promises."""

import importlib
import json
import warnings

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf

module = importlib.import_module("medeconv_fast.algorithms._unsupervised_wiener")


def placed(response, grid):
    out = np.zeros(grid)
    for tap in np.ndindex(response.shape):
        at = tuple((j - k // 2) % n for j, k, n in zip(tap, response.shape, grid, strict=True))
        out[at] += response[tap]
    return np.fft.fftn(out)


def laplacian(ndim):
    out = np.zeros((3,) * ndim)
    for axis in range(ndim):
        out[tuple(slice(None) if a == axis else 1 for a in range(ndim))] += [-1, 2, -1]
    return out


def scene(rng, shape, sigma, boundary="wrap"):
    """Discs, blurred and noisy."""
    grid = np.indices(shape)
    truth = np.zeros(shape)
    for _ in range(15):
        centre, radius = rng.random(len(shape)) * shape, rng.uniform(0.1, 0.3) * min(shape)
        truth += 60 * (sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2)
    psf = mf.psf.gaussian(fwhm=(3.0,) * len(shape), voxel_size=(1.0,) * len(shape))
    image = mf.Blur(psf, shape, boundary=boundary).forward(truth) + rng.normal(0, sigma, shape)
    return truth, image, psf


def posterior(image, psf, exponents):
    """Mean and spread of the balance g_x / g_n, x and g_n integrated out, over the whole spectrum."""
    h2, r2 = (abs(placed(a, image.shape)) ** 2 for a in (psf / psf.sum(), laplacian(image.ndim)))
    power = abs(np.fft.fftn(image)) ** 2 / image.size
    h2, r2, power = (a.ravel()[1:] for a in (h2, r2, power))
    balances = 10.0**exponents
    logs = []
    for balance in balances:
        s = 1 + h2 / (balance * r2)
        logs.append(-0.5 * np.log(s).sum() - 0.5 * len(s) * np.log((power / s).sum()))
    density = np.exp(np.array(logs) - max(logs))
    density /= density.sum()
    mean = (density * balances).sum()
    return mean, np.sqrt((density * (balances - mean) ** 2).sum())


@pytest.mark.parametrize("shape", [(400,), (401,), (40, 45), (41, 40), (14, 13, 16)], ids=str)
def test_balances_are_drawn_from_their_posterior(shape, rng):
    image = scene(rng, shape, 3.0)[1]
    psf = rng.random((3,) * len(shape)) + 0.2
    mean, spread = posterior(image, psf, np.linspace(-5, 3, 1601))
    _, info = mf.unsupervised_wiener(
        image, psf, boundary="wrap", num_iter=1500, tolerance=0, return_info=True
    )
    balances = np.array(info.chains["prior"][15:]) / np.array(info.chains["noise"][15:])
    assert balances.mean() == pytest.approx(mean, abs=spread)  # draws depend on the one before
    assert balances.std() == pytest.approx(spread, rel=0.25)
    assert info.num_iter == 1500
    assert info.stopped_by == "num_iter"


def test_scikit_image(backend, rng, relative_error):
    """Another sampler of the same law; its half spectrum counts some frequencies twice."""
    restoration = pytest.importorskip("skimage.restoration")
    truth, image, psf = scene(rng, (64, 64), 2.0)
    got, info = mf.unsupervised_wiener(image, psf, boundary="wrap", return_info=True, backend=backend)
    expected, chains = restoration.unsupervised_wiener(
        image,
        psf / psf.sum(),
        clip=False,
        rng=3,
        user_params={"burnin": 100, "min_num_iter": 300, "max_num_iter": 301},
    )
    noise = np.mean(chains["noise"][101:])
    balance = np.mean(np.array(chains["prior"][101:]) / np.array(chains["noise"][101:]))
    assert info.settings["noise_sigma"] == pytest.approx(noise**-0.5, rel=0.03)
    assert info.settings["balance"] == pytest.approx(balance, rel=0.25)
    assert relative_error(got, expected) < 0.05
    assert np.linalg.norm(got - truth) < 1.01 * np.linalg.norm(expected - truth)


def test_estimate_is_the_mean_of_filters(backend, rng, tol, relative_error):
    """The mean of x given the precisions, over the samples after the burn-in."""
    _, image, psf = scene(rng, (20, 23), 3.0)
    got, info = mf.unsupervised_wiener(
        image, psf, boundary="wrap", num_iter=12, burn_in=4, return_info=True, backend=backend
    )
    assert len(info.chains["noise"]) == len(info.chains["prior"]) == info.num_iter
    balances = np.array(info.chains["prior"]) / np.array(info.chains["noise"])
    # The precisions of one sample are what x of the next is drawn under.
    filtered = [mf.wiener(image, psf, b, boundary="wrap", backend=backend) for b in balances[3:-1]]
    assert relative_error(got, np.mean(filtered, axis=0)) < tol("wiener")


@pytest.mark.parametrize(
    ("shape", "boundary"),
    [
        ((300,), "reflect"),
        *(((48, 50), b) for b in ("reflect", "nearest", "mirror", "zero", "wrap")),
        ((18, 20, 22), "reflect"),
    ],
    ids=str,
)
def test_finds_noise_and_restores(boundary, shape, backend, rng):
    truth, image, psf = scene(rng, shape, 2.0, boundary)
    got, info = mf.unsupervised_wiener(image, psf, boundary=boundary, return_info=True, backend=backend)
    assert info.settings["noise_sigma"] == pytest.approx(2, rel=0.2)
    best = min(
        np.linalg.norm(mf.wiener(image, psf, 10.0**e, boundary=boundary) - truth) for e in np.arange(-4, 2.0)
    )
    assert np.linalg.norm(got - truth) < 1.15 * best
    assert info.warnings == []
    json.dumps(info)


def test_seed_and_threads(backend, rng):
    _, image, psf = scene(rng, (60, 66), 3.0)
    options = {"num_iter": 40, "return_info": True, "backend": backend}
    first, info = mf.unsupervised_wiener(image, psf, num_threads=1, **options)
    same, again = mf.unsupervised_wiener(image, psf, num_threads=3, **options)
    _, other = mf.unsupervised_wiener(image, psf, seed=1, **options)
    np.testing.assert_array_equal(first, same)
    assert info.chains == again.chains
    assert info.chains != other.chains


def test_blocks_of_frequencies_do_not_matter_to_the_law(rng, monkeypatch):
    _, image, psf = scene(rng, (40, 44), 3.0)
    options = {"boundary": "wrap", "num_iter": 400, "tolerance": 0, "return_info": True}
    whole = mf.unsupervised_wiener(image, psf, **options)[1]
    monkeypatch.setattr(module, "BLOCK", 300)
    parts = mf.unsupervised_wiener(image, psf, num_threads=2, **options)[1]
    assert parts.settings["balance"] == pytest.approx(whole.settings["balance"], rel=0.08)
    assert parts.settings["noise_sigma"] == pytest.approx(whole.settings["noise_sigma"], rel=0.01)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scale(factor, dtype, backend, rng, tol, relative_error):
    _, image, psf = scene(rng, (40, 42), 3.0)
    image = image.astype(dtype)
    plain, info = mf.unsupervised_wiener(image, psf, return_info=True, backend=backend)
    scaled, other = mf.unsupervised_wiener(image * dtype.type(factor), psf, return_info=True, backend=backend)
    assert plain.dtype == scaled.dtype == dtype
    assert relative_error(scaled.astype(float) / factor, plain) < tol("scale", dtype)
    assert other.settings["noise_sigma"] / factor == pytest.approx(info.settings["noise_sigma"], rel=1e-4)


@pytest.mark.parametrize("factor", [1e-5, 0.3, 7.0, 1e5])
def test_scale_where_every_balance_is_as_probable(factor, backend, rng, relative_error):
    """A point as PSF and the identity: the chain began wherever rounding had its maximum."""
    image, point = rng.poisson(50, (32, 40)) + 0.0, np.pad([[1.0]], 1)
    options = {"regularizer": "identity", "backend": backend}
    plain = mf.unsupervised_wiener(image, point, **options)
    assert relative_error(plain, image) < 1e-6
    assert relative_error(mf.unsupervised_wiener(image * factor, point, **options) / factor, plain) < 1e-9


def test_every_frequency_is_counted_once():
    for grid in ((1,), (2,), (7,), (8,), (5, 6), (6, 5), (4, 4), (3, 4, 6), (1, 8, 1)):
        counts = module._counts(grid)
        assert counts.sum() == np.prod(grid)
        # Real frequencies: index 0 or n / 2 on every axis.
        alone = np.prod([2 if n % 2 == 0 else 1 for n in grid])
        assert (counts == 1).sum() == alone
        # What is left out is found at its opposite.
        full = np.random.default_rng(0).random(grid)
        even = abs(np.fft.rfftn(full))
        np.testing.assert_allclose(module._completed(np.where(counts > 0, even, np.nan), counts > 0), even)


def test_tolerance_ends_the_run(backend, rng):
    _, image, psf = scene(rng, (64, 60), 3.0)
    runs = [
        mf.unsupervised_wiener(image, psf, tolerance=t, return_info=True, backend=backend)[1]
        for t in (0.5, 0.004, 0)
    ]
    assert [r.stopped_by for r in runs] == ["tolerance", "tolerance", "num_iter"]
    assert runs[0].num_iter == 30
    assert 30 < runs[1].num_iter < 200 == runs[2].num_iter


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_image_stays(value, dtype, backend, tol):
    got, info = mf.unsupervised_wiener(
        np.full((20, 18), value, dtype), np.ones((3, 3)), return_info=True, backend=backend
    )
    assert np.abs(got - value).max() <= tol("flat", dtype) * max(value, 1)
    assert info.stopped_by == "constant image"
    assert info.num_iter == 0


def test_identity_and_array_as_regularizer(backend, rng):
    _, image, psf = scene(rng, (48, 50), 4.0)
    sigma = {}
    for regularizer in ("identity", "laplacian", laplacian(2)):
        _, info = mf.unsupervised_wiener(
            image, psf, regularizer=regularizer, boundary="wrap", return_info=True, backend=backend
        )
        sigma[info.settings["regularizer"]] = info.settings["noise_sigma"]
    assert sigma["array"] == sigma["laplacian"] == pytest.approx(4, rel=0.1)
    assert sigma["identity"] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_iter": 10}, ValueError, "num_iter: got 10, expected more than the burn_in of 15"),
        ({"burn_in": -1}, ValueError, "burn_in: got -1"),
        ({"tolerance": -1}, ValueError, "tolerance: got -1"),
        ({"seed": None}, TypeError, "seed: got None"),
        ({"regularizer": None}, TypeError, "regularizer: got None.*without one: inverse_filter"),
        ({"boundary": "extended"}, ValueError, "boundary: got 'extended', which unsupervised_wiener cannot"),
    ],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        mf.unsupervised_wiener(np.ones((9, 9)), np.ones((3, 3)), **options)


def test_noise_that_is_not_white_is_said(rng):
    truth = np.zeros((64, 64))
    truth[20:44, 18:40] = 100
    psf = mf.psf.gaussian((6.0, 6.0), (1.0, 1.0))
    blurred = mf.Blur(psf, truth.shape, boundary="nearest").forward(truth)
    white = rng.normal(0, 1, truth.shape)
    smooth = ndimage.gaussian_filter(white, 1.5)
    with pytest.warns(UserWarning, match="image: its noise, grown beyond the image"):
        mf.unsupervised_wiener(blurred + 3 / smooth.std() * smooth, psf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mf.unsupervised_wiener(blurred + 3 * white, psf)


@pytest.mark.parametrize("fwhm", [2.0, 4.0])
@pytest.mark.parametrize("shape", [(120, 130), (30, 50, 50)], ids=str)
def test_what_outgrows_an_image_without_noise_is_told(shape, fwhm, rng):
    """What continues a part of an image beyond its border is not held back; a narrow blur does without."""
    psf = mf.psf.gaussian(fwhm=(fwhm,) * len(shape), voxel_size=(1.0,) * len(shape))
    scene = ndimage.gaussian_filter(rng.standard_normal([n + 40 for n in shape]), 3)
    scene = np.where(scene > 0, 1.0, 0.3)
    inside = (slice(20, -20),) * len(shape)
    image = ndimage.convolve(scene, psf)[inside].astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, info = mf.unsupervised_wiener(image, psf, return_info=True)
    worse = mf.metrics.psnr(scene[inside], found) < mf.metrics.psnr(scene[inside], image)
    assert worse is (fwhm == 4)
    told = [note for note in info.warnings if "what continues the image" in note]
    assert len(told) == len(caught) == int(worse)
