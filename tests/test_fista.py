"""FISTA with total variation against a naive loop over dense matrices, and what it promises."""

import json
import warnings

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")


def gradient(x, steepness):
    out = np.zeros((x.ndim, *x.shape))
    for axis, factor in enumerate(steepness):
        inner = tuple(slice(0, -1) if a == axis else slice(None) for a in range(x.ndim))
        out[(axis, *inner)] = np.diff(x, axis=axis) * factor
    return out


def gradient_matrix(shape, steepness):
    """All differences at once, one column per voxel."""
    columns = [gradient(unit.reshape(shape), steepness).ravel() for unit in np.eye(int(np.prod(shape)))]
    return np.array(columns).T


def denoised(z, dual, weight, iterations, matrix, steepness, lowest):
    """Beck and Teboulle 2009 (total variation), algorithm FGP, beginning at `dual`."""
    p = r = dual
    t = 1.0
    for _ in range(iterations):
        x = np.maximum(z - weight * matrix.T @ r, lowest)
        q = (r + matrix @ x / (4 * np.sum(np.square(steepness)) * weight)).reshape(len(steepness), -1)
        new = (q / np.maximum(1, np.sqrt((q**2).sum(0)))).ravel()
        t_new = (1 + np.sqrt(1 + 4 * t**2)) / 2
        r = new + (t - 1) / t_new * (new - p)
        p, t = new, t_new
    return np.maximum(z - weight * matrix.T @ p, lowest), p


def transcription(
    image, dense, weight, iterations, inner, *, x, step, steepness, lowest, w=1.0, background=0.0
):
    """Algorithm FISTA with constant step, H and the gradient as matrices, in float64."""
    matrix, estimate_shape, frame = dense
    y = image.ravel().astype(float)
    w = np.broadcast_to(w, image.shape).ravel()
    slopes = gradient_matrix(estimate_shape, steepness)
    dual = np.zeros(slopes.shape[0])
    x = ahead = np.asarray(x, float).ravel()
    t = 1.0
    for _ in range(iterations):
        z = ahead + step * matrix.T @ (w * (y - background - matrix @ ahead))
        if weight:
            new, dual = denoised(z, dual, weight * step, inner, slopes, steepness, lowest)
        else:
            new = np.maximum(z, lowest)
        t_new = (1 + np.sqrt(1 + 4 * t**2)) / 2
        ahead = new + (t - 1) / t_new * (new - x)
        x, t = new, t_new
    return x.reshape(estimate_shape)[frame]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(
    ("shape", "psf_shape"), [((21,), (6,)), ((6, 7), (3, 4)), ((4, 3, 4), (3, 2, 3))], ids=str
)
def test_transcription(boundary, shape, psf_shape, dtype, backend, rng, tol, relative_error, dense_blur):
    psf = rng.random(psf_shape)
    image = rng.normal(15, 4, shape).astype(dtype)
    weights = rng.random(shape)
    dense = dense_blur(psf / psf.sum(), shape, boundary)
    size = np.ones(len(shape))
    flat = np.full(dense[1], image.mean(dtype=float))
    for options, known in (
        ({"weight": 0.5}, {"x": flat, "lowest": 0, "steepness": size}),
        ({"weight": 0}, {"x": flat, "lowest": 0, "steepness": size}),
        ({"weight": 0, "non_negative": False}, {"x": flat, "lowest": -np.inf, "steepness": size}),
        (
            {"weight": 0.2, "non_negative": False, "weights": weights, "background": 0.5, "initial": "zero",
             "voxel_size": (0.5, 0.25, 0.4)[: len(shape)]},
            {"x": 0 * flat, "lowest": -np.inf, "w": weights, "background": 0.5,
             "steepness": np.array({1: [1], 2: [0.5, 1], 3: [0.5, 1, 0.625]}[len(shape)])},
        ),
    ):  # fmt: skip
        got, info = mf.fista(
            image,
            psf,
            num_iter=8,
            inner_iter=4,
            boundary=boundary,
            backend=backend,
            return_info=True,
            **options,
        )
        expected = transcription(image, dense, options["weight"], 8, 4, step=info.settings["step"], **known)
        assert got.dtype == dtype
        assert relative_error(got, expected) < tol("transcription", dtype)


def test_without_blur_it_is_denoising(backend, rng, relative_error):
    restoration = pytest.importorskip("skimage.restoration")
    image = np.cumsum(rng.normal(0, 1, (20, 24)), axis=0)
    got = mf.fista(image, np.ones((1, 1)), 0.5, 8, inner_iter=250, non_negative=False, backend=backend)
    expected = restoration.denoise_tv_chambolle(image, weight=0.5, eps=1e-12, max_num_iter=5000)
    assert relative_error(got, expected) < 1e-4


def test_engines_agree(backend, dtype, rng, tol, relative_error):
    psf = np.outer([1, 2, 1.0], [1, 3, 2, 1.0])
    image = rng.random((12, 14)).astype(dtype)
    results = [
        mf.fista(image, psf, 0.05, 8, engine=e, backend=backend) for e in ("spectral", "separable", "direct")
    ]
    for other in results[1:]:
        assert relative_error(other, results[0]) < tol("transcription", dtype)


def scene(rng):
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    truth = np.zeros((60, 64))
    truth[15:40, 20:45] = 50
    truth[25:50, 30:38] += 30
    return (
        truth,
        mf.Blur(psf, truth.shape, boundary="wrap").forward(truth) + rng.normal(0, 2, truth.shape),
        psf,
    )


def test_edges_come_back(backend, rng):
    """On patches with edges it beats the best filter and the best of plain iterations."""
    truth, image, psf = scene(rng)

    def error(x):
        return np.linalg.norm(x - truth)

    got = mf.fista(image, psf, 0.4, boundary="wrap", backend=backend)
    iterates = []
    mf.landweber(image, psf, 60, boundary="wrap", callback=lambda _, e: iterates.append(error(e)))
    filters = [error(mf.wiener(image, psf, 10.0**e, boundary="wrap")) for e in np.arange(-4, 1, 0.5)]
    assert error(got) < 0.7 * min(*iterates, *filters)


def test_objective_falls_faster_than_without_acceleration(backend, rng):
    _, image, psf = scene(rng)
    blur = mf.Blur(psf, image.shape, boundary="wrap", backend=backend)

    def objective(x, weight):
        variation = np.sqrt((gradient(x, (1, 1)) ** 2).sum(0)).sum()
        return 0.5 * ((blur.forward(x) - image) ** 2).sum() + weight * variation

    def path(run, weight):
        seen = []
        run(callback=lambda _, e: seen.append(objective(e, weight)))
        return seen

    options = {"boundary": "wrap", "initial": "zero", "backend": backend}
    plain = path(lambda callback: mf.landweber(image, psf, 60, callback=callback, **options), 0)
    fast = path(
        lambda callback: mf.fista(image, psf, 0, 60, non_negative=False, callback=callback, **options), 0
    )
    assert fast[20] < plain[59] < plain[20]
    smooth = path(lambda callback: mf.fista(image, psf, 0.4, 150, callback=callback, **options), 0.4)
    assert smooth[149] < smooth[49] < smooth[9]
    assert smooth[49] - smooth[149] < 1e-3 * smooth[149]


def test_weight_has_the_images_units(backend, dtype, rng, tol, relative_error):
    image, psf = rng.random((20, 22)).astype(dtype), np.ones((3, 3))
    options = {"num_iter": 10, "backend": backend, "stop": "relative-change", "return_info": True}
    plain, info = mf.fista(image, psf, 0.02, **options)
    for factor in (1e-9, 1e9):
        scaled, other = mf.fista(image * dtype.type(factor), psf, 0.02 * factor, **options)
        assert relative_error(scaled.astype(float) / factor, plain) < tol("scale", dtype)
        assert info.num_iter == other.num_iter


def test_voxel_size_weighs_the_axes(backend, rng):
    image = np.repeat(rng.random((16, 1)), 16, 1)
    flat = [
        np.std(mf.fista(image, np.ones((1, 1)), 0.3, voxel_size=v, backend=backend)[:, 8])
        for v in ((1, 1), (50, 1))
    ]
    assert flat[0] < 0.5 * flat[1]
    assert flat[1] > 0.9 * np.std(image[:, 8])


def test_threads_do_not_matter(backend, rng):
    image, psf = rng.random((30, 32)), np.ones((3, 3))
    one, three = (mf.fista(image, psf, 0.05, 5, num_threads=n, backend=backend) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_rules_callback_and_info(backend, rng):
    _, image, psf = scene(rng)
    options = {"boundary": "wrap", "return_info": True, "backend": backend}
    rule = mf.stop.Discrepancy("gaussian", sigma=2.0)
    _, info = mf.fista(image, psf, 0.1, stop=rule, **options)
    assert info.stopped_by == "discrepancy"
    residuals = [t["squared_residual"] / image.size for t in info.trace]
    assert all(r > 4 for r in residuals)
    estimates = []
    rule = mf.stop.RelativeChange(0.01)
    got, info = mf.fista(image, psf, 0.1, stop=rule, callback=lambda _, e: estimates.append(e), **options)
    assert info.stopped_by == "relative-change"
    np.testing.assert_array_equal(estimates[-1], got)
    change = np.linalg.norm(estimates[-1] - estimates[-2]) / np.linalg.norm(estimates[-1])
    assert info.trace[-1]["relative_change"] == pytest.approx(change, rel=1e-9)
    _, info = mf.fista(image, psf, 0.1, 9, callback=lambda i, _: i == 3, **options)
    assert (info.num_iter, info.stopped_by) == (3, "callback")
    assert info.settings["method"] == "fista"
    json.dumps(info)
    assert mf.fista(image, psf, 0.1, **options)[1].num_iter == 50


def test_signed_scale_is_warned_of(backend, rng):
    image, psf = rng.normal(0, 500, (9, 10)), np.ones((3, 3))
    with pytest.warns(UserWarning, match="are a signed scale, .* pass non_negative=False"):
        _, info = mf.fista(image, psf, 1.0, 2, return_info=True, backend=backend)
    assert len(info.warnings) == 1
    with pytest.warns(UserWarning, match="20 beside a background of 30 .* what is above 30 only"):
        mf.fista(np.full((9, 10), 20.0), psf, 1.0, 2, background=30, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mf.fista(image, psf, 1.0, 2, non_negative=False, backend=backend).min() < 0
        mf.fista(image + 3000, psf, 1.0, 2, background=1000, backend=backend)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"weight": -1}, ValueError, "weight: got -1"),
        ({"weight": "auto"}, TypeError, "weight: got 'auto'"),
        ({"inner_iter": 0}, ValueError, "inner_iter: got 0"),
        ({"non_negative": None}, TypeError, "non_negative: got None"),
        ({"stop": "i-divergence"}, ValueError, "stop: got 'i-divergence'.*fista descends squared residuals"),
        ({"voxel_size": (1, 1, 1)}, ValueError, "voxel_size: got 3 values"),
    ],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        mf.fista(np.ones((5, 5)), np.ones((3, 3)), **({"weight": 0.1} | options))
