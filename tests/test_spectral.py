"""Plans of the spectral engine on grids that `Blur` seldom makes: radices, primes, boxes, continuations.

Against numpy.fft in float64 (the reference backend) and scipy.fft, and the adjoint against itself.
"""

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.backends import reference

scipy_fft = pytest.importorskip("scipy.fft")

# Lengths with each radix, several stages, and large prime factors; on the axes of lines, images and volumes.
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 30, 49, 64, 70, 81, 90, 125, 128, 192, 343, 512, 540, 1000)
# Rows for which the GPU has kernels of their own, beside 512.
COMPILED = (256, 288, 320, 384, 576, 640, 768, 1024)
PRIMES = (11, 26, 31, 93, 121, 139)
GRIDS = [
    *[(n,) for n in (*LENGTHS, 2048, *PRIMES)],
    *[(n, 6) for n in (*LENGTHS, *PRIMES)],
    *[(5, n) for n in (*LENGTHS, *PRIMES, *COMPILED)],
    *[(n, 3, 4) for n in (1, 5, 16, 60, 22)],
    *[(3, n, 5) for n in (1, 5, 16, 60, 22)],
    *[(2, 3, n) for n in (1, 5, 16, 60, 22)],
    (8, 9, 10),
    (14, 15, 16),
]


def inside(grid, margin):
    """The grid without a margin on each side, where the axis is long enough."""
    return tuple((margin, n - margin) if n > 2 * margin else (0, n) for n in grid)


def psf_of(rng, grid):
    return rng.standard_normal([min(n, k) for n, k in zip(grid, (4, 3, 2), strict=False)])


@pytest.fixture
def kernels(backend):
    return mf.backends.resolve(backend)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_convolution_is_scipy_ffts_and_the_adjoint_its_transpose(grid, kernels, dtype, rng, tol):
    estimate_box, image_box = inside(grid, 1), inside(grid, 2)
    psf = psf_of(rng, grid).astype(dtype)
    centre = tuple(k // 2 for k in psf.shape)
    plan = kernels.SpectralPlan(grid, estimate_box, image_box, dtype)
    transfer, chain = plan.transfer(psf, centre), plan.chain()
    x = rng.standard_normal([b - a for a, b in estimate_box]).astype(dtype)
    y = rng.standard_normal([b - a for a, b in image_box]).astype(dtype)
    hx, hty = np.full_like(y, np.nan), np.full_like(x, np.nan)
    chain.load(x)
    chain.sweep(transfer, "copy", keep=False, out=hx)
    chain.load(y, adjoint=True)
    chain.sweep(transfer, "copy", adjoint=True, keep=False, out=hty)

    placed = np.zeros(grid)
    placed[np.ix_(*[(np.arange(k) - c) % n for k, c, n in zip(psf.shape, centre, grid, strict=True)])] = psf
    filled = np.zeros(grid)
    filled[tuple(slice(*r) for r in estimate_box)] = x
    axes = tuple(range(len(grid)))
    blurred = scipy_fft.ifftn(
        scipy_fft.fftn(filled, axes=axes) * scipy_fft.fftn(placed, axes=axes), axes=axes
    )
    expected = blurred.real[tuple(slice(*r) for r in image_box)]
    assert np.linalg.norm(hx - expected) < tol("forward", dtype) * np.linalg.norm(x) * np.linalg.norm(psf)
    gap = np.vdot(hx.astype(float), y.astype(float)) - np.vdot(x.astype(float), hty.astype(float))
    assert abs(gap) < tol("adjoint", dtype) * np.linalg.norm(x) * np.linalg.norm(y) * np.linalg.norm(psf)


# 2400: more butterflies than threads, by no multiple: what a thread wrote is read by another one.
@pytest.mark.parametrize(
    "grid",
    [(60,), (2400,), (12, 30), (30, 12), (10, 12, 14), *[(8, n) for n in (512, 540, *COMPILED)]],
    ids=str,
)
@pytest.mark.parametrize("formula", ["multiply", "add"])
def test_a_chain_is_the_references(grid, formula, kernels, dtype, rng, tol, relative_error):
    """Four sweeps that feed each other, with every operand, on boxes of their own and a periodic axis."""
    length = tuple(n - 5 for n in grid)
    whole = tuple((0, n) for n in length)
    reach = ((2, 1),) * len(grid)
    psf = (rng.random((4,) * len(grid)) / 4 ** len(grid)).astype(dtype)
    image, weights, held_out, partial = ((rng.random(length) + 0.5).astype(dtype) for _ in range(4))
    start = (rng.random(length) + 0.5).astype(dtype)
    results = []
    for backend in (reference, kernels):
        plan = backend.SpectralPlan(grid, whole, whole, dtype, reach)
        transfer, chain = plan.transfer(psf, (1,) * len(grid)), plan.chain()
        estimate, previous, change = start.copy(), np.full(length, 0.25, dtype), np.zeros(length, dtype)
        ahead, sums = np.zeros(length, dtype), []
        sums += chain.load(estimate, previous=previous, alpha=0.5, extrapolated=ahead, sums=True)
        for _ in range(2):
            sums += chain.sweep(
                transfer, "ratio", image=image, weights=weights, background=0.1, eps=1e-3, held_out=held_out,
                held_out_scale=0.5, partial=partial, sums=True, unit=0.5,
            )  # fmt: skip
            sums += chain.sweep(
                transfer, formula, adjoint=True, out=estimate, estimate=estimate, gain=weights, change=change,
                previous=previous, alpha=0.25, extrapolated=ahead, sums=True,
            )  # fmt: skip
        results.append([estimate, change, ahead, np.array(sums)])
    for expected, got in zip(*results, strict=True):
        assert relative_error(got, expected) < tol("formula", dtype)


@pytest.mark.parametrize("grid", [(64,), (16, 20), (5, 8, 9)], ids=str)
def test_plain_and_general_kernels_agree_to_the_last_bit(grid, kernels, dtype, rng):
    """Asking for sums must not move a result."""
    whole = tuple((0, n) for n in grid)
    plan = kernels.SpectralPlan(grid, whole, whole, dtype)
    transfer, chain = plan.transfer(psf_of(rng, grid).astype(dtype), (0,) * len(grid)), plan.chain()
    x, image = rng.random(grid).astype(dtype), rng.random(grid).astype(dtype)
    made = []
    for sums in (False, True):
        out, back = np.empty_like(x), np.empty_like(x)
        chain.load(x)
        chain.sweep(transfer, "ratio", image=image, eps=0.1, out=out, sums=sums)
        chain.sweep(transfer, "multiply", adjoint=True, keep=False, estimate=x, out=back, sums=sums)
        made.append((out, back))
    for plain, general in zip(*made, strict=True):
        np.testing.assert_array_equal(plain, general)


@pytest.mark.parametrize("grid", [(15,), (12, 9), (9, 8), (6, 5, 8)], ids=str)
def test_a_symmetric_psf_needs_the_real_part_only(grid, kernels, dtype, rng, tol, relative_error):
    whole = tuple((0, n) for n in grid)
    half = rng.random((3,) * len(grid))
    psf = (half + np.flip(half)).astype(dtype)
    x = rng.random(grid).astype(dtype)
    made = []
    for symmetric in (False, True):
        plan = kernels.SpectralPlan(grid, whole, whole, dtype, (), symmetric)
        transfer, chain, out = plan.transfer(psf, (1,) * len(grid)), plan.chain(), np.empty_like(x)
        chain.load(x)
        chain.sweep(transfer, "copy", keep=False, out=out)
        made.append(out)
        size = plan.workspace_bytes
    assert relative_error(made[1], made[0]) < tol("forward", dtype)
    complete = kernels.SpectralPlan(grid, whole, whole, dtype).workspace_bytes
    assert size <= complete
    if kernels.NAME in ("cpp", "cuda"):  # the others keep all of it
        with pytest.raises(ValueError, match="expected a complete one, got one of a symmetric psf"):
            plan.wiener_transfer(transfer, transfer, 0.1)


@pytest.mark.parametrize("grid", [(16,), (31,), (9, 14), (6, 5, 8)], ids=str)
def test_wiener_and_cross_validation(grid, kernels, dtype, rng, tol, relative_error):
    box = inside(grid, 1)
    psf = (rng.random((3,) * len(grid)) + np.eye(3)[1]).astype(dtype)
    edge = np.zeros((3,) * len(grid), dtype)
    edge.flat[0], edge.flat[-1] = 1, -2
    image = rng.random([b - a for a, b in box]).astype(dtype)
    balances = np.geomspace(1e-3, 10, 7)  # not a multiple of what a kernel takes at once
    made = []
    for backend in (reference, kernels):
        plan = backend.SpectralPlan(grid, box, box, dtype)
        otf, reg = plan.transfer(psf, (1,) * len(grid)), plan.transfer(edge, (1,) * len(grid))
        out, chain = np.empty_like(image), plan.chain()
        chain.load(image)
        chain.sweep(plan.wiener_transfer(otf, reg, 0.3), "copy", keep=False, out=out)
        made.append([out, *plan.gcv(image, otf, reg, balances)])
    for expected, got in zip(*made, strict=True):
        assert relative_error(got, expected) < tol("wiener", dtype)


@pytest.mark.parametrize("taps", [1, 2, 500, 9001])
@pytest.mark.parametrize("periodic", [False, True])
def test_lines(taps, periodic, kernels, dtype, rng, tol, relative_error):
    """Segments of every length; the last one takes its taps in two parts on a GPU."""
    n = 3 * taps // 2 + 700
    psf = (rng.standard_normal(taps) / np.sqrt(taps)).astype(dtype)
    x, y = rng.standard_normal(n).astype(dtype), rng.standard_normal(n).astype(dtype)
    made = []
    for backend in (reference, kernels):
        plan = backend.OverlapPlan(((0, n),), ((0, n),), periodic, dtype)
        transfer, chain = plan.transfer(psf, (taps // 3,)), plan.chain()
        hx, hty, weighted = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        chain.load(x)
        chain.sweep(transfer, "copy", out=hx)
        chain.load(y, adjoint=True)
        chain.sweep(transfer, "copy", adjoint=True, keep=False, out=hty)
        chain.load(x)
        sums = chain.sweep(
            transfer, "residual", keep=False, image=y, weights=abs(x), partial=y, out=weighted, sums=True
        )
        made.append([hx, hty, weighted, np.array(sums)])
    for expected, got in zip(*made, strict=True):
        assert relative_error(got, expected) < tol("formula", dtype)
