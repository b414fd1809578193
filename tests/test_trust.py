"""What a restoration may not do: bend a flat image, lose light, move a point, run away."""

import functools
import itertools
import warnings

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf

# Of images as small as these, threads cost more than they give; results do not depend on them.
richardson_lucy = functools.partial(mf.richardson_lucy, num_threads=1)

ENGINES = ["spectral", "separable", "direct"]
ACCELERATIONS = [None, "biggs-andrews", "heavy-ball"]
SMOOTH = ["tikhonov", "good-roughness", "entropy"]


def product(shape, tilt=0.0):
    """A product of Gaussians, each as wide as a sixth of its axis; with `tilt` their peaks lie off centre."""
    out = np.ones(())
    for k in shape:
        i = np.arange(k) - k // 2
        out = np.multiply.outer(out, np.exp(-18 * (i / k) ** 2 + tilt * i))
    return out / out.sum()


def random(shape):
    """Non-negative, without any symmetry."""
    psf = np.random.default_rng(7).random(shape) ** 2
    return psf / psf.sum()


PSFS = {
    "1-D even": product((8,)),
    "1-D random": random((7,)),
    "odd": product((9, 9)),
    "even": product((8, 8)),
    "mixed": product((8, 9)),
    "asymmetric": product((8, 9), tilt=0.3),
    "random": random((8, 7)),
    "3-D mixed": product((8, 9, 7)),
    "3-D random": random((4, 5, 6)),
}


def is_product(name):
    return "random" not in name or name.startswith("1-D")


RUNS = [(name, engine) for name in PSFS for engine in ENGINES if is_product(name) or engine != "separable"]
POINTS = [(*run, None) for run in RUNS]
POINTS += [(name, "spectral", a) for name in PSFS for a in ACCELERATIONS[1:]]
POINTS += [("mixed", engine, a) for engine in ENGINES[1:] for a in ACCELERATIONS[1:]]


def skip_if_slow(backend, name, engine):
    if backend == "reference" and engine == "direct" and not name.startswith("1-D"):
        pytest.skip("the reference's direct engine loops over the taps; it is tested on a line")


# ---------------------------------------------------------------- a flat image stays flat


@pytest.mark.parametrize(("name", "engine"), RUNS)
def test_flat_image_stays_flat_to_the_edge(name, engine, backend, dtype, tol):
    skip_if_slow(backend, name, engine)
    psf = PSFS[name]
    image = np.full((24, 21)[: psf.ndim] if psf.ndim < 3 else (6, 9, 8), 7, dtype)
    for options in (
        *({"acceleration": a} for a in ACCELERATIONS),
        *({"regularizer": (kind, 0.02), "acceleration": "biggs-andrews"} for kind in SMOOTH),
        {"background": 2.0},
        {"readout_variance": 3.0, "damping": 2.0},
    ):
        got = richardson_lucy(image, psf, 15, engine=engine, backend=backend, **options)
        expected = 7 - options.get("background", 0)
        assert np.abs(got / expected - 1).max() < tol("flat", dtype), options


@pytest.mark.parametrize("name", ["1-D even", "mixed", "asymmetric", "3-D mixed"])
@pytest.mark.parametrize("acceleration", [None, "biggs-andrews"])
@pytest.mark.parametrize("weight", [1e-3, 2e-2])
def test_total_variation_makes_no_ripples(name, weight, acceleration, backend, dtype, tol):
    """The factor comes from the estimate before the step: were it too steep, rounding would grow."""
    psf = PSFS[name]
    image = np.full((24, 21)[: psf.ndim] if psf.ndim < 3 else (6, 9, 8), 7, dtype)
    options = {"regularizer": ("tv", weight), "acceleration": acceleration, "backend": backend}
    got = richardson_lucy(image, psf, 40, **options)
    assert np.abs(got / 7 - 1).max() < tol("flat", dtype)


@pytest.mark.parametrize("name", PSFS)
def test_restore_leaves_a_flat_image_flat(name, backend, dtype, tol):
    psf = PSFS[name]
    image = np.full((24, 21)[: psf.ndim] if psf.ndim < 3 else (6, 9, 8), 7, dtype)
    assert np.abs(mf.restore(image, psf, backend=backend) / 7 - 1).max() < tol("flat", dtype)


# ---------------------------------------------------------------- light is kept


def iterates(image, psf, num_iter, **options):
    found = []
    richardson_lucy(image, psf, num_iter, callback=lambda _, e: found.append(e.astype(float)), **options)
    return found


@pytest.mark.parametrize("name", ["1-D random", "mixed", "random", "3-D random"])
def test_light_is_kept_by_every_iteration(name, backend, dtype, rng, tol):
    """sum(x) sum(psf) = sum(image) under wrap, from the first iteration on.

    x = v H'(image / Hv) / H'1, so sum(x H'1) = sum(Hv image / Hv) = sum(image), from whatever v the
    acceleration begins; under wrap H'1 is the PSF's sum everywhere.
    """
    psf = PSFS[name] * 3
    image = rng.poisson(5, (14, 15, 16)[: psf.ndim]).astype(dtype)
    options = {"boundary": "wrap", "normalize_psf": False, "backend": backend}
    for acceleration in ACCELERATIONS:
        for estimate in iterates(image, psf, 5, acceleration=acceleration, **options):
            assert abs(estimate.sum() * 3 / image.sum(dtype=float) - 1) < tol("flux", dtype)


@pytest.mark.parametrize("boundary", ["zero", "extended", "reflect", "nearest", "mirror", "wrap"])
def test_light_of_a_framed_object_is_kept(boundary, backend, dtype, rng, tol):
    """Where nothing lies within reach of the edge H'1 = 1 for all that shines, whatever the boundary."""
    psf = PSFS["mixed"]
    truth = np.zeros((40, 42))
    truth[14:24, 15:26] = rng.random((10, 11)) * 100
    image = np.maximum(ndimage.convolve(truth, psf, mode="constant"), 0).astype(dtype)
    for acceleration in ACCELERATIONS:
        options = {"boundary": boundary, "acceleration": acceleration, "backend": backend}
        for estimate in iterates(image, psf, 4, **options)[1:]:
            assert estimate[5:-5, 5:-5].sum() > (1 - 1e-9) * estimate.sum()
            assert abs(estimate.sum() / image.sum(dtype=float) - 1) < tol("flux", dtype)


def test_light_above_a_background(backend, dtype, rng, tol):
    """With a background b: sum(x_next) = sum(Hx image / (Hx + b)), what rises above it.

    Where the model can explain the image that becomes sum(Hx + b) = sum(image).
    """
    psf, background = PSFS["random"], 4.0
    truth = rng.poisson(3, (20, 21)) * rng.random((20, 21)) * 5
    image = (ndimage.convolve(truth, psf, mode="wrap") + background).astype(dtype)
    found = iterates(image, psf, 800, boundary="wrap", background=background, backend=backend)
    for before, after in itertools.pairwise(found[:5]):
        blurred = ndimage.convolve(before, psf, mode="wrap")
        expected = (blurred * image / (blurred + background)).sum()
        assert abs(after.sum() / expected - 1) < tol("flux", dtype)
    assert abs((found[-1].sum() + background * image.size) / image.sum(dtype=float) - 1) < 1e-4


def test_light_seen_by_weights(backend, dtype, rng, tol):
    """sum(w Hx) = sum(w image): what the trusted voxels see is what they saw."""
    psf = PSFS["asymmetric"]
    image = rng.poisson(30, (20, 21)).astype(dtype)
    weights = rng.random(image.shape)
    weights[5, 5:9] = 0
    for estimate in iterates(image, psf, 4, boundary="wrap", weights=weights, backend=backend):
        seen = (weights * ndimage.convolve(estimate, psf, mode="wrap")).sum()
        assert abs(seen / (weights * image).sum() - 1) < tol("flux", dtype)


LINEAR = {
    "landweber": {"num_iter": 20},
    "fista": {"weight": 0.5, "num_iter": 20, "non_negative": False},
    "van_cittert": {"num_iter": 5},
    "wiener": {"balance": 0.01},
    "tikhonov": {"weight": 0.01},
    "inverse_filter": {"threshold": 0.2},
}


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize("name", ["1-D even", "mixed", "3-D random"])
def test_light_is_kept_by_linear_methods(method, name, backend, dtype, rng, tol):
    """Under wrap they leave frequency 0 alone: the PSF's sum is 1 there, and no roughness is penalised.

    The residual's sum is zero from a flat start on; the slopes of total variation add up to zero. Only a
    projection onto what is not negative would add light.
    """
    psf = PSFS[name]
    image = rng.poisson(5, (14, 15, 16)[: psf.ndim]).astype(dtype)
    options = {"boundary": "wrap", "backend": backend} | LINEAR[method]
    if method == "tikhonov":
        options["regularizer"] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # van_cittert: this PSF makes it diverge later
        got = getattr(mf, method)(image, psf, **options)
    assert abs(got.sum(dtype=float) / image.sum(dtype=float) - 1) < tol("flux", dtype)


# ---------------------------------------------------------------- a point stays where it is


def seen_points(psf, shape, position):
    """A point between voxels, shared among its neighbours so that its centroid is there, through the PSF.

    Each share is the PSF itself, put down with its centre, ``shape // 2``, on the voxel.
    """
    image, low = np.zeros(shape), np.floor(position).astype(int)
    for corner in itertools.product((0, 1), repeat=len(shape)):
        share = np.prod(np.abs(1 - np.array(corner) - (position - low)))
        start = [p + c - k // 2 for p, c, k in zip(low, corner, psf.shape, strict=True)]
        image[tuple(slice(s, s + k) for s, k in zip(start, psf.shape, strict=True))] += share * psf
    return (1000 * image).astype(np.float32)


def centroid(estimate):
    wide = estimate.astype(float)
    return np.array([(grid * wide).sum() for grid in np.indices(wide.shape)]) / wide.sum()


def point_case(psf, between):
    shape = (20, 22)[: psf.ndim] if psf.ndim < 3 else (14, 15, 13)
    position = np.array([n // 2 - 1.0 for n in shape]) + between * np.array([0.3, 0.6, 0.45])[: psf.ndim]
    return seen_points(psf, shape, position), position


@pytest.mark.parametrize(("name", "engine", "acceleration"), POINTS)
def test_point_does_not_move(name, engine, acceleration, backend):
    """Within 0.02 voxel after 200 iterations, on a voxel and between voxels."""
    skip_if_slow(backend, name, engine)
    for between in (0, 1) if acceleration is None else (1,):
        image, position = point_case(PSFS[name], between)
        got = richardson_lucy(
            image, PSFS[name], 200, acceleration=acceleration, engine=engine, backend=backend
        )
        assert np.abs(centroid(got) - position).max() < 0.02
        assert got.sum(dtype=float) == pytest.approx(image.sum(dtype=float), rel=1e-4)


@pytest.mark.parametrize("name", ["even", "mixed", "asymmetric", "random"])
def test_flipped_psf_moves_the_point(name):
    """What peers do instead of the transpose; the bound above would not let it pass."""
    psf = PSFS[name]
    image, position = point_case(psf, 0)
    estimate = np.full(image.shape, image.mean(dtype=float))
    for _ in range(200):
        ratio = image / np.maximum(ndimage.convolve(estimate, psf, mode="constant"), 1e-9)
        estimate *= ndimage.convolve(ratio, np.flip(psf), mode="constant")
    assert np.abs(centroid(estimate) - position).max() > 0.04


# ---------------------------------------------------------------- nothing runs away


def starved(kind, ndim):
    """Few photons, or a bright object on zeros; with a PSF that is wide against it."""
    shape = {1: (60,), 2: (26, 24), 3: (11, 12, 14)}[ndim]
    rng = np.random.default_rng(5)
    fwhm = 4.0 if ndim < 3 else 3.0
    psf = mf.psf.gaussian(fwhm=(fwhm,) * ndim, voxel_size=(1.0,) * ndim, shape=(11,) * ndim)
    image = np.zeros(shape, np.float32)
    if kind == "photons":
        image[...] = rng.integers(1, 9, shape)
    elif kind == "few photons":
        image[...] = rng.poisson(0.1, shape)
    elif kind == "peak 1e4":
        image[tuple(slice(n // 3, n // 3 + 3) for n in shape)] = 1
        image = np.maximum(mf.Blur(psf, shape, boundary="zero", backend="reference").forward(image), 0)
        image *= np.float32(1e4) / image.max()
    elif kind == "one voxel":
        image[tuple(n // 2 for n in shape)] = 1e4
    elif kind == "corner":
        image[(0,) * ndim] = 1e4
    else:
        image[...] = 10 ** rng.uniform(-9, 9, shape)
    return image, psf


KINDS = ["photons", "few photons", "peak 1e4", "one voxel", "corner", "18 decades"]


def sound(estimate, image):
    """Finite, not negative, no voxel above all the light there is (but for rounding)."""
    return (
        np.isfinite(estimate).all()
        and estimate.min() >= 0
        and estimate.max() <= image.sum(dtype=float) * (1 + 1e-5)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("acceleration", ACCELERATIONS)
def test_nothing_runs_away(kind, ndim, acceleration):
    """500 iterations (100 in volumes), with and without each regularizer."""
    image, psf = starved(kind, ndim)
    for regularizer in (None, ("tv", 0.01), ("tikhonov", 0.01), ("good-roughness", 0.01), ("entropy", 0.01)):
        for boundary in ("extended", "wrap") if regularizer is None else ("extended",):
            estimate = richardson_lucy(
                image,
                psf,
                500 if ndim < 3 else 100,
                regularizer=regularizer,
                acceleration=acceleration,
                boundary=boundary,
            )
            assert sound(estimate, image), (regularizer, boundary)


@pytest.mark.parametrize("kind", ["photons", "peak 1e4", "18 decades"])
def test_no_backend_runs_away(kind, backend):
    image, psf = starved(kind, 2)
    for engine in ENGINES[:2]:
        estimate = richardson_lucy(
            image, psf, 200, acceleration="biggs-andrews", engine=engine, backend=backend
        )
        assert sound(estimate, image), engine


@pytest.mark.parametrize("projector", ["gaussian", "butterworth", "wiener-butterworth", "otf-masked-wiener"])
@pytest.mark.parametrize("kind", KINDS)
def test_unmatched_projectors_hold_for_their_iterations(kind, projector):
    """For the five iterations that they are good for (more warn).

    One bright voxel is an image that the blur cannot make: there they overshoot, by 2.9 times at most here.
    """
    image, psf = starved(kind, 2)
    share = 1 / 3 if kind in ("one voxel", "corner") else 1
    for boundary in ("extended", "wrap"):
        estimate = richardson_lucy(image, psf, 5, back_projector=projector, boundary=boundary)
        assert sound(share * estimate, image), boundary


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_restore_does_not_run_away(kind, ndim):
    image, psf = starved(kind, ndim)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate, info = mf.restore(image, psf, return_info=True)
        whole = mf.restore(np.rint(np.minimum(image, 2e9)).astype(np.int64), psf)
    assert sound(estimate, image)
    assert info.num_iter <= 50
    assert whole.dtype == np.float64 and sound(whole, image)


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (1, 1), (1, 9), (3, 3), (1, 1, 1), (2, 3, 4)])
def test_restore_of_tiny_images(shape, backend, rng):
    psf = product((5,) * len(shape))
    zero = mf.restore(np.zeros(shape, np.float32), psf, backend=backend)
    assert zero.shape == shape and not zero.any()
    image = rng.random(shape) + 1
    estimate = mf.restore(image, psf, backend=backend)
    assert estimate.shape == shape and np.isfinite(estimate).all() and estimate.min() >= 0
    # The light may lie outside; inside there is not more than the image can have seen.
    assert estimate.max() <= 4 * image.sum()


def test_restore_refuses_what_it_cannot_mean(backend):
    psf = product((3, 3))
    image = np.ones((6, 7))
    for value, words in (
        (np.nan, r"image: 1 of 42 values are not finite \(1 NaN, 0 infinite\), the first at .* = \(3, 4\)"),
        (np.inf, r"image: 1 of 42 values are not finite \(0 NaN, 1 infinite\)"),
        (1e300, "image: the largest value is 1e.300, expected 1e-140 to 1e.140 in float64; rescale"),
    ):
        broken = image.copy()
        broken[3, 4] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=words):
                mf.restore(broken, psf, backend=backend)


def test_saturated_voxels_without_weight_do_not_matter(rng):
    """Their light is found from what surrounds them: nearer to the truth than where they count."""
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    truth = np.zeros((40, 42))
    truth[8:30, 10:36], truth[18:20, 20:22] = 100, 3000
    full = rng.poisson(np.maximum(ndimage.convolve(truth, psf, mode="constant"), 0))
    image = np.minimum(full, 255).astype(np.uint8)
    errors = [
        np.linalg.norm(mf.restore(image, psf, weights=weights) - truth) for weights in (None, image < 255)
    ]
    assert (image == 255).sum() > 10
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("factor", [1e-3, 0.1, 0.3, 7.0, 1e5])
def test_dead_voxels_are_filled_alike_on_every_scale(factor, dtype, backend, rng, tol):
    """The mean of what is seen may be one of its values: which one fills them is no matter of rounding."""
    psf = np.array([0.858, 0.616, 0.859])
    cases = [([9, 7, 8, 6, 6, 6, 5, 9], [0, 1, 0, 1, 1, 0, 0, 1])]
    for _ in range(20):
        steps = rng.permutation([-3, -2, -1, 0, 0, 1, 2, 3])
        dead = np.argmax(steps == 0)  # one of two voxels with the value of the mean
        cases.append((rng.integers(10, 20) + steps, np.arange(8) != dead))
    for image, weights in cases:
        image, weights = np.array(image, dtype), np.array(weights, dtype)
        options = {"weights": weights, "initial": "image", "boundary": "wrap", "backend": backend}
        plain = mf.richardson_lucy(image, psf, 3, **options)
        scaled = mf.richardson_lucy(image * dtype.type(factor), psf, 3, **options) / dtype.type(factor)
        assert np.abs(scaled - plain).max() < tol("scale", dtype) * plain.max()
