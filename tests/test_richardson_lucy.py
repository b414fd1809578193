"""Richardson-Lucy against its formulas with dense matrices, against SimpleITK, and its promises."""

import json

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")


def gaussian(shape, sigma):
    axes = [np.exp(-0.5 * ((np.arange(k) - k // 2) / sigma) ** 2) for k in shape]
    out = axes[0]
    for axis in axes[1:]:
        out = np.multiply.outer(out, axis)
    return out / out.sum()


def blobs(rng, shape, count=12, peak=200.0):
    """Bright spots on zero background."""
    grid = np.indices(shape)
    out = np.zeros(shape)
    for _ in range(count):
        centre = [rng.uniform(0.2, 0.8) * n for n in shape]
        distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        out += peak * rng.random() * (distance < rng.uniform(2, 9))
    return out


def transcription(
    image, matrix, estimate_shape, frame, iterations, weights=None, background=0.0, level=None, eps=1e-12
):
    """The formulas of the docstring, in float64, with H as a matrix."""
    y = image.ravel().astype(float)
    w = np.ones_like(y) if weights is None else weights.ravel().astype(float)
    if level is None:
        level = (w * y).sum() / w.sum() - background
    x = np.full(int(np.prod(estimate_shape)), level)
    normalizer = matrix.T @ w
    seen = normalizer >= 0.01 * w.max()
    for _ in range(iterations):
        ratio = w * y / np.maximum(matrix @ x + background, eps * y.max())
        x[seen] *= (matrix.T @ ratio)[seen] / normalizer[seen]
    return x.reshape(estimate_shape)[frame]


CASES = [
    ((21,), (6,)),
    ((12, 15), (5, 4)),
    ((13, 11), (4, 7)),
    ((5, 7, 6), (3, 2, 5)),
    ((1, 9, 8), (1, 3, 4)),
    ((6, 6), (9, 8)),
]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES, ids=str)
def test_transcription(boundary, shape, psf_shape, dtype, backend, rng, tol, relative_error, dense_blur):
    if boundary == "wrap" and any(k > n for n, k in zip(shape, psf_shape, strict=True)):
        pytest.skip("a PSF larger than the image has no meaning under wrap")
    psf = rng.random(psf_shape)
    image = (rng.random(shape) * 100 + 1).astype(dtype)
    weights = rng.random(shape)
    for options in ({}, {"background": 0.75}, {"weights": weights, "background": 0.5}):
        got = mf.richardson_lucy(image, psf, 12, boundary=boundary, backend=backend, **options)
        expected = transcription(image, *dense_blur(psf / psf.sum(), shape, boundary), 12, **options)
        assert got.dtype == dtype
        assert relative_error(got, expected) < tol("transcription", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), [((12, 15), (5, 4)), ((5, 7, 6), (3, 2, 5))], ids=str)
def test_engines_agree(boundary, shape, psf_shape, dtype, backend, rng, tol, relative_error):
    psf = gaussian(psf_shape, 1.1)
    image = (rng.random(shape) * 100 + 1).astype(dtype)
    options = {"weights": rng.random(shape), "background": 0.5, "boundary": boundary, "backend": backend}
    spectral, separable = (
        mf.richardson_lucy(image, psf, 12, engine=engine, **options) for engine in ("spectral", "separable")
    )
    assert relative_error(separable, spectral) < tol("transcription", dtype)


@pytest.mark.peers
def test_simpleitk(backend, rng, tol, relative_error):
    sitk = pytest.importorskip("SimpleITK")
    psf = gaussian((5, 7, 7), 1.2)
    image = np.zeros((28, 36, 34))
    image[10:-10, 14:-14, 14:-14] = rng.random((8, 8, 6)) * 100 + 50
    image = np.maximum(mf.Blur(psf, image.shape, boundary="zero", backend=backend).forward(image), 0)
    image[image < 1] = 0
    got = mf.richardson_lucy(image, psf, 10, boundary="zero", initial="image", backend=backend)
    expected = sitk.GetArrayFromImage(
        sitk.RichardsonLucyDeconvolution(sitk.GetImageFromArray(image), sitk.GetImageFromArray(psf), 10)
    )
    assert relative_error(got, expected) < tol("simpleitk")


@pytest.mark.parametrize(
    "psf", [gaussian((9, 8), 1.5), np.ones((6, 6)), gaussian((31, 40), 4.0)], ids=["smooth", "box", "large"]
)
def test_flat_stays_flat_to_the_edge(psf, dtype, backend, tol):
    image = np.full((24, 30), 7.0, dtype)
    estimate = mf.richardson_lucy(image, psf, 60, backend=backend)
    assert np.abs(estimate / 7 - 1).max() < tol("flat", dtype)


def test_flat_stays_flat_in_volumes(backend, tol):
    estimate = mf.richardson_lucy(
        np.full((9, 12, 10), 3.0, np.float32), gaussian((5, 4, 7), 1.3), 30, backend=backend
    )
    assert np.abs(estimate / 3 - 1).max() < tol("flat", np.float32)


def test_hardly_seen_voxels_keep_the_initial_value(backend, rng, dense_blur):
    """Around the frame the normalizer falls below 1 %: there the start is kept, and nothing blows up."""
    psf = gaussian((15,), 2.0)
    image = rng.random(20) + 1
    blur = mf.Blur(psf, image.shape, backend=backend)
    unseen = blur.normalizer() < 0.01
    assert unseen.any()
    initial = rng.random(blur.estimate_shape) + 1
    seen = {}
    mf.richardson_lucy(
        image, psf, 40, initial=initial, backend=backend, callback=lambda i, e: seen.update({i: e.max()})
    )
    assert len(seen) == 40
    assert max(seen.values()) < 100


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scale_invariance(factor, dtype, backend, rng, tol, relative_error):
    image = rng.poisson(blobs(rng, (30, 36))).astype(dtype)
    psf = gaussian((7, 7), 1.3)
    plain = mf.richardson_lucy(image, psf, 20, backend=backend)
    scaled = mf.richardson_lucy((image * dtype.type(factor)), psf, 20, backend=backend)
    assert relative_error(scaled.astype(float) / factor, plain) < tol("scale", dtype)


def test_float32_follows_float64(backend, rng, tol, relative_error):
    psf = gaussian((7, 9, 9), 1.6)
    truth = blobs(rng, (14, 28, 25))
    blur = mf.Blur(psf, truth.shape, boundary="zero", backend=backend)
    image = rng.poisson(np.maximum(blur.forward(truth), 0)).astype(np.float32)
    for boundary in ("extended", "wrap"):
        single = mf.richardson_lucy(image, psf, 100, boundary=boundary, backend=backend)
        double = mf.richardson_lucy(image.astype(float), psf, 100, boundary=boundary, backend=backend)
        assert single.dtype == np.float32
        assert relative_error(single, double) < tol("precision", np.float32)


def test_restores(backend, rng):
    """The estimate is closer to the truth than the image is, everywhere up to the edge."""
    psf = gaussian((9, 9), 1.5)
    wide = blobs(rng, (64, 64), 40, 1e4)
    wide[np.arange(64) % 8 < 3] += 5e3  # stripes that run out of the frame
    frame = np.s_[8:-8, 8:-8]
    truth = wide[frame]
    image = mf.Blur(psf, wide.shape, boundary="nearest", backend=backend).forward(wide)[frame]
    image = rng.poisson(np.maximum(image, 0)).astype(np.float32)
    estimate = mf.richardson_lucy(image, psf, 30, backend=backend)
    assert np.linalg.norm(estimate - truth) < 0.9 * np.linalg.norm(image - truth)
    for edge in (np.s_[:, :2], np.s_[:, -2:], np.s_[:2], np.s_[-2:]):
        assert np.linalg.norm((estimate - truth)[edge]) < np.linalg.norm((image - truth)[edge])


def test_dead_voxels_have_no_influence(backend, rng, relative_error):
    psf = gaussian((5, 5), 1.0)
    image = rng.random((20, 22)) + 1
    weights = np.ones_like(image)
    weights[7, 8:11] = 0
    broken = image.copy()
    broken[7, 8:11] = 1e4
    a = mf.richardson_lucy(image, psf, 15, weights=weights, backend=backend)
    b = mf.richardson_lucy(broken, psf, 15, weights=weights, backend=backend)
    assert np.array_equal(a, b)
    # Only ratios of weights count.
    c = mf.richardson_lucy(image, psf, 15, weights=weights * 1e-3, backend=backend)
    assert relative_error(c, a) < 1e-12
    # A mask of bool serves as well.
    d = mf.richardson_lucy(image, psf, 15, weights=weights > 0, backend=backend)
    assert np.array_equal(d, a)


@pytest.mark.parametrize("mark", [0.0, 65535.0, 2.0**32 - 1, -1e6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"initial": "image"},
        {"negative": "shift", "background": 2.0},
        {"stop": "thinning", "regularizer": ("tikhonov", 0.01), "acceleration": "biggs-andrews"},
    ],
)
def test_numbers_that_mark_dead_voxels_have_no_influence(mark, options, rng):
    """In float32 the smallest divisor came from a mark such as 2**32 - 1, and stood above the whole image."""
    psf = gaussian((5, 5), 1.0)
    image = rng.poisson(40.0, (20, 22)).astype(np.float32)
    weights = np.ones_like(image)
    weights[7, 8:11] = 0
    weights[12:16, 3:9] = 0
    marked = np.where(weights > 0, image, np.float32(mark))
    options = {"num_iter": 15, "weights": weights, **options}
    assert np.array_equal(
        mf.richardson_lucy(marked, psf, **options), mf.richardson_lucy(image, psf, **options)
    )


def test_background_is_not_part_of_the_estimate(backend, rng):
    psf = gaussian((7, 7), 1.2)
    truth = blobs(rng, (40, 40))
    image = mf.Blur(psf, truth.shape, boundary="zero", backend=backend).forward(truth) + 5
    estimate = mf.richardson_lucy(image, psf, 100, background=5, backend=backend)
    assert abs(estimate.sum() / truth.sum() - 1) < 0.02
    assert np.median(estimate) < 0.5
    assert np.median(mf.richardson_lucy(image, psf, 100, backend=backend)) > 4


def test_initial_array(backend, rng, relative_error):
    psf = gaussian((5, 6), 1.0)
    image = rng.random((14, 16)) + 1
    blur = mf.Blur(psf, image.shape, backend=backend)
    literal = mf.richardson_lucy(image, psf, 6, initial="image", backend=backend)
    same = mf.richardson_lucy(image, psf, 6, initial=image, backend=backend)
    assert np.array_equal(literal, same)
    before = np.pad(
        image,
        [(s.start, n - s.stop) for s, n in zip(blur.frame, blur.estimate_shape, strict=True)],
        mode="edge",
    )
    given = before.copy()
    assert np.array_equal(mf.richardson_lucy(image, psf, 6, initial=given, backend=backend), literal)
    assert np.array_equal(given, before)
    # Two runs of 3 are one of 6 where the estimate is the image's frame.
    half = mf.richardson_lucy(image, psf, 3, boundary="wrap", initial="image", backend=backend)
    full = mf.richardson_lucy(image, psf, 3, boundary="wrap", initial=half, backend=backend)
    assert (
        relative_error(
            full, mf.richardson_lucy(image, psf, 6, boundary="wrap", initial="image", backend=backend)
        )
        < 1e-12
    )


def test_unnormalised_psf(backend, rng, relative_error):
    psf = gaussian((5, 5), 1.0)
    image = rng.random((18, 20)) + 1
    for boundary in BOUNDARIES:
        unit = mf.richardson_lucy(image, psf, 8, boundary=boundary, backend=backend)
        raw = mf.richardson_lucy(image, psf * 4, 8, boundary=boundary, normalize_psf=False, backend=backend)
        assert relative_error(raw * 4, unit) < 1e-11


def test_negative_values_are_refused_with_the_ways_out(backend, rng):
    image = rng.random((10, 10))
    image[3, 4] = -2.5
    with pytest.raises(
        ValueError, match=r"1 of 100 values are negative, the smallest -2\.5.*'clip'.*'shift'"
    ):
        mf.richardson_lucy(image, np.ones((3, 3)), 2, backend=backend)


def test_negative_clip(backend, rng):
    image = rng.random((10, 10)) - 0.1
    estimate, info = mf.richardson_lucy(
        image, np.ones((3, 3)), 5, negative="clip", return_info=True, backend=backend
    )
    assert np.array_equal(
        estimate, mf.richardson_lucy(np.maximum(image, 0), np.ones((3, 3)), 5, backend=backend)
    )
    assert info.settings["clipped"] == (image < 0).sum()
    assert any("set to zero" in w for w in info.warnings)


def test_negative_shift(backend, rng, relative_error):
    image = rng.random((10, 10)) * 2000 - 1000
    offset = -image.min()
    estimate, info = mf.richardson_lucy(
        image, np.ones((3, 3)), 5, negative="shift", return_info=True, backend=backend
    )
    expected = mf.richardson_lucy(image + offset, np.ones((3, 3)), 5, backend=backend) - offset
    assert relative_error(estimate, expected) < 1e-12
    assert info.settings["offset"] == pytest.approx(offset)
    assert estimate.min() < 0
    twice = mf.richardson_lucy(
        image,
        np.full((3, 3), 2.0),
        5,
        negative="shift",
        normalize_psf=False,
        boundary="wrap",
        backend=backend,
    )
    once = mf.richardson_lucy(
        image,
        np.full((3, 3), 1.0),
        5,
        negative="shift",
        normalize_psf=False,
        boundary="wrap",
        backend=backend,
    )
    assert relative_error(2 * twice, once) < 1e-11


def test_non_negative_image_is_not_shifted(backend, rng):
    image = rng.random((10, 10)) + 5
    plain, info = mf.richardson_lucy(
        image, np.ones((3, 3)), 5, negative="shift", return_info=True, backend=backend
    )
    assert np.array_equal(plain, mf.richardson_lucy(image, np.ones((3, 3)), 5, backend=backend))
    assert info.settings["offset"] == 0


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_zero_image_gives_zeros(boundary, dtype, backend):
    estimate, info = mf.richardson_lucy(
        np.zeros((6, 7), dtype), np.ones((3, 3)), boundary=boundary, return_info=True, backend=backend
    )
    assert estimate.dtype == dtype
    assert estimate.shape == (6, 7)
    assert not estimate.any()
    assert info.num_iter == 0


def test_image_below_background_gives_zeros(backend):
    with pytest.warns(
        UserWarning, match="image: no value rises above the background 5; the estimate is zero"
    ):
        estimate, info = mf.richardson_lucy(
            np.full((6, 7), 3.0), np.ones((3, 3)), background=5, return_info=True, backend=backend
        )
    assert not estimate.any()
    assert any("background" in w for w in info.warnings)


def test_constant_negative_image_under_shift(backend):
    estimate = mf.richardson_lucy(
        np.full((6, 7), -4.0), np.ones((3, 3)), 3, negative="shift", backend=backend
    )
    assert np.array_equal(estimate, np.full((6, 7), -4.0))


def test_image_mostly_below_background(backend, rng):
    image = np.full((12, 12), 9.0)
    image[5, 5] = 30
    estimate = mf.richardson_lucy(image, gaussian((3, 3), 0.7), 20, background=10, backend=backend)
    assert np.isfinite(estimate).all()
    assert np.unravel_index(estimate.argmax(), estimate.shape) == (5, 5)


def test_callback_sees_every_iteration_and_may_stop(backend, rng):
    image = rng.random((9, 10)) + 1
    seen = []

    def watch(iteration, estimate):
        seen.append((iteration, estimate.shape, float(estimate.sum())))
        estimate[...] = np.nan  # a copy: the run must not notice
        return iteration == 4

    estimate, info = mf.richardson_lucy(
        image, np.ones((3, 3)), 9, callback=watch, return_info=True, backend=backend
    )
    assert [s[0] for s in seen] == [1, 2, 3, 4]
    assert {s[1] for s in seen} == {(9, 10)}
    assert info.num_iter == 4
    assert info.stopped_by == "callback"
    assert np.array_equal(estimate, mf.richardson_lucy(image, np.ones((3, 3)), 4, backend=backend))
    # Anything but True goes on.
    assert (
        mf.richardson_lucy(
            image, np.ones((3, 3)), 3, callback=lambda i, e: e, return_info=True, backend=backend
        )[1].num_iter
        == 3
    )


def test_callback_sees_unshifted_values(backend, rng):
    image = rng.random((9, 10)) - 5
    last = []
    estimate = mf.richardson_lucy(
        image, np.ones((3, 3)), 3, negative="shift", callback=lambda i, e: last.append(e), backend=backend
    )
    assert np.array_equal(last[-1], estimate)


def test_error_in_callback_reaches_the_caller(backend):
    def broken(iteration, estimate):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mf.richardson_lucy(np.ones((6, 6)), np.ones((3, 3)), 3, callback=broken, backend=backend)


def test_info(backend, rng):
    image = rng.random((120, 130)).astype(np.float32) + 1
    estimate, info = mf.richardson_lucy(
        image, np.ones((5, 5)), 5, return_info=True, backend=backend, num_threads=1
    )
    assert estimate.shape == image.shape
    for entry in (
        "num_iter",
        "stopped_by",
        "trace",
        "settings",
        "engine",
        "backend",
        "bytes",
        "seconds",
        "warnings",
    ):
        assert entry in info
        assert getattr(info, entry) is info[entry]
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = info.nothing_like_it
    assert info.num_iter == 5
    assert info.stopped_by == "num_iter"
    assert [t["iteration"] for t in info.trace] == [1, 2, 3, 4, 5]
    assert info.backend == backend
    assert info.engine == "separable"  # a box is a product of filters
    assert info.settings["boundary"] == "extended"
    assert info.settings["num_threads"] == 1
    assert info.settings["dtype"] == "float32"
    assert info.warnings == []
    json.dumps(info)


def test_working_memory_stays_below_the_bound():
    """Plain float32 Richardson-Lucy: at most 4.2 padded volumes beside input and output."""
    if "cpp" not in mf.backends.available():
        pytest.skip("SKIPPED: no compiled module in this installation")
    image = np.ones((112, 120, 120), np.float32)
    _, info = mf.richardson_lucy(image, gaussian((9, 9, 9), 1.5), 1, return_info=True, backend="cpp")
    padded = 4 * np.prod(info.settings["grid"])
    assert info.bytes < 4.2 * padded


def test_default_is_thirty_iterations(backend, rng):
    image = rng.random((8, 8)) + 1
    assert mf.richardson_lucy(image, np.ones((3, 3)), return_info=True, backend=backend)[1].num_iter == 30


def test_equal_voxel_sizes_change_nothing(backend, rng):
    image, psf = rng.random((8, 9)) + 1, rng.random((3, 3))
    plain = mf.richardson_lucy(image, psf, 3, backend=backend)
    same = mf.richardson_lucy(
        image, psf, 3, voxel_size=(0.5, 0.2), psf_voxel_size=(0.5, 0.2), backend=backend
    )
    assert np.array_equal(plain, same)


def test_psf_is_resampled_to_the_image(backend, rng):
    resample = getattr(mf.psf, "resample", None)
    if resample is None:
        pytest.skip("SKIPPED: psf.resample is missing")
    image, psf = rng.random((16, 18)) + 1, gaussian((9, 9), 2.0)
    got, info = mf.richardson_lucy(
        image, psf, 3, voxel_size=(2.0, 1.0), psf_voxel_size=(1.0, 1.0), return_info=True, backend=backend
    )
    expected = mf.richardson_lucy(image, resample(psf, (1.0, 1.0), (2.0, 1.0)), 3, backend=backend)
    assert np.array_equal(got, expected)
    assert info.settings["psf_resampled"]


@pytest.mark.shared
def test_real_image(backend, shared_data, dtype, tol, relative_error):
    """On a real image the float32 result follows float64, and the blurred estimate explains the image."""
    tifffile = pytest.importorskip("tifffile")
    files = sorted([*shared_data.rglob("*.tif"), *shared_data.rglob("*.tiff")])
    if not files:
        pytest.skip("SKIPPED: no TIFF among the real images")
    image = np.squeeze(tifffile.imread(files[0]))
    while image.ndim > 2:
        image = image[len(image) // 2]
    image = image[:96, :112].astype(dtype)
    psf = gaussian((7, 7), 1.2)
    estimate = mf.richardson_lucy(image, psf, 20, boundary="reflect", negative="clip", backend=backend)
    blurred = mf.Blur(psf, image.shape, boundary="reflect", backend=backend).forward(estimate)
    assert relative_error(blurred, np.maximum(image, 0)) < 0.1
    other = mf.richardson_lucy(
        image.astype(float), psf, 20, boundary="reflect", negative="clip", backend="reference"
    )
    assert relative_error(estimate, other) < tol("backends", dtype)


def test_light_beyond_the_reach_of_an_initial_support_takes_no_digits_of_the_rest(
    dtype, backend, rng, tol, relative_error
):
    support = np.zeros((40, 44))
    support[14:26, 15:28] = 1
    image = np.full(support.shape, 100, dtype)
    profile = np.exp(-(np.arange(-7, 8) ** 2) / 8)
    psf = np.outer(profile, profile) + 1e-9 * rng.random((15, 15))  # reaches on, where no float32 tells it
    summed = mf.richardson_lucy(image, psf, 3, initial=support, engine="direct", backend=backend)
    chosen, info = mf.richardson_lucy(image, psf, 3, initial=support, backend=backend, return_info=True)
    assert info["engine"] in ("direct", "separable")  # to a float32 the PSF is a product of two
    assert relative_error(chosen, summed) < tol("same_grid", dtype)
    assert any("explains nearly nothing" in note for note in info["warnings"])
    with pytest.warns(UserWarning, match="engine='direct' sums"):
        mf.richardson_lucy(image, psf, 3, initial=support, engine="spectral", backend=backend)


def test_a_border_beyond_the_reach_of_a_psf_off_its_centre(dtype, backend, rng, tol):
    psf = np.zeros((21, 21))
    psf[14:, 14:] = rng.random((7, 7))
    image = np.full((40, 44), 100, dtype)
    options = {"boundary": "zero", "backend": backend}
    summed = mf.richardson_lucy(image, psf, 3, engine="direct", **options)
    assert np.array_equal(mf.richardson_lucy(image, psf, 3, **options), summed)


def test_a_psf_longer_than_the_image_leaves_more_than_corners_out_of_reach(dtype, backend):
    psf = np.zeros((1, 5, 3))
    psf[0, 0], psf[0, 2, 0], psf[0, 3, 1] = 1, 1, 1
    image = np.random.default_rng(1).poisson(20.0, (5, 1, 4)).astype(dtype)
    options = {"boundary": "zero", "backend": backend}
    summed = mf.richardson_lucy(image, psf, 3, engine="direct", **options)
    assert np.array_equal(mf.richardson_lucy(image, psf, 3, **options), summed)


def test_an_image_does_not_explain_itself_by_a_psf_without_a_centre(dtype, backend, tol, relative_error):
    distance = np.hypot(*(np.indices((17, 17)) - 8))
    psf = (distance > 5) * (distance < 7.5) * (1 + 0.3 * np.random.default_rng(0).random((17, 17)))
    image = np.zeros((90, 90), dtype)
    image[20:70, 20:70] = np.random.default_rng(1).poisson(20.0, (50, 50))
    image[5, 5], image[80, 85] = 800, 500
    options = {"initial": "image", "backend": backend}
    summed = mf.richardson_lucy(image, psf, 20, engine="direct", **options)
    chosen, info = mf.richardson_lucy(image, psf, 20, return_info=True, **options)
    assert relative_error(chosen, summed) < tol("same_grid", dtype)
    assert any("explains nearly nothing" in note for note in info["warnings"])


def test_readout_variance_is_no_light_that_an_initial_support_leaves_out_of_reach(backend):
    support = np.zeros((40, 44), np.float32)
    support[14:26, 15:28] = 50
    profile = np.exp(-(np.arange(-7, 8) ** 2) / 8)
    psf = np.outer(profile, profile)
    image = mf.simulate(support, psf, noise=None, boundary="zero")
    for variance in (4.0, np.full(image.shape, 4.0)):
        _, info = mf.richardson_lucy(
            image, psf, 2, initial=support, readout_variance=variance, backend=backend, return_info=True
        )
        assert not any("explains nearly nothing" in note for note in info["warnings"])
