"""Regularizers: what they multiply a correction by, against the slope of the penalty itself."""

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.backends import reference

KINDS = ["tv", "tikhonov", "good-roughness", "entropy"]
SHAPES = [(33,), (1,), (7, 16), (5, 19), (4, 5, 17), (6, 1, 33), (1, 9, 20), (3, 4, 1), (11, 2, 16)]
SHAPES += [(67, 9, 35)]  # more slices, rows and columns than a block of a GPU takes


def differences(x, spacing):
    """Along every axis longer than 1, to the next voxel; in units of the smallest voxel."""
    real = [a for a in range(x.ndim) if x.shape[a] > 1]
    smallest = min((spacing[a] for a in real), default=1)
    for a in real:
        difference = np.zeros(x.shape)
        inner = [slice(None)] * x.ndim
        inner[a] = slice(0, -1)
        difference[tuple(inner)] = np.diff(x, axis=a) * (smallest / spacing[a])
        yield difference


def penalty_value(kind, x, spacing, level):
    if kind == "entropy":
        return np.sum(x * np.log(x / level) - x)
    of = np.sqrt(x) if kind == "good-roughness" else x
    square = sum((d**2 for d in differences(of, spacing)), np.zeros(x.shape))
    if kind == "tv":
        return np.sqrt(square + (1e-5 * level) ** 2).sum()
    return square.sum() * (4 if kind == "good-roughness" else 1 / level)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9,), (5, 6), (3, 4, 5)])
def test_slope_is_that_of_the_penalty(kind, shape, rng):
    """Central differences of the penalty, written out above, give 1 / (1 + weight dU/dx)."""
    x = rng.random(shape) + 0.5
    spacing = tuple(rng.random(len(shape)) + 0.5)
    weight, level, step = 0.03, 0.8, 1e-6
    out = np.empty(shape)
    reference.penalty(kind, x, out, spacing, weight, level)
    for at in np.ndindex(shape):
        more, less = x.copy(), x.copy()
        more[at] += step
        less[at] -= step
        slope = (penalty_value(kind, more, spacing, level) - penalty_value(kind, less, spacing, level)) / (
            2 * step
        )
        assert out[at] == pytest.approx(1 / max(1 + weight * slope, 0.1), rel=1e-6), at


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_backends_agree(kind, shape, backend, dtype, rng, tol, relative_error):
    kernels = mf.backends.resolve(backend)
    x = (rng.random(shape) * 10).astype(dtype)
    x[rng.random(shape) < 0.1] = 0
    spacing = tuple(rng.random(len(shape)) + 0.5)
    got, expected = np.empty_like(x), np.empty_like(x)
    for weight in (0.002, 0.5):
        kernels.penalty(kind, x, got, spacing, weight, 4.0)
        reference.penalty(kind, x, expected, spacing, weight, 4.0)
        assert relative_error(got, expected) < tol("formula", dtype)
        assert np.isfinite(got).all() and got.max() <= 10.001
    again = np.empty_like(x)
    for threads in (1, 3):
        kernels.penalty(kind, x, again, spacing, 0.5, 4.0, num_threads=threads)
        np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_estimate_is_not_changed(kind, backend, dtype):
    kernels = mf.backends.resolve(backend)
    x = np.full((5, 6, 20), 3.0, dtype)
    out = np.empty_like(x)
    kernels.penalty(kind, x, out, (1.0, 1.0, 1.0), 0.1, 3.0)
    np.testing.assert_allclose(out, 1, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_restoration_is_smoother(kind, backend, rng):
    """Of noise alone: the larger the weight, the smaller the penalty of the result; at weight 0 nothing."""
    image = rng.poisson(30.0, (40, 50)).astype(float)
    psf = mf.psf.gaussian(fwhm=(2.5, 2.5), voxel_size=(1.0, 1.0))
    weights = {"tv": 0.02, "tikhonov": 0.05, "good-roughness": 0.01, "entropy": 0.05}
    values = []
    for weight in (0, weights[kind] / 4, weights[kind]):
        estimate = mf.richardson_lucy(image, psf, 15, regularizer=(kind, weight), backend=backend)
        values.append(penalty_value(kind, np.maximum(estimate, 1e-9), (1, 1), 30.0))
    assert values[2] < values[1] < values[0]
    plain = mf.richardson_lucy(image, psf, 15, backend=backend)
    unweighted = mf.richardson_lucy(image, psf, 15, regularizer=(kind, 0), backend=backend)
    np.testing.assert_array_equal(plain, unweighted)


@pytest.mark.parametrize("kind", ["tv", "tikhonov", "good-roughness"])
def test_an_axis_of_one_voxel_changes_nothing(kind, rng):
    image, psf = rng.poisson(rng.random((24, 26)) * 50).astype(float), np.ones((3, 3))
    flat = mf.richardson_lucy(image, psf, 8, regularizer=(kind, 0.01))
    for axis in range(3):
        deep = mf.richardson_lucy(
            np.expand_dims(image, axis), np.expand_dims(psf, axis), 8, regularizer=(kind, 0.01)
        )
        assert np.abs(deep.squeeze() - flat).max() < 1e-10 * flat.max()


def test_gradients_follow_the_voxel_size(rng):
    """A volume whose slices are far apart is hardly smoothed across them."""
    image = np.repeat(rng.poisson(50.0, (12, 1, 1)), 12, 1).repeat(12, 2).astype(float)
    psf = np.ones((1, 1, 1))
    near = mf.richardson_lucy(image, psf, 10, regularizer=("tv", 0.1), voxel_size=(1, 1, 1))
    far = mf.richardson_lucy(image, psf, 10, regularizer=("tv", 0.1), voxel_size=(50, 1, 1))
    assert np.std(near[:, 6, 6]) < 0.9 * np.std(image[:, 6, 6])
    assert np.abs(far - image).max() < 0.02 * image.max()
