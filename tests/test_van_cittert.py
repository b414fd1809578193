"""Van Cittert against its formula with dense matrices, its convergence, and the warning without it."""

import json
import warnings

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("zero", "reflect", "nearest", "mirror", "wrap")
CASES = [((21,), (4,)), ((12, 15), (5, 4)), ((5, 7, 6), (3, 2, 5)), ((1, 9, 8), (1, 3, 4)), ((6, 6), (9, 8))]


def peaked(rng, shape):
    """Random taps around a large one in the middle: Re(H) > 0."""
    psf = rng.random(shape) / np.prod(shape)
    psf[tuple(k // 2 for k in shape)] += 1
    return psf


def transcription(
    image, matrix, iterations, *, relaxation=1.0, w=1.0, background=0.0, lowest=-np.inf, bounds=None, x=None
):
    """The formula of the docstring, in float64, with H as a matrix."""
    y, w = image.ravel().astype(float) - background, np.broadcast_to(w, image.shape).ravel()
    x = (y if x is None else x.ravel()).copy()
    if bounds:
        x = np.clip(x, *bounds)
    for _ in range(iterations):
        share = 1.0
        if bounds:
            share = 1 - abs(2 * x - sum(bounds)) / (bounds[1] - bounds[0])
        x = np.maximum(x + relaxation * share * w * (y - matrix @ x), lowest)
        if bounds:
            x = np.clip(x, *bounds)
    return x.reshape(image.shape)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES, ids=str)
def test_transcription(boundary, shape, psf_shape, dtype, backend, rng, tol, relative_error, dense_blur):
    if boundary == "wrap" and any(k > n for n, k in zip(shape, psf_shape, strict=True)):
        pytest.skip("a PSF larger than the image has no meaning under wrap")
    psf = peaked(rng, psf_shape)
    image, weights, first = (
        rng.random(shape).astype(dtype) - dtype.type(0.2),
        rng.random(shape),
        rng.random(shape),
    )
    matrix = dense_blur(psf / psf.sum(), shape, boundary)[0]
    for options, known in (
        ({}, {}),
        ({"relaxation": 0.6, "non_negative": True}, {"relaxation": 0.6, "lowest": 0}),
        (
            {"weights": weights, "background": 0.3, "initial": first},
            {"w": weights, "background": 0.3, "x": first},
        ),
        ({"bounds": (-0.5, 1.2), "relaxation": 1.5}, {"bounds": (-0.5, 1.2), "relaxation": 1.5}),
    ):
        got = mf.van_cittert(image, psf, 8, boundary=boundary, backend=backend, **options)
        assert got.dtype == dtype
        assert relative_error(got, transcription(image, matrix, 8, **known)) < tol("transcription", dtype)


@pytest.mark.parametrize("engine", ["separable", "direct"])
def test_engines_agree(engine, dtype, backend, rng, tol, relative_error):
    psf = np.outer([1, 4, 1.0], [1, 6, 1.0])
    image = rng.random((12, 14)).astype(dtype)
    got, spectral = (mf.van_cittert(image, psf, 6, engine=e, backend=backend) for e in (engine, "spectral"))
    assert relative_error(got, spectral) < tol("transcription", dtype)


def test_converges_to_the_inverse(backend, rng, relative_error):
    """An independent route to the same: the inverse filter, where it has nothing to leave out."""
    image, psf = rng.random((20, 22)), np.array([[0, 1, 0], [1, 8, 2], [0, 1, 0.0]])
    got = mf.van_cittert(image, psf, 200, boundary="wrap", backend=backend)
    assert relative_error(got, mf.inverse_filter(image, psf, 0.01, boundary="wrap")) < 1e-12


def test_each_frequency_follows_its_geometric_series(backend, rng, relative_error):
    """After k iterations from the image: (1 - (1 - H)^(k + 1)) / H, what Hill and Ioup write."""
    image, psf = rng.random((18, 20)), np.array([[0, 1, 0], [1, 8, 2], [0, 1, 0.0]])
    placed = np.zeros(image.shape)
    placed[:3, :3] = psf / psf.sum()
    h = np.fft.fftn(np.roll(placed, (-1, -1), (0, 1)))
    for k in (1, 4, 11):
        expected = np.fft.ifftn((1 - (1 - h) ** (k + 1)) / h * np.fft.fftn(image)).real
        assert (
            relative_error(mf.van_cittert(image, psf, k, boundary="wrap", backend=backend), expected) < 1e-12
        )


def test_bounds_hold_and_help(backend, rng):
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    truth = np.zeros((48, 50))
    truth[14:30, 20:36] = 100
    image = mf.Blur(psf, truth.shape, boundary="wrap").forward(truth) + rng.normal(0, 1, truth.shape)
    options = {"boundary": "wrap", "backend": backend}
    free = mf.van_cittert(image, psf, 10, **options)
    held = mf.van_cittert(image, psf, 10, bounds=(-5, 105), **options)
    positive = mf.van_cittert(image, psf, 10, non_negative=True, **options)
    assert free.min() < -5
    assert held.min() >= -5 and held.max() <= 105
    assert positive.min() == 0
    errors = [np.linalg.norm(x - truth) for x in (held, positive, free, image)]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < errors[3]


BOX = np.ones((7, 7))  # its transfer function goes down to -0.23


def test_divergence_is_warned_of_and_refused(backend, rng):
    image = rng.random((40, 44))
    words = r"psf: its transfer function goes down to Re\(H\) = -0\.2.*needs Re\(H\) >= 0.*landweber"
    with pytest.warns(UserWarning, match=words):
        _, info = mf.van_cittert(image, BOX, 10, return_info=True, backend=backend)
    assert info.settings["growth"] == pytest.approx(1.2325**10, rel=0.02)
    assert len(info.warnings) == 1
    with pytest.raises(ValueError, match=words):
        mf.van_cittert(image, BOX, 100, backend=backend)
    with pytest.warns(UserWarning, match=words):  # what is bounded cannot run away
        got = mf.van_cittert(image, BOX, 100, bounds=(-1, 2), backend=backend)
    assert got.min() >= -1 and got.max() <= 2
    with pytest.warns(UserWarning, match=r"relaxation=2\.1 is not below 2 Re\(H\) / \|H\|\^2 everywhere"):
        mf.van_cittert(image, np.outer([1, 6, 1], [1, 6, 1]), relaxation=2.1, backend=backend)


def test_growth_is_what_happens(backend, rng):
    """The frequency that the message speaks of grows by what it says."""
    n = 64
    psf = np.ones(7) / 7
    frequency = 0.2043  # where the box's transfer function is lowest
    wave = np.cos(2 * np.pi * round(frequency * n) * np.arange(n) / n)
    with pytest.warns(UserWarning, match="Re"):
        got, info = mf.van_cittert(
            np.zeros(n), psf, 10, boundary="wrap", initial=wave, return_info=True, backend=backend
        )
    assert np.abs(got).max() == pytest.approx(info.settings["growth"], rel=0.02)


def test_no_warning_where_it_converges(backend, rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fwhm in (1.0, 3.0, 8.0):  # a sampled Gaussian that ends has a transfer function just below 0
            psf = mf.psf.gaussian(fwhm=(fwhm, fwhm), voxel_size=(1.0, 1.0))
            mf.van_cittert(rng.random((60, 64)), psf, 50, backend=backend)


def test_rules_callback_and_info(backend, rng):
    image, psf = rng.random((20, 22)), np.outer([1, 6, 1], [1, 6, 1])
    rule = mf.stop.Discrepancy("gaussian", sigma=0.02)
    got, info = mf.van_cittert(image, psf, stop=rule, return_info=True, backend=backend)
    assert info.stopped_by == "discrepancy"
    blur = mf.Blur(psf, image.shape, boundary="reflect")
    assert np.mean((image - blur.forward(got)) ** 2) <= 0.02**2
    assert info.trace[-1]["squared_residual"] / image.size > 0.02**2
    seen = []
    rule = mf.stop.RelativeChange(0.01)
    got, info = mf.van_cittert(
        image, psf, stop=rule, callback=lambda _, e: seen.append(e), return_info=True, backend=backend
    )
    assert info.stopped_by == "relative-change"
    np.testing.assert_array_equal(seen[-1], got)
    change = np.linalg.norm(seen[-1] - seen[-2]) / np.linalg.norm(seen[-1])
    assert info.trace[-1]["relative_change"] == pytest.approx(change, rel=1e-9)
    _, info = mf.van_cittert(
        image, psf, 9, callback=lambda i, _: i == 3, bounds=(-1, 2), return_info=True, backend=backend
    )
    assert (info.num_iter, info.stopped_by) == (3, "callback")
    assert info.settings["bounds"] == (-1, 2)
    json.dumps(info)
    assert mf.van_cittert(image, psf, return_info=True, backend=backend)[1].num_iter == 10


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scale(factor, dtype, backend, rng, tol, relative_error):
    image, psf = rng.random((20, 22)).astype(dtype), np.outer([1, 6, 1], [1, 6, 1])
    plain = mf.van_cittert(image, psf, 8, bounds=(-1, 2), backend=backend)
    scaled = mf.van_cittert(image * dtype.type(factor), psf, 8, bounds=(-factor, 2 * factor), backend=backend)
    assert relative_error(scaled.astype(float) / factor, plain) < tol("scale", dtype)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"relaxation": 0}, ValueError, "relaxation: got 0"),
        ({"bounds": 3}, TypeError, r"bounds: got 3, expected None or a pair \(low, high\)"),
        ({"bounds": (2, 1)}, ValueError, r"bounds\[1\]: got 1"),
        ({"bounds": (0, None)}, TypeError, r"bounds\[1\]: got None"),
        ({"bounds": (0, 1), "non_negative": True}, ValueError, "bounds: got .* together with non_negative"),
        ({"boundary": "extended"}, ValueError, "boundary: got 'extended', but van_cittert adds the residual"),
        ({"weights": 2 * np.ones((5, 5))}, ValueError, "weights: the largest is 2, expected shares"),
        ({"stop": "thinning"}, ValueError, "van_cittert descends squared residuals"),
    ],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        mf.van_cittert(np.ones((5, 5)), np.outer([1, 6, 1], [1, 6, 1]), **options)
