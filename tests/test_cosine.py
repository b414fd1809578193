"""Plans of the spectral engine by cosine transforms: images that go on as their mirror image.

Against scipy.ndimage, the padded engine, and dense matrices in float64 (the reference backend).
"""

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _blur
from medeconv_fast.backends import reference

ndimage = pytest.importorskip("scipy.ndimage")

# Every radix, several stages, primes that take Bluestein's way, and lengths around whole vectors.
LENGTHS = (2, 3, 4, 5, 7, 8, 11, 15, 16, 17, 30, 31, 32, 33, 37, 49, 64, 81, 139)
SHAPES = [
    *[(n, 6) for n in LENGTHS],
    *[(5, n) for n in LENGTHS],
    *[(n, 3, 4) for n in LENGTHS],
    *[(3, n, 5) for n in LENGTHS],
    *[(2, 3, n) for n in LENGTHS],
    (1, 9, 10),
    (9, 1, 10),
    (9, 10, 1),
    (9, 1),
    (7, 1, 1),
    (20, 33, 47),
    (65, 129),
]


def symmetric(rng, shape, dtype="float64"):
    taps = rng.standard_normal(shape)
    for axis in range(taps.ndim):
        taps = (taps + np.flip(taps, axis)) / 2
    return taps.astype(dtype)


def psf_of(rng, shape, dtype):
    """Of odd lengths, on short axes longer than the image, which it then meets more than once."""
    return symmetric(rng, [3 if n == 1 else 5 + 2 * (axis % 2) for axis, n in enumerate(shape)], dtype)


@pytest.fixture
def kernels(backend):
    made = mf.backends.resolve(backend)
    if not hasattr(made, "CosinePlan"):
        pytest.skip(f"SKIPPED: backend {backend!r} pads instead")
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution_is_scipys_and_its_own_transpose(shape, kernels, dtype, rng, tol):
    psf = psf_of(rng, shape, dtype)
    plan = kernels.CosinePlan(shape, dtype)
    transfer, chain = plan.transfer(psf, 2), plan.chain(2)
    x, y = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    hx, hty = np.full_like(x, np.nan), np.full_like(x, np.nan)
    chain.load(x)
    chain.sweep(transfer, "copy", keep=False, out=hx)
    chain.load(y, adjoint=True)
    chain.sweep(transfer, "copy", adjoint=True, keep=False, out=hty)
    expected = ndimage.convolve(x.astype(np.float64), psf.astype(np.float64), mode="reflect")
    # Relative to what the terms add up to: with taps of either sign the result may be smaller.
    scale = np.linalg.norm(x) * float(np.abs(psf).sum())
    assert np.linalg.norm(hx - expected) < tol("forward", dtype) * scale
    difference = np.vdot(hx.astype(np.float64), y) - np.vdot(x.astype(np.float64), hty)
    assert abs(difference) < tol("adjoint", dtype) * scale * np.linalg.norm(y)


@pytest.mark.parametrize("shape", [(20, 33, 47), (16, 64, 40), (37, 90), (128, 64)], ids=str)
def test_sweeps_with_all_that_may_be_asked_of_them(shape, kernels, dtype, rng, tol):
    """Two sweeps that feed each other, with sums and extrapolation, against the reference."""
    psf = np.abs(psf_of(rng, shape, dtype))
    image, weights, estimate, previous, held = (rng.uniform(0.5, 2, shape).astype(dtype) for _ in range(5))
    results = []
    for backend in (kernels, reference):
        plan = backend.CosinePlan(shape, dtype)
        transfer, chain = plan.transfer(psf), plan.chain()
        x, out, ahead = (np.empty_like(image) for _ in range(3))
        load = chain.load(estimate, previous=previous, alpha=0.3, extrapolated=x, sums=True)
        ratio = chain.sweep(
            transfer,
            "ratio",
            image=image,
            weights=weights,
            held_out=held,
            background=0.2,
            eps=1e-3,
            sums=True,
        )
        change = np.zeros_like(image)
        given = {
            "previous": previous,
            "alpha": 0.4,
            "extrapolated": ahead,
            "change": change,
            "factor": weights,
        }
        moved = chain.sweep(
            transfer, "multiply", adjoint=True, estimate=x, gain=weights, out=out, sums=True, **given
        )
        last = np.empty_like(image)
        chain.sweep(transfer, "residual", image=image, keep=False, out=last)
        results.append(((load, ratio, moved), (x, out, ahead, change, last)))
    (own_sums, own), (sums, expected) = results
    for some, wanted in zip(own, expected, strict=True):
        assert np.linalg.norm(some - wanted) < tol("formula", dtype) * np.linalg.norm(wanted)
    for some, wanted in zip(own_sums, sums, strict=True):
        np.testing.assert_allclose(some, wanted, rtol=tol("sums", dtype))


@pytest.mark.parametrize("shape", [(20, 33, 47), (6, 14, 18), (37, 53)], ids=str)
def test_no_bit_depends_on_threads_or_on_what_memory_held(shape, kernels, dtype, rng):
    psf = psf_of(rng, shape, dtype)
    plan = kernels.CosinePlan(shape, dtype)
    x = rng.standard_normal(shape).astype(dtype)
    results = []
    for threads, before in ((1, 1.0), (2, np.nan), (3, 1e30), (1, np.nan)):
        transfer = plan.transfer(psf, threads)
        chain, out = plan.chain(threads), np.empty_like(x)
        chain.load(np.full_like(x, before))
        chain.sweep(transfer, "copy", out=out)
        chain.load(x)
        chain.sweep(transfer, "copy", keep=False, out=out)
        results.append(out)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_a_psf_of_even_length_is_refused(kernels):
    plan = kernels.CosinePlan((8, 9), "float64")
    with pytest.raises(ValueError, match="odd lengths"):
        plan.transfer(np.ones((3, 4)))


def test_it_serves_where_it_may(kernels, rng, tol, dtype):
    """Reflecting images and PSFs that are symmetric along every axis; the same result as padded."""
    shape = (9, 20, 24)
    gaussian = mf.psf.gaussian((2, 3, 3), (1, 1, 1))
    skew = symmetric(rng, (3, 5, 5)) ** 2
    turned = skew + np.roll(skew, 1, axis=2)
    options = {"engine": "spectral", "backend": kernels.NAME, "dtype": dtype}
    x = rng.uniform(0.5, 2, shape)
    for psf, boundary, serves in (
        (gaussian, "reflect", True),
        (skew, "reflect", True),
        (turned, "reflect", False),
        (skew[:, :, 1:], "reflect", False),
        (gaussian, "nearest", False),
        (gaussian, "extended", False),
    ):
        blur = mf.Blur(psf, shape, boundary=boundary, **options)
        assert (blur.grid == shape) == serves
        assert ("cosines" in blur.explain()) == serves
        if boundary == "reflect":
            expected = ndimage.convolve(x, blur.psf.astype(np.float64), mode="reflect")
            assert np.linalg.norm(blur.forward(x) - expected) < tol("forward", dtype) * np.linalg.norm(
                expected
            )
    # A side that goes on beyond the image is not its mirror image.
    sides = ((True, False), (False, False), (False, False))
    assert mf.Blur(gaussian, shape, boundary="reflect", **options, _open_sides=sides).grid != shape
    # A line is cut into segments.
    assert "segments" in mf.Blur(np.ones(5), (100,), boundary="reflect", **options).explain()


def test_lengths_whose_transforms_take_long_are_padded_instead(kernels, rng, tol):
    """A large prime; unless the PSF reaches far, too."""
    options = {"boundary": "reflect", "engine": "spectral", "backend": kernels.NAME}
    for shape, taps, serves in (((509, 487), 9, False), ((512, 486), 9, True), ((61, 61, 61), 45, True)):
        psf = symmetric(rng, (taps,) * len(shape)) ** 2
        assert (mf.Blur(psf, shape, **options).grid == shape) == serves
    psf, x = symmetric(rng, (9, 9)) ** 2, rng.uniform(0.5, 2, (101, 103))
    blur = mf.Blur(psf, x.shape, **options)
    assert "cosines" not in blur.explain()
    expected = ndimage.convolve(x, blur.psf, mode="reflect")
    assert np.linalg.norm(blur.forward(x) - expected) < tol("forward", np.float64) * np.linalg.norm(expected)


def test_richardson_lucy_is_that_of_the_padded_engine(kernels, rng, tol, dtype, monkeypatch):
    """Accelerated, penalised, stopped; with the transpose, and with other back projectors."""
    psf = mf.psf.gaussian((2, 3, 3), (1, 1, 1))
    image = mf.simulate(rng.uniform(5, 50, (10, 17, 18)), psf, noise="poisson", seed=1).astype(dtype)
    cases = (
        {"acceleration": "biggs-andrews", "regularizer": ("tv", 0.002)},
        {"back_projector": "wiener-butterworth"},
        {"stop": "relative-change", "weights": rng.uniform(0.5, 1, image.shape)},
    )
    for options in cases:
        given = {"num_iter": 8, "boundary": "reflect", "backend": kernels.NAME, "engine": "spectral"}
        made = mf.richardson_lucy(image, psf, **given, **options)
        with monkeypatch.context() as patch:
            patch.setattr(_blur, "mirror_symmetric", lambda psf, centre: (psf, False))
            padded = mf.richardson_lucy(image, psf, **given, **options)
        assert np.linalg.norm(made - padded) < tol("transcription", dtype) * np.linalg.norm(padded)
        assert not np.array_equal(made, padded)  # it was another way
