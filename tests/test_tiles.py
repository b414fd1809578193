"""Richardson-Lucy in tiles of an image in memory; tests/test_cuda_tiles.py: because a GPU holds no more."""

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast._grid import Grid
from medeconv_fast.algorithms import _in_tiles
from medeconv_fast.algorithms._tile import Numbers, Restorer

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
PSF = mf.psf.gaussian((2.5, 2, 2), (1, 1, 1))


def scene(shape, seed=0):
    """Points and a box, blurred, with photon noise."""
    rng = np.random.default_rng(seed)
    truth = np.full(shape, 3.0)
    for _ in range(max(6, int(np.prod(shape)) // 800)):
        truth[tuple(rng.integers(n) for n in shape)] += rng.uniform(100, 900)
    truth[tuple(slice(n // 3, n // 2 + 1) for n in shape)] += 30
    psf = PSF if len(shape) == 3 else PSF.sum(0)
    truth = mf.convolve(truth, psf / psf.sum(), mode="same", boundary="reflect")
    return rng.poisson(np.maximum(truth, 0)).astype(np.float32)


def in_tiles(counts, function, *arguments, **options):
    with _in_tiles.asked(counts):
        return function(*arguments, **options)


def difference(tiled, whole):
    """Largest, in shares of the range."""
    return np.abs(tiled.astype(float) - whole).max() / np.ptp(whole)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_equal_to_the_whole(backend, boundary, tol):
    image, psf = scene((50, 61)), PSF.sum(0)
    options = {"num_iter": 6, "boundary": boundary, "backend": backend}
    whole = mf.richardson_lucy(image, psf, **options)
    tiled, info = in_tiles((2, 3), mf.richardson_lucy, image, psf, return_info=True, **options)
    assert tiled.dtype == np.float32
    assert 0 < difference(tiled, whole) < tol("seam", np.float32)
    tiling = info.settings["tiles"]
    assert tiling["counts"] == (2, 3) and tiling["core"] == (25, 21) and min(tiling["halo"]) > 2
    assert tiling["found_in"] is None and info.num_iter == 6 and info.warnings == []


WEIGHTS = np.random.default_rng(5).random((30, 34, 21)) + 0.5
WEIGHTS[3:5, 20, 7:9] = 0


@pytest.mark.parametrize(
    "options",
    [
        {"weights": WEIGHTS},
        {"readout_variance": 2.0, "damping": 1.5},
        {"readout_variance": np.full((30, 34, 21), 2.0), "damping": np.full((30, 34, 21), 1.5)},
        {"initial": "image", "background": 1.0},
        {"initial": np.full((30, 34, 21), 7.0)},
        {"negative": "clip"},
        {"negative": "shift", "regularizer": ("tv", 0.002)},
        {"back_projector": "wiener-butterworth", "num_iter": 2},
        {"acceleration": "heavy-ball", "num_iter": 5},
        {"engine": "direct", "num_iter": 3},
        {"normalize_psf": False},
    ],
    ids=lambda o: " ".join(o),
)
def test_options_mean_the_same(options, tol):
    image = scene((30, 34, 21)) - (8 if "negative" in options else 0)
    image[4, 20, 7] = 1e6 if "weights" in options else image[4, 20, 7]  # dead, and marked so
    options = {"num_iter": 8} | options
    whole, info = mf.richardson_lucy(image, PSF, return_info=True, **options)
    tiled, of_tiles = in_tiles((2, 2, 1), mf.richardson_lucy, image, PSF, return_info=True, **options)
    assert difference(tiled, whole) < tol("seam", np.float32)
    same = ("eps", "initial_level", "offset", "clipped", "num_iter", "weights", "damping", "initial")
    assert [of_tiles.settings[name] for name in same] == [info.settings[name] for name in same]
    assert of_tiles.warnings == info.warnings


def test_numbers_are_found_in_the_brightest_tile(tol):
    image = scene((40, 44, 21))
    image[25:35, 5:15] += 60
    stop = mf.stop.RelativeChange(0.02)
    options = {"acceleration": "biggs-andrews", "stop": stop}
    tiled, info = in_tiles((2, 2, 1), mf.richardson_lucy, image, PSF, return_info=True, **options)
    assert info.settings["tiles"]["found_in"] == ((20, 40), (0, 22), (0, 21))
    _, part = mf.richardson_lucy(image[20:, :22], PSF, return_info=True, **options)
    assert info.num_iter == part.num_iter > 2 and info.stopped_by == "relative-change"
    assert [entry["alpha"] for entry in info.trace] == [entry["alpha"] for entry in part.trace]
    numbers = Numbers(
        "richardson_lucy",
        {"num_iter": info.num_iter, "negative": "raise"},
        highest=float(image.max()),
        level=float(image.mean(dtype=float)),
        alphas=[entry["alpha"] for entry in info.trace],
    )
    everything = Grid(image.shape, image.shape, (0, 0, 0)).tile(0)
    whole = Restorer(numbers, PSF, periodic=False)(image, everything).core
    assert 0 < difference(tiled, whole) < tol("seam", np.float32)


def test_restore_in_tiles():
    image = scene((36, 40, 20))
    whole, info = mf.restore(image, PSF, return_info=True)
    tiled, of_tiles = in_tiles((1, 2, 1), mf.restore, image, PSF, return_info=True)
    assert of_tiles.settings["thinning"] is not None and of_tiles.settings["tiles"]["counts"] == (1, 2, 1)
    assert of_tiles.settings["noise"] == info.settings["noise"]
    error = np.linalg.norm(tiled - whole) / np.linalg.norm(whole)
    assert error < 0.2  # iterations are those that a part asks for


def test_an_image_of_nothing():
    dark = np.zeros((20, 24), np.float32)
    assert not in_tiles((2, 2), mf.richardson_lucy, dark, PSF.sum(0), 2).any()
