"""Total-variation denoising against scikit-image, its dual problem, and a naive loop."""

import importlib

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.backends import reference

module = importlib.import_module("medeconv_fast.algorithms._total_variation")


def denoise(z, weight, iterations, *, steepness=None, lowest=None, num_threads=1, calls=1, backend="auto"):
    steepness, kernels = steepness or (1.0,) * z.ndim, mf.backends.resolve(backend)
    options = {"lowest": lowest, "backend": kernels, "num_threads": num_threads}
    denoiser = module.Denoiser(z, weight, steepness, **options)
    for _ in range(calls):
        x = denoiser(z, iterations=iterations)
    return x


def gradient(x, steepness):
    out = []
    for axis, factor in enumerate(steepness):
        part = np.zeros_like(x)
        inner = tuple(slice(0, -1) if a == axis else slice(None) for a in range(x.ndim))
        part[inner] = np.diff(x, axis=axis) * factor
        out.append(part)
    return np.array(out)


def transposed_gradient(p, steepness):
    out = np.zeros(p.shape[1:])
    for axis, factor in enumerate(steepness):
        for at in np.ndindex(out.shape):
            if at[axis] + 1 < out.shape[axis]:
                after = tuple(i + (a == axis) for a, i in enumerate(at))
                out[after] += factor * p[axis][at]
                out[at] -= factor * p[axis][at]
    return out


def naive(z, weight, iterations, steepness, lowest):
    """Beck and Teboulle 2009, algorithm FGP, as it stands there, in float64."""
    p = r = np.zeros((z.ndim, *z.shape))
    t = 1.0

    def primal(q):
        return np.maximum(z - weight * transposed_gradient(q, steepness), lowest)

    for _ in range(iterations):
        q = r + gradient(primal(r), steepness) / (4 * np.sum(np.square(steepness)) * weight)
        new = q / np.maximum(1, np.sqrt((q**2).sum(0)))
        t_new = (1 + np.sqrt(1 + 4 * t**2)) / 2
        r = new + (t - 1) / t_new * (new - p)
        p, t = new, t_new
    return primal(p)


def objective(x, z, weight, steepness):
    return 0.5 * ((x - z) ** 2).sum() + weight * np.sqrt((gradient(x, steepness) ** 2).sum(0)).sum()


# The last ones have more slices, rows and columns than a piece of work takes.
SHAPES = [
    (17,),
    (1500,),
    (6, 7),
    (1, 9),
    (5, 1),
    (3, 4, 5),
    (4, 1, 6),
    (1, 5, 1),
    (2, 6, 1),
    (40, 35),
    (21, 9, 35),
]


@pytest.mark.parametrize("lowest", [None, 0.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_naive(shape, lowest, dtype, backend, rng, tol, relative_error):
    z = rng.normal(0.5, 1, shape).astype(dtype)
    # An axis of length 1 has no differences, and does not count in the step.
    steepness = tuple(rng.random(len(shape)) + 0.5)
    counted = tuple(s if n > 1 else 0.0 for s, n in zip(steepness, shape, strict=True))
    expected = naive(z.astype(float), 0.3, 9, counted, -np.inf if lowest is None else lowest)
    options = {"steepness": steepness, "lowest": lowest, "backend": backend}
    got = [denoise(z, 0.3, 9, num_threads=threads, **options) for threads in (1, 3)]
    assert got[0].dtype == dtype
    assert relative_error(got[0], expected) < tol("transcription", dtype)
    np.testing.assert_array_equal(*got)


@pytest.mark.parametrize("shape", [(40,), (20, 24), (8, 9, 10)], ids=str)
def test_scikit_image(shape, backend, rng, relative_error):
    """Its algorithm is Chambolle's of 2004, run to the end."""
    restoration = pytest.importorskip("skimage.restoration")
    z = np.cumsum(rng.normal(0, 1, shape), axis=0)
    expected = restoration.denoise_tv_chambolle(z, weight=0.5, eps=1e-12, max_num_iter=5000)
    assert relative_error(denoise(z, 0.5, 1500, backend=backend), expected) < 1e-4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backends_agree(shape, backend, dtype, rng, tol, relative_error):
    """Every value of a step, and the threads' share of it."""
    kernels, components = mf.backends.resolve(backend), sum(n > 1 for n in shape)
    z = (rng.normal(0.5, 1, shape) * 10).astype(dtype)
    weight, step = (tuple(rng.random(len(shape)) + 0.5) for _ in range(2))
    start = rng.normal(0, 1, (2, components, *shape)).astype(dtype)
    for component, axis in enumerate(a for a in range(len(shape)) if shape[a] > 1):
        start[(slice(None), component, *[slice(None)] * axis, -1)] = 0  # as every dual is at an end

    def made(kernels, threads):
        ahead, dual = start.copy()
        out = np.empty_like(z)
        for momentum in (0.3, 0.5):
            kernels.denoise_step(z, ahead, dual, weight, step, momentum, -2.0, num_threads=threads)
        kernels.denoised(z, dual, out, weight, -2.0, num_threads=threads)
        return ahead, dual, out

    got = made(kernels, 1)
    for one, other, again in zip(got, made(reference, 1), made(kernels, 3), strict=True):
        assert relative_error(one, other) < tol("formula", dtype)
        np.testing.assert_array_equal(one, again)
    assert got[2].min() >= -2
    for component, axis in enumerate(a for a in range(len(shape)) if shape[a] > 1):
        assert not np.any(np.take(got[0][component], -1, axis))


def test_later_calls_begin_where_the_one_before_ended(rng):
    z = rng.normal(0, 1, (20, 22))
    exact = objective(denoise(z, 0.5, 3000), z, 0.5, (1, 1))
    far = [objective(denoise(z, 0.5, 5, calls=calls), z, 0.5, (1, 1)) - exact for calls in (1, 3, 20)]
    assert far[0] > far[1] > far[2] > -1e-9
    assert far[2] < 0.02 * far[0]


def test_single_voxel_and_flat(rng):
    np.testing.assert_array_equal(denoise(np.full((1, 1), -3.0), 0.5, 3), [[-3]])
    np.testing.assert_array_equal(denoise(np.full((1, 1), -3.0), 0.5, 3, lowest=0.0), [[0]])
    np.testing.assert_array_equal(denoise(np.full((5, 6), 2.0), 0.5, 3), np.full((5, 6), 2.0))
