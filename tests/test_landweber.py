"""Landweber against its formula with dense matrices, against SimpleITK, and its promises."""

import itertools
import json
import warnings

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
CASES = [
    ((21,), (6,)),
    ((12, 15), (5, 4)),
    ((5, 7, 6), (3, 2, 5)),
    ((1, 9, 8), (1, 3, 4)),
    ((6, 6), (9, 8)),
]


def framed(image, estimate_shape, frame):
    """An array of the estimate's shape, the image's edge repeated around it."""
    around = [(s.start, n - s.stop) for s, n in zip(frame, estimate_shape, strict=True)]
    return np.pad(image, around, mode="edge")


def transcription(
    image, matrix, estimate_shape, frame, iterations, *, step, x, weights=1.0, background=0.0, lowest=-np.inf
):
    """The formula of the docstring, in float64, with H as a matrix."""
    y, w = image.ravel().astype(float), np.broadcast_to(weights, image.shape).ravel()
    x = np.asarray(x, float).ravel()
    for _ in range(iterations):
        x = np.maximum(x + step * matrix.T @ (w * (y - background - matrix @ x)), lowest)
    return x.reshape(estimate_shape)[frame]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES, ids=str)
def test_transcription(boundary, shape, psf_shape, dtype, backend, rng, tol, relative_error, dense_blur):
    if boundary == "wrap" and any(k > n for n, k in zip(shape, psf_shape, strict=True)):
        pytest.skip("a PSF larger than the image has no meaning under wrap")
    psf = rng.random(psf_shape)
    image = rng.normal(5, 20, shape).astype(dtype)
    weights = rng.random(shape)
    dense = dense_blur(psf / psf.sum(), shape, boundary)
    flat = np.full(dense[1], image.mean(dtype=float))
    around = framed(image - dtype.type(0.5), *dense[1:])
    for options, known in (
        ({}, {"x": flat}),
        ({"non_negative": True, "initial": "zero"}, {"x": 0 * flat, "lowest": 0}),
        (
            {"weights": weights, "background": 0.5, "initial": "image", "step": 0.8},
            {"x": around, "weights": weights, "background": 0.5, "step": 0.8},
        ),
    ):
        got, info = mf.landweber(
            image, psf, 12, boundary=boundary, backend=backend, return_info=True, **options
        )
        known = {"step": info.settings["step"]} | known
        assert got.dtype == dtype
        assert relative_error(got, transcription(image, *dense, 12, **known)) < tol("transcription", dtype)


@pytest.mark.parametrize("engine", ["separable", "direct"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_engines_agree(engine, boundary, dtype, backend, rng, tol, relative_error):
    psf = np.multiply.outer([1, 2, 1.0], np.outer([1, 3], [1, 2, 3, 1.0]))
    image = rng.random((5, 9, 8)).astype(dtype)
    options = {"boundary": boundary, "non_negative": True, "backend": backend}
    got, spectral = (mf.landweber(image, psf, 10, engine=e, **options) for e in (engine, "spectral"))
    assert relative_error(got, spectral) < tol("transcription", dtype)


@pytest.mark.peers
@pytest.mark.parametrize("projected", [False, True])
def test_simpleitk(projected, backend, rng, tol, relative_error):
    sitk = pytest.importorskip("SimpleITK")
    psf = np.multiply.outer([1, 3, 1], np.outer([1, 4, 1], [1, 2, 5, 2, 1.0]))
    psf /= psf.sum()
    image = np.zeros((26, 28, 44))
    image[12:-12, 12:-12, 19:-19] = rng.random((2, 4, 6)) * 100
    image = mf.Blur(psf, image.shape, boundary="zero", backend=backend).forward(image)
    got = mf.landweber(
        image, psf, 6, step=0.7, initial="image", boundary="zero", non_negative=projected, backend=backend
    )
    name = "ProjectedLandweberDeconvolution" if projected else "LandweberDeconvolution"
    expected = getattr(sitk, name)(sitk.GetImageFromArray(image), sitk.GetImageFromArray(psf), 0.7, 6)
    assert relative_error(got, sitk.GetArrayFromImage(expected)) < tol("simpleitk")


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("negative", [False, True], ids=["positive taps", "negative taps"])
@pytest.mark.parametrize("weighted", [False, True])
def test_bound_of_the_norm(boundary, negative, weighted, backend, rng, dense_blur):
    """Never below the largest eigenvalue; close above it where no tap is negative."""
    for shape, psf_shape in (((30,), (5,)), ((7, 8), (4, 5))):
        psf = rng.random(psf_shape)
        if negative:
            psf[(0,) * psf.ndim] = -1
        weights = rng.random(shape) if weighted else None
        _, info = mf.landweber(
            rng.random(shape), psf, 1, weights=weights, boundary=boundary, return_info=True, backend=backend
        )
        matrix = dense_blur(psf / psf.sum(), shape, boundary)[0]
        trust = np.ones(matrix.shape[0]) if weights is None else weights.ravel()
        largest = np.linalg.eigvalsh(matrix.T @ (trust[:, None] * matrix))[-1]
        bound = info.settings["norm_bound"]
        assert largest <= bound * (1 + 1e-12)
        assert info.settings["step"] == 1 / bound
        if not negative:
            assert bound < 2 * largest
        if not negative and not weighted:
            if boundary in ("extended", "wrap"):
                assert bound == pytest.approx(1, rel=1e-12)
            else:  # repeats voxels, or leaves out what lies outside of so small an image
                assert bound < 1 + 1e-12 if boundary == "zero" else bound > 1


def test_descends_to_the_least_squares(backend, rng, relative_error, dense_blur):
    psf = np.array([0.05, 0.1, 1, 0.1])
    image = rng.random(24)
    got = mf.landweber(image, psf, 500, boundary="nearest", backend=backend)
    matrix = dense_blur(psf / psf.sum(), image.shape, "nearest")[0]
    assert relative_error(got, np.linalg.lstsq(matrix, image, rcond=None)[0]) < 1e-10


def test_projection_is_the_constrained_minimum(backend, rng, relative_error, dense_blur):
    optimize = pytest.importorskip("scipy.optimize")
    psf = np.array([[0, 1, 0], [1, 12, 1], [0, 2, 0.0]])
    image = rng.normal(0, 1, (6, 7))
    got = mf.landweber(image, psf, 600, boundary="reflect", non_negative=True, backend=backend)
    matrix = dense_blur(psf / psf.sum(), image.shape, "reflect")[0]
    assert relative_error(got.ravel(), optimize.nnls(matrix, image.ravel())[0]) < 1e-9


def test_dead_voxels_and_scale_of_weights(backend, rng, relative_error):
    image, psf = rng.random((14, 15)), np.ones((3, 3))
    weights = np.ones_like(image)
    weights[4, 5:8] = 0
    broken = image.copy()
    broken[4, 5:8] = 1e3
    options = {"initial": "zero", "backend": backend}
    a = mf.landweber(image, psf, 15, weights=weights, **options)
    assert relative_error(mf.landweber(broken, psf, 15, weights=weights, **options), a) < 1e-12
    assert relative_error(mf.landweber(image, psf, 15, weights=7 * weights, **options), a) < 1e-12


@pytest.mark.parametrize("mark", [0.0, 2.0**32 - 1, -1e6])
def test_numbers_that_mark_dead_voxels_start_nothing(mark, rng):
    psf = np.outer([1, 2, 1], [1, 2, 1])
    image = rng.random((16, 18)) * 50
    weights = np.ones_like(image)
    weights[7, 8:11] = 0
    options = {"weights": weights, "initial": "image"}
    marked = np.where(weights > 0, image, mark)
    assert np.array_equal(mf.landweber(marked, psf, 10, **options), mf.landweber(image, psf, 10, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that of a signed scale
        assert np.array_equal(
            mf.fista(marked, psf, 0.1, 5, **options), mf.fista(image, psf, 0.1, 5, **options)
        )


@pytest.mark.parametrize("mark", [1e20, 9.96921e36, -1e30])
def test_numbers_that_mark_dead_voxels_stop_nothing(mark, backend, rng):
    psf = np.outer([1, 6, 1], [1, 6, 1])
    image = (rng.random((16, 18)) * 50).astype(np.float32)
    weights = np.ones_like(image)
    weights[7, 8:11] = 0
    marked = np.where(weights > 0, image, np.float32(mark))
    options = {"weights": weights, "backend": backend, "return_info": True}
    for method, more in (
        (mf.landweber, {}),
        (mf.fista, {"weight": 0.1}),
        (mf.van_cittert, {"initial": "flat"}),
    ):
        given = {**options, **more, "stop": "relative-change", "num_iter": 12}
        (a, found), (b, expected) = method(marked, psf, **given), method(image, psf, **given)
        assert np.array_equal(a, b) and found.num_iter == expected.num_iter


def test_dead_voxels_do_not_hide_the_noise(rng):
    """Also where they are most of the image."""
    psf = np.outer([1, 6, 1], [1, 6, 1])
    image = 100 + 5 * rng.standard_normal((40, 40))
    weights = np.ones_like(image)
    weights[:, 10:] = 0
    options = {"initial": "zero", "return_info": True}
    _, found = mf.landweber(image, psf, weights=weights, stop="discrepancy", **options)
    _, expected = mf.landweber(image, psf, weights=weights, stop=mf.stop.Discrepancy(sigma=5.0), **options)
    assert abs(found.num_iter - expected.num_iter) <= 1 < expected.num_iter


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scale_invariance(factor, dtype, backend, rng, tol, relative_error):
    image, psf = rng.random((20, 22)).astype(dtype), np.ones((3, 4))
    options = {"stop": "relative-change", "backend": backend, "return_info": True}
    plain, info = mf.landweber(image, psf, 20, **options)
    scaled, other = mf.landweber(image * dtype.type(factor), psf, 20, **options)
    assert relative_error(scaled.astype(float) / factor, plain) < tol("scale", dtype)
    assert info.num_iter == other.num_iter


def noisy(rng, sigma=1.0):
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    truth = np.zeros((64, 60))
    truth[20:40, 25:45] = 50
    return (
        truth,
        mf.Blur(psf, truth.shape, boundary="wrap").forward(truth) + rng.normal(0, sigma, truth.shape),
        psf,
    )


def test_discrepancy_stops_where_the_residual_is_the_noise(backend, rng, relative_error):
    truth, image, psf = noisy(rng)
    rule = mf.stop.Discrepancy("gaussian", sigma=1.0)
    got, info = mf.landweber(image, psf, boundary="wrap", stop=rule, return_info=True, backend=backend)
    assert info.stopped_by == "discrepancy"
    blur = mf.Blur(psf, image.shape, boundary="wrap", backend=backend)
    residuals = [t["squared_residual"] / image.size for t in info.trace]
    assert residuals[0] == pytest.approx(np.mean((image - image.mean()) ** 2), rel=1e-9)
    assert np.mean((image - blur.forward(got)) ** 2) <= 1.0 < residuals[-1]
    assert all(a > b for a, b in itertools.pairwise(residuals))
    same = mf.landweber(image, psf, info.num_iter, boundary="wrap", backend=backend)
    np.testing.assert_array_equal(got, same)
    # It stops before the noise comes.
    assert relative_error(got, truth) < relative_error(mf.landweber(image, psf, 2000, boundary="wrap"), truth)


def test_other_rules(backend, rng):
    _, image, psf = noisy(rng)
    _, info = mf.landweber(image, psf, stop=mf.stop.RelativeChange(0.01), return_info=True, backend=backend)
    changes = [t["relative_change"] for t in info.trace]
    assert info.stopped_by == "relative-change"
    assert changes[-1] < 0.01 <= min(changes[:-1])
    estimates = []
    mf.landweber(image, psf, 3, boundary="wrap", callback=lambda _, e: estimates.append(e), backend=backend)
    _, info = mf.landweber(
        image, psf, 3, boundary="wrap", stop=mf.stop.RelativeChange(1e-9), return_info=True, backend=backend
    )
    change = np.linalg.norm(estimates[2] - estimates[1]) / np.linalg.norm(estimates[2])
    assert info.trace[2]["relative_change"] == pytest.approx(change, rel=1e-9)
    _, info = mf.landweber(image, psf, stop=("time", 1e-9), return_info=True, backend=backend)
    assert (info.num_iter, info.stopped_by) == (1, "time")


def test_callback_and_info(backend, rng):
    image, psf = rng.normal(0, 1, (9, 10)), np.ones((3, 3))
    seen = []

    def watch(iteration, estimate):
        seen.append((iteration, estimate.shape))
        estimate[...] = np.nan  # a copy: the run must not notice
        return iteration == 4

    got, info = mf.landweber(image, psf, 9, callback=watch, return_info=True, backend=backend)
    assert seen == [(i, (9, 10)) for i in (1, 2, 3, 4)]
    assert (info.num_iter, info.stopped_by) == (4, "callback")
    np.testing.assert_array_equal(got, mf.landweber(image, psf, 4, backend=backend))
    assert info.settings["method"] == "landweber"
    assert info.settings["estimate_shape"] == (11, 12)
    assert info.backend == backend
    json.dumps(info)
    assert mf.landweber(image, psf, return_info=True, backend=backend)[1].num_iter == 100


def test_step_that_diverges_is_warned_of(backend, rng):
    image, psf = rng.random((9, 10)), np.ones((3, 3))
    with pytest.warns(UserWarning, match="step: got 2.5, expected less than 2, .* may diverge"):
        _, info = mf.landweber(image, psf, 2, step=2.5, boundary="wrap", return_info=True, backend=backend)
    assert len(info.warnings) == 1


@pytest.mark.parametrize("stop", [None, "relative-change"])
def test_an_estimate_that_left_the_range_is_not_returned(backend, rng, stop):
    image, psf = rng.random((9, 10)).astype(np.float32), np.ones((3, 3))
    with (
        pytest.warns(UserWarning, match="may diverge"),
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"landweber: the estimate of iteration .* diverges"),
    ):
        mf.landweber(image, psf, 300, step=10, stop=stop, backend=backend)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_iter": 0}, ValueError, "num_iter: got 0"),
        ({"step": 0}, ValueError, "step: got 0"),
        ({"step": "optimal"}, ValueError, "step: got 'optimal', expected 'auto' or a number"),
        ({"non_negative": 1}, TypeError, "non_negative: got 1"),
        ({"boundary": "symmetric"}, ValueError, "boundary: got 'symmetric'"),
        ({"background": np.inf}, ValueError, "background: got inf"),
        ({"weights": -np.ones((5, 5))}, ValueError, "weights: 25 of 25 values are negative"),
        ({"weights": np.zeros((5, 5))}, ValueError, "weights: all are zero"),
        ({"initial": "random"}, ValueError, "initial: got 'random', expected one of 'flat', 'image', 'zero'"),
        ({"initial": np.ones((4, 4))}, ValueError, r"initial: got shape \(4, 4\), expected \(5, 5\)"),
        ({"callback": 3}, TypeError, "callback: got 3"),
        ({"stop": "i-divergence"}, ValueError, "stop: got 'i-divergence', which follows the I-diver"),
        ({"stop": "thinning"}, ValueError, "stop: got 'thinning'"),
        ({"stop": mf.stop.Discrepancy("poisson")}, ValueError, "landweber descends squared residuals"),
    ],
)  # fmt: skip
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        mf.landweber(np.ones((5, 5)), np.ones((3, 3)), **options)
