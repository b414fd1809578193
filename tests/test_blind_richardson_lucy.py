"""Blind Richardson-Lucy against a plain transcription of its formulas, and its promises."""

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
PAD = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "wrap": "wrap", "zero": "constant"}
# The PSF's step as sums over its taps, and through transforms.
WAYS = {"sums": 10**9, "transforms": 0}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    from medeconv_fast.algorithms import _blind_richardson_lucy as module

    monkeypatch.setattr(module, "MOST_SUMMED_TAPS", WAYS[request.param])
    return request.param


def mirrored(array, axes):
    """array[c - r] at c + r on `axes`, element by element; 0 where that lies outside."""
    out = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        other = tuple(
            2 * (n // 2) - i if a in axes else i
            for a, (i, n) in enumerate(zip(index, array.shape, strict=True))
        )
        if all(0 <= o < n for o, n in zip(other, array.shape, strict=True)):
            out[index] = array[other]
    return out


def transcription(
    dense_blur, image, psf, iterations, boundary, *, weights=None, background=0.0, support=None, mirrors=(),
    psf_iterations=1, image_iterations=1,
):  # fmt: skip
    """The docstring's formulas in float64: H is a matrix, X one whose columns are shifted estimates."""
    y = image.ravel().astype(float)
    w = np.ones_like(y) if weights is None else weights.ravel().astype(float)
    allowed = np.ones(psf.shape, bool) if support is None else support.copy()
    for axes in mirrors:
        allowed &= mirrored(allowed, axes)

    def tied(values):
        for axes in mirrors:
            values = (values + mirrored(values, axes)) / 2
        return values

    h = tied(np.where(allowed, psf, 0.0))
    h = h / h.sum()
    matrix, estimate_shape, frame = dense_blur(h, image.shape, boundary)
    x = np.full(int(np.prod(estimate_shape)), (w * y).sum() / w.sum() - background)
    for _ in range(iterations):
        matrix, _, _ = dense_blur(h, image.shape, boundary)
        seen = matrix.T @ w
        trusted = seen >= 0.01 * w.max()
        for _ in range(image_iterations):
            ratio = w * y / (matrix @ x + background)
            x[trusted] *= (matrix.T @ ratio)[trusted] / seen[trusted]
        around = [(k - 1 - k // 2, k // 2) for k in h.shape]
        wide = x.reshape(estimate_shape)
        if boundary != "extended":
            wide = np.pad(wide, around, mode=PAD[boundary])
        windows = np.lib.stride_tricks.sliding_window_view(wide, image.shape)
        shifted = np.stack(
            [
                windows[tuple(k - 1 - j for j, k in zip(tap, h.shape, strict=True))].ravel()
                for tap in np.ndindex(h.shape)
            ],
            axis=1,
        )  # fmt: skip
        seen = tied((shifted.T @ w).reshape(h.shape))
        for _ in range(psf_iterations):
            ratio = w * y / (shifted @ h.ravel() + background)
            correction = tied((shifted.T @ ratio).reshape(h.shape))
            h = np.where(allowed, h * correction / seen, 0)
        x = x * h.sum()
        h = h / h.sum()
    return x.reshape(estimate_shape)[frame], h


CASES = [((21,), (6,)), ((12, 15), (5, 4)), ((6, 7, 8), (3, 2, 5)), ((1, 9, 8), (1, 3, 4))]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES, ids=str)
def test_transcription(boundary, shape, psf_shape, dtype, backend, way, rng, tol, relative_error, dense_blur):
    psf = rng.random(psf_shape) + 0.1
    image = (rng.random(shape) * 100 + 1).astype(dtype)
    mask = rng.random(psf_shape) < 0.8
    mask[tuple(k // 2 for k in psf_shape)] = True
    last = len(shape) - 1
    cases = [
        ({}, {}),
        ({"background": 0.75, "support": mask}, {}),
        (
            {"weights": rng.random(shape), "background": 0.5, "psf_iterations": 2, "image_iterations": 3},
            {"symmetry": last},
        ),
        ({}, {"symmetry": ("point", 0), "support": mask}),
    ]
    mirrors = {None: (), last: ((last,),), ("point", 0): (tuple(range(len(shape))), (0,))}
    for both, symmetry in cases:
        support = symmetry.get("support")
        got = mf.blind_richardson_lucy(image, psf, 6, boundary=boundary, backend=backend, **both, **symmetry)
        expected = transcription(
            dense_blur, image, psf, 6, boundary, mirrors=mirrors[symmetry.get("symmetry")],
            **({"support": support} if support is not None else {}), **both,
        )  # fmt: skip
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == dtype
            assert relative_error(one, other) < tol("transcription", dtype)
