"""mf.ops: convolution, transposed convolution and their gradients, against scipy.signal, dense matrices, the
reference backend and themselves. Against torch: test_conv_torch.py; ONNX's cases: test_conv_onnx.py.
"""

import concurrent.futures
import inspect
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import ops
from medeconv_fast.ops import _call, _geometry, _spectral

hypothesis = pytest.importorskip("hypothesis", reason="SKIPPED: hypothesis is not installed (extra test)")
signal = pytest.importorskip("scipy.signal")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

MODES = ("zeros", "reflect", "replicate", "circular")
NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}

# Name: shapes of x and w, options of `conv`; every padding is possible under every mode.
CASES = {
    "1d": ((2, 3, 17), (4, 3, 5), {"padding": 2}),
    "1d-even": ((3, 2, 16), (2, 2, 4), {"padding": ((2, 1),)}),
    "1d-strided": ((2, 4, 19), (6, 2, 4), {"stride": 3, "padding": ((2, 3),), "dilation": 2, "groups": 2}),
    "1d-skips": ((1, 2, 23), (3, 2, 2), {"stride": 5}),
    "1d-one-voxel": ((2, 3, 1), (4, 3, 1), {}),
    "1d-one-to-one": ((1, 1, 40), (1, 1, 9), {"padding": ((4, 4),)}),
    "2d": ((2, 3, 9, 11), (4, 3, 3, 3), {"padding": 1}),
    "2d-pointwise": ((2, 5, 6, 7), (3, 5, 1, 1), {}),
    "2d-same": ((1, 2, 8, 9), (3, 2, 4, 2), {"padding": "same", "dilation": (1, 3)}),
    "2d-strided": ((2, 2, 12, 13), (5, 2, 4, 3), {"stride": (2, 3), "padding": ((1, 2), (0, 1))}),
    "2d-depthwise": ((2, 6, 10, 9), (6, 1, 5, 3), {"padding": (2, 1), "groups": 6}),
    "2d-multiplier": ((2, 3, 10, 8), (6, 1, 2, 3), {"padding": (1, 1), "groups": 3, "stride": (1, 2)}),
    "2d-grouped": ((1, 6, 7, 12), (4, 3, 3, 2), {"padding": ((2, 0), (1, 1)), "groups": 2, "dilation": 2}),
    "2d-pointwise-of-16": ((2, 5, 6, 16), (20, 5, 1, 1), {}),
    "2d-halves": ((2, 3, 9, 33), (10, 3, 2, 2), {"stride": 2}),
    "2d-pointwise-padded": ((2, 4, 8, 16), (3, 4, 1, 1), {"padding": ((1, 2), (3, 1))}),
    "2d-depthwise-strided": ((2, 5, 17, 23), (5, 1, 3, 5), {"padding": 2, "groups": 5, "stride": 2}),
    "2d-depthwise-whole": ((2, 32, 7, 7), (32, 1, 7, 7), {"groups": 32}),
    "2d-many": ((3, 40, 5, 5), (80, 40, 3, 3), {"padding": 1}),
    "2d-row": ((1, 2, 1, 21), (3, 2, 1, 6), {"padding": ((0, 0), (5, 2))}),
    "2d-column": ((1, 2, 21, 1), (3, 2, 6, 1), {"padding": ((5, 2), (0, 0))}),
    "2d-to-one": ((1, 16, 14, 18), (1, 16, 3, 3), {"padding": 1}),
    "2d-whole": ((2, 2, 5, 6), (3, 2, 5, 6), {}),
    "2d-wide": ((1, 17, 8, 19), (18, 17, 3, 3), {"padding": 1}),
    "3d": ((2, 2, 5, 6, 7), (3, 2, 3, 3, 3), {"padding": 1}),
    "3d-even": ((1, 2, 6, 5, 8), (2, 2, 2, 4, 2), {"padding": ((1, 0), (2, 1), (0, 1))}),
    "3d-strided": (
        (1, 4, 8, 7, 9),
        (4, 2, 3, 2, 4),
        {"stride": (2, 1, 3), "padding": 1, "dilation": (1, 2, 2), "groups": 2},
    ),
    "3d-halves": ((1, 4, 5, 6, 32), (6, 2, 2, 2, 2), {"stride": (2, 3, 2), "groups": 2}),
    "3d-one-to-one": ((1, 1, 9, 8, 10), (1, 1, 5, 5, 5), {"padding": 2}),
    "3d-plane": ((1, 2, 1, 9, 8), (2, 2, 1, 3, 3), {"padding": (0, 1, 1)}),
}
ONE_EACH = [(case, mode) for i, case in enumerate(CASES) for mode in (MODES[i % 4],)]


def spread(value, ndim):
    return tuple(value) if isinstance(value, tuple) else (value,) * ndim


def pairs_of(options, kernel):
    """The options' padding as (low, high) pairs."""
    padding, ndim = options.get("padding", 0), len(kernel)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(spread(options.get("dilation", 1), ndim), kernel, strict=True)]
        return [(r // 2, r - r // 2) for r in reach]
    return [p if isinstance(p, tuple) else (p, p) for p in spread(padding, ndim)]


def slow_conv(x, w, bias=None, **options):
    """Convolution in float64 from np.pad and scipy.signal.correlate, one pair of channels at a time."""
    x, w = np.asarray(x, float), np.asarray(w, float)
    ndim = w.ndim - 2
    stride = spread(options.get("stride", 1), ndim)
    dilation = spread(options.get("dilation", 1), ndim)
    groups = options.get("groups", 1)
    mode = NUMPY_MODE[options.get("padding_mode", "zeros")]
    padded = np.pad(x, [(0, 0), (0, 0), *pairs_of(options, w.shape[2:])], mode=mode)
    dilated = np.zeros((*w.shape[:2], *(d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True))))
    dilated[(..., *(slice(None, None, d) for d in dilation))] = w
    step = tuple(slice(None, None, s) for s in stride)
    items = []
    for item in padded:
        channels = []
        for o, taps in enumerate(dilated):
            first = o // (len(w) // groups) * w.shape[1]
            total = 0 if bias is None else float(bias[o])
            for c, tap in enumerate(taps):
                total = total + signal.correlate(item[first + c], tap, "valid", method="direct")[step]
            channels.append(total)
        items.append(channels)
    return np.array(items)


def output_padding_for(shape, w_shape, grad_shape, options):
    """What conv_transpose must be told to get back to `shape`."""
    ndim = len(w_shape) - 2
    stride, dilation = (spread(options.get(name, 1), ndim) for name in ("stride", "dilation"))
    shortest = [
        (n - 1) * s - low - high + d * (k - 1) + 1
        for n, s, (low, high), d, k in zip(
            grad_shape[2:], stride, pairs_of(options, w_shape[2:]), dilation, w_shape[2:], strict=True
        )
    ]
    return tuple(n - m for n, m in zip(shape[2:], shortest, strict=True))


def transposed_options(shape, w_shape, grad_shape, options):
    return {**options, "output_padding": output_padding_for(shape, w_shape, grad_shape, options)}


def case_arrays(case, rng, dtype, mode="zeros"):
    """x, w, a gradient of the result, and the options with their mode."""
    shape, w_shape, options = CASES[case]
    options = {**options, "padding_mode": mode}
    x = rng.standard_normal(shape).astype(dtype)
    w = rng.standard_normal(w_shape).astype(dtype)
    grad = rng.standard_normal(slow_conv(np.zeros(shape), np.zeros(w_shape), **options).shape).astype(dtype)
    return x, w, grad, options


def dot(a, b):
    return np.vdot(np.asarray(a, float), np.asarray(b, float))


def everything(x, w, grad, options, **more):
    """All five results of one layer."""
    through = transposed_options(x.shape, w.shape, grad.shape, options)
    return {
        "conv": ops.conv(x, w, **options, **more),
        "conv_input_grad": ops.conv_input_grad(grad, w, x.shape, **options, **more),
        "conv_weight_grad": ops.conv_weight_grad(grad, x, w.shape, **options, **more),
        "conv_transpose": ops.conv_transpose(grad, w, **through, **more),
        "conv_transpose_input_grad": ops.conv_transpose_input_grad(x, w, grad.shape, **through, **more),
        "conv_transpose_weight_grad": ops.conv_transpose_weight_grad(x, grad, w.shape, **through, **more),
    }


# Values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_against_scipy(case, mode, dtype, backend, rng, tol):
    x, w, _, options = case_arrays(case, rng, dtype, mode)
    bias = rng.standard_normal(len(w)).astype(dtype)
    expected = slow_conv(x, w, bias, **options)
    scale = slow_conv(abs(x), abs(w), abs(bias), **options).max()
    for exact, bound in ((True, "conv"), (False, "winograd")):
        got = ops.conv(x, w, bias, **options, exact=exact, backend=backend)
        assert got.dtype == dtype
        assert got.shape == expected.shape
        assert abs(got - expected).max() < tol(bound, dtype) * scale


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_adjoint(case, mode, dtype, backend, rng, tol):
    """<Hx, y> = <x, H'y> = <w, the weight's gradient>, for the convolution and for the transposed one."""
    x, w, grad, options = case_arrays(case, rng, dtype, mode)
    got = everything(x, w, grad, options, backend=backend, exact=True)
    value = dot(got["conv"], grad)
    scale = dot(slow_conv(abs(x), abs(w), **options), abs(grad))
    for name, other in (
        ("conv_input_grad", x),
        ("conv_weight_grad", w),
        ("conv_transpose", x),
        ("conv_transpose_input_grad", grad),
        ("conv_transpose_weight_grad", w),
    ):
        assert got[name].dtype == dtype
        assert got[name].shape == other.shape
        assert abs(dot(got[name], other) - value) < tol("conv_adjoint", dtype) * scale, name


# Every entry of the matrix is looked at, so these are small.
DENSE = {
    "1d-even": ((2, 2, 9), (2, 2, 4), {"padding": ((2, 1),)}),
    "1d-strided": ((2, 4, 12), (6, 2, 4), {"stride": 3, "padding": ((2, 3),), "dilation": 2, "groups": 2}),
    "1d-skips": ((1, 2, 13), (3, 2, 2), {"stride": 5}),
    "2d-strided": ((2, 2, 6, 7), (3, 2, 4, 3), {"stride": (2, 3), "padding": ((1, 2), (0, 1))}),
    "2d-grouped": ((1, 4, 5, 6), (2, 2, 3, 2), {"padding": ((2, 0), (1, 1)), "groups": 2, "dilation": 2}),
    "2d-depthwise": ((2, 3, 6, 5), (3, 1, 5, 3), {"padding": (2, 1), "groups": 3}),
    "3d-even": ((1, 2, 3, 4, 3), (2, 2, 2, 4, 2), {"padding": ((1, 0), (2, 1), (0, 1))}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", DENSE)
def test_dense_matrix(case, mode, backend, rng):
    """The transposes, entry by entry: unit vectors as a batch give the matrix, and its transpose."""
    shape, w_shape, options = DENSE[case]
    options = {**options, "padding_mode": mode}
    w = rng.integers(-4, 5, w_shape).astype(float)
    n = math.prod(shape[1:])
    matrix = slow_conv(np.eye(n).reshape(n, *shape[1:]), w, **options)
    grad_shape = (1, *matrix.shape[1:])
    m = math.prod(grad_shape[1:])
    units = np.eye(m).reshape(m, *grad_shape[1:])
    transpose = ops.conv_input_grad(units, w, (m, *shape[1:]), **options, backend=backend)
    assert np.array_equal(transpose.reshape(m, n), matrix.reshape(n, m).T)
    through = transposed_options(shape, w_shape, grad_shape, options)
    assert np.array_equal(ops.conv_transpose(units, w, **through, backend=backend), transpose)
    # The weight's gradient, likewise: it is linear in the weight.
    x = rng.integers(-4, 5, shape).astype(float)
    grad = rng.integers(-4, 5, (shape[0], *grad_shape[1:])).astype(float)
    got = ops.conv_weight_grad(grad, x, w_shape, **options, backend=backend)
    for index in rng.permutation(w.size)[:12]:
        unit = np.zeros(w.size)
        unit[index] = 1
        assert got.flat[index] == dot(slow_conv(x, unit.reshape(w_shape), **options), grad)


@pytest.mark.parametrize(
    ("shape", "w_shape", "options"),
    [
        ((1, 2, 5), (2, 3, 3), {"dilation": 3, "output_padding": 2}),
        ((2, 2, 4), (2, 1, 2), {"dilation": 4, "stride": 2, "output_padding": 3, "groups": 2}),
        ((1, 2, 4, 5), (2, 3, 2, 3), {"dilation": (3, 1), "output_padding": (2, 0), "padding": (0, 1)}),
        ((1, 1, 3, 3, 2), (1, 2, 2, 2, 1), {"dilation": (2, 3, 4), "output_padding": (1, 2, 3)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", MODES)
def test_output_padding_beyond_the_stride(shape, w_shape, options, mode, backend, rng, tol):
    """The result's further positions get what the taps leave there, as in torch (test_conv_torch.py)."""
    options = {**options, "padding_mode": mode}
    x, w = rng.standard_normal(shape), rng.standard_normal(w_shape)
    y = ops.conv_transpose(x, w, **options, backend=backend)
    # The same taps, scattered one by one over a large canvas; what lies outside folds as the mode says.
    ndim = len(shape) - 2
    forward = {k: v for k, v in options.items() if k != "output_padding"}
    n = math.prod(y.shape[1:])
    matrix = slow_conv(np.eye(n).reshape(n, *y.shape[1:]), w, **forward)
    matrix = matrix[(..., *(slice(0, length) for length in shape[2:]))]
    assert matrix.shape == (n, *shape[1:])
    expected = np.einsum("na,ba->bn", matrix.reshape(n, -1), x.reshape(len(x), -1)).reshape(y.shape)
    assert abs(y - expected).max() < 1e-13 * abs(matrix).max() * 100
    grad = rng.standard_normal(y.shape)
    value = dot(y, grad)
    to_x = ops.conv_transpose_input_grad(grad, w, shape, **options, backend=backend)
    to_w = ops.conv_transpose_weight_grad(grad, x, w_shape, **options, backend=backend)
    assert dot(to_x, x) == pytest.approx(value, rel=1e-10)
    assert dot(to_w, w) == pytest.approx(value, rel=1e-10)
    assert ndim == len(w_shape) - 2


@pytest.mark.parametrize("channels", [5, 12, 33])
@pytest.mark.parametrize("taps", [(3, 3), (5, 3), (5, 7), (7, 7), (2, 3)])
def test_depthwise_layers_of_small_images(taps, channels, dtype, backend, rng, tol):
    w = rng.standard_normal((channels, 1, *taps)).astype(dtype)
    for padding in (0, 1, "same"):
        for y in ((1, 1), (2, 2), (1, 4), (5, 3), (8, 16)):
            options = {"padding": padding, "groups": channels}
            more = [0 if padding == "same" else k - 1 - 2 * padding for k in taps]
            shape = (2, channels, *(n + m for n, m in zip(y, more, strict=True)))
            if min(shape) < 1:
                continue
            grad = rng.standard_normal((2, channels, *y)).astype(dtype)
            out = np.full(shape, np.nan, dtype)  # whatever is not written shows
            ops.conv_input_grad(grad, w, shape, **options, out=out, backend=backend)
            expected = ops.conv_input_grad(grad, w, shape, **options, backend="reference")
            assert abs(out - expected).max() <= tol("conv", dtype) * abs(expected).max(), (padding, y)


@pytest.mark.parametrize("taps, low", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_an_axis_of_one_that_is_padded_lies_between_two_that_are_only_copied(taps, low, mode, backend, rng):
    x, w = rng.standard_normal((2, 3, 4, 1, 5)), rng.standard_normal((4, 3, 1, taps, 1))
    options = {"padding": ((0, 0), (low, 1), (0, 0)), "padding_mode": mode}
    result = ops.conv(x, w, **options, backend=backend)
    np.testing.assert_allclose(result, ops.conv(x, w, **options, backend="reference"), rtol=0, atol=1e-12)
    g = rng.standard_normal(result.shape)
    for made in (
        lambda chosen: ops.conv_input_grad(g, w, x.shape, **options, backend=chosen),
        lambda chosen: ops.conv_weight_grad(g, x, w.shape, **options, backend=chosen),
    ):
        np.testing.assert_allclose(made(backend), made("reference"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["1d-strided", "2d-wide", "2d-depthwise", "2d-to-one", "3d-strided"])
def test_integers_are_exact(case, mode, backend, rng):
    """Sums below 2**24 of products of integers: float32 holds every partial sum."""
    shape, w_shape, options = CASES[case]
    options = {**options, "padding_mode": mode}
    x = rng.integers(-9, 10, shape).astype(np.float32)
    w = rng.integers(-9, 10, w_shape).astype(np.float32)
    expected = slow_conv(x, w, **options)
    grad = rng.integers(-9, 10, expected.shape).astype(np.float32)
    got = everything(x, w, grad, options, backend=backend, exact=True)
    precise = everything(*(a.astype(float) for a in (x, w, grad)), options, backend="reference")
    assert np.array_equal(got["conv"], expected)
    for name, result in got.items():
        assert result.dtype == np.float32
        assert abs(result).max() < 2**24
        assert np.array_equal(result, precise[name]), name


@pytest.mark.parametrize(
    ("shape", "w_shape", "options"),
    [
        ((1, 64, 14, 19), (64, 64, 3, 3), {"padding": 1}),
        ((1, 16, 6, 7, 9), (16, 16, 3, 3, 3), {"padding": 1}),
        ((2, 72, 7, 7), (128, 72, 3, 3), {"padding": 1}),
        ((3, 40, 9, 8), (22, 20, 3, 2), {"groups": 2, "stride": (2, 1), "dilation": (1, 2)}),
        ((2, 17, 2601), (9, 17, 4), {"padding": 2}),
        ((1, 600, 5, 6), (5, 600, 1, 1), {"stride": 2}),
        ((1, 24, 41, 35), (33, 24, 3, 3), {"padding": 2, "dilation": 2}),
        ((1, 16, 4, 17, 22), (20, 16, 2, 3, 3), {"padding": (0, 1, 3), "dilation": (1, 2, 3)}),
        ((2, 130, 5, 6), (160, 130, 3, 3), {"padding": 1}),
        ((1, 32, 1203), (48, 32, 3), {"padding": 1}),
        ((1, 20, 8, 140), (32, 20, 1, 5), {"padding": (0, 4), "dilation": (1, 2)}),
        ((2, 16, 1921), (17, 16, 3), {"padding": 1}),
        ((3, 32, 2, 703), (34, 16, 1, 5), {"padding": (0, 2), "groups": 2}),
        ((1, 32, 198, 5), (32, 32, 3, 3), {"padding": 1}),
        ((1, 64, 30, 300), (64, 16, 3, 3), {"padding": (1, 2), "dilation": (1, 2), "groups": 4}),
    ],
    ids=str,
)
def test_many_channels(shape, w_shape, options, backend, dtype, rng, tol, relative_error):
    """The sizes at which another algorithm may be chosen, and where exact=True must not."""
    x, w = (rng.standard_normal(s).astype(dtype) for s in (shape, w_shape))
    grad = rng.standard_normal(ops.conv(x, w, **options, backend=backend).shape).astype(dtype)
    precise = everything(*(a.astype(float) for a in (x, w, grad)), options, backend="reference")
    free = everything(x, w, grad, options, backend=backend)
    plain = everything(x, w, grad, options, backend=backend, exact=True)
    for name, expected in precise.items():
        assert relative_error(free[name], expected) < tol("winograd", dtype), name
        assert relative_error(plain[name], expected) < tol("conv", dtype), name


@pytest.mark.parametrize(("case", "mode"), ONE_EACH)
def test_any_number_of_threads_gives_the_same_bits(case, mode, dtype, backend, rng):
    x, w, grad, options = case_arrays(case, rng, dtype, mode)
    one = everything(x, w, grad, options, backend=backend, num_threads=1)
    for threads in (2, 3, 7):
        several = everything(x, w, grad, options, backend=backend, num_threads=threads)
        for name, result in several.items():
            assert np.array_equal(result, one[name]), name


@pytest.mark.parametrize(
    ("shape", "w_shape", "options"),
    [
        ((3, 8, 70, 61), (12, 8, 3, 3), {"padding": 1}),
        ((2, 32, 40, 45), (32, 32, 3, 3), {"padding": 1}),
        ((1, 3, 30, 31, 29), (5, 3, 3, 2, 4), {"stride": (1, 2, 2)}),
        ((1, 1, 40, 41, 43), (1, 1, 7, 7, 7), {"padding": 3}),
        ((5, 4, 3001), (4, 4, 8), {"dilation": 2}),
        ((2, 16, 4001), (16, 16, 3), {"padding": 1}),
        ((1, 64, 40, 45), (64, 16, 3, 3), {"padding": 1, "groups": 4}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "backend", [name for name in mf.backends.available() if name != "reference"], indirect=True
)
def test_threads_on_larger_arrays(shape, w_shape, options, backend, rng):
    """Large enough to be split; also: the second call, with kept memory, gives the bits of the first."""
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, w_shape))
    grad = rng.standard_normal(ops.conv(x, w, **options, backend=backend).shape).astype(np.float32)
    one = everything(x, w, grad, options, backend=backend, num_threads=1)
    for threads in (1, 2, 5):
        several = everything(x, w, grad, options, backend=backend, num_threads=threads)
        for name, result in several.items():
            assert np.array_equal(result, one[name]), name
    channels = grad.shape[1]
    sums = [ops.conv_bias_grad(grad, backend=backend, num_threads=n) for n in (1, 2, 5)]
    assert all(np.array_equal(s, sums[0]) for s in sums)
    expected = grad.sum(axis=(0, *range(2, grad.ndim)), dtype=float)
    assert sums[0].shape == (channels,)
    assert abs(sums[0] - expected).max() < 1e-6 * abs(grad).sum() / channels


def test_calls_from_several_python_threads(backend, rng):
    """They share the plan of a layer, and nothing else."""
    inputs = [case_arrays("2d-wide", rng, np.float32)[:3] for _ in range(6)]
    options = {"padding": 1}
    expected = [everything(*arrays, options, backend=backend) for arrays in inputs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            futures = [pool.submit(everything, *a, options, backend=backend, num_threads=2) for a in inputs]
            for future, results in zip(futures, expected, strict=True):
                for name, result in future.result().items():
                    assert np.array_equal(result, results[name]), name


# Bias, ReLU, batches


@pytest.mark.parametrize(
    "case", ["1d-strided", "2d-same", "2d-depthwise", "2d-to-one", "2d-wide", "3d-strided"]
)
def test_bias_and_relu(case, dtype, backend, rng, tol):
    x, w, grad, options = case_arrays(case, rng, dtype)
    through = transposed_options(x.shape, w.shape, grad.shape, options)
    for function, data, channels, keywords in (
        (ops.conv, x, len(w), options),
        (ops.conv_transpose, grad, x.shape[1], through),
    ):
        bias = rng.standard_normal(channels).astype(dtype)
        keywords = {**keywords, "exact": True}  # the same sums, whatever follows them
        plain = function(data, w, **keywords, backend=backend).astype(float)
        expected = plain + bias.reshape(-1, *(1,) * (x.ndim - 2))
        bound = tol("conv", dtype) * w[0].size * 10
        with_bias = function(data, w, bias, **keywords, backend=backend)
        assert abs(with_bias - expected).max() < bound
        rectified = function(data, w, bias, **keywords, relu=True, backend=backend)
        assert np.array_equal(rectified, np.maximum(with_bias, 0))
        assert (rectified == 0).any()
        assert np.array_equal(
            function(data, w, **keywords, relu=True, backend=backend),
            np.maximum(function(data, w, **keywords, backend=backend), 0),
        )


# Shapes whose kernels differ in how results leave them: to one channel, past the cache, short rows as one
# line, Winograd's, all channels at once, rows of weights (transposed), folded paddings.
ENDS = {
    "to-one": ((2, 20, 30, 40), (1, 20, 3, 3), {"padding": 1}),
    "streamed": ((1, 1, 600, 700), (8, 1, 3, 3), {"padding": 1}),
    "streamed-to-one": ((1, 1, 1500, 1600), (1, 1, 3, 3), {"padding": 1}),
    "flat": ((2, 5, 11, 7), (6, 5, 3, 3), {"padding": 1}),
    "winograd": ((2, 17, 25, 30), (18, 17, 3, 3), {"padding": 1}),
    "winograd-3d": ((1, 16, 9, 10, 30), (16, 16, 3, 3, 3), {"padding": 1}),
    "winograd-dilated": ((1, 16, 21, 30), (16, 16, 3, 3), {"padding": 2, "dilation": 2}),
    "winograd-line": ((2, 16, 200), (20, 16, 3), {"padding": 1}),
    "channels-at-once": ((2, 128, 7, 7), (130, 128, 3, 3), {"padding": 1}),
    "pointwise": ((1, 70, 9, 50), (64, 70, 1, 1), {}),
    "strided": ((2, 6, 19, 21), (9, 6, 4, 3), {"stride": 2, "padding": 1}),
    "strided-3d": ((1, 8, 12, 10, 40), (16, 8, 2, 2, 2), {"stride": 2}),
    "depthwise": ((2, 6, 30, 31), (6, 1, 5, 5), {"padding": 2, "groups": 6}),
    "reflected": ((2, 3, 20, 21), (4, 3, 3, 3), {"padding": 1, "padding_mode": "reflect"}),
    "transforms": ((1, 1, 60, 70), (1, 1, 31, 31), {"padding": 15}),
    "transforms-reflected": ((1, 2, 60, 70), (1, 2, 31, 31), {"padding": 15, "padding_mode": "reflect"}),
}


@pytest.mark.parametrize("case", ENDS)
@pytest.mark.parametrize("exact", [False, True])
def test_addend_and_slope(case, exact, dtype, backend, rng):
    """To the bit what they are in passes of their own."""
    x_shape, w_shape, options = ENDS[case]
    if backend == "reference":  # has one way for all sizes, and takes long
        x_shape = (*x_shape[:2], *(min(n, 40) for n in x_shape[2:]))
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    y = ops.conv(x, w, **options, exact=exact, backend=backend)
    through = transposed_options(x.shape, w.shape, y.shape, options)
    for function, data, keywords in ((ops.conv, x, options), (ops.conv_transpose, y, through)):
        keywords = {**keywords, "exact": exact, "backend": backend}
        plain = function(data, w, **keywords)
        addend = rng.standard_normal(plain.shape).astype(dtype) * abs(plain).max()
        total = plain + addend
        assert np.array_equal(function(data, w, **keywords, addend=addend), total)
        assert np.array_equal(function(data, w, **keywords, addend=addend, relu=True), np.maximum(total, 0))
        leaky = np.where(plain < 0, plain * dtype.type(0.1), plain)
        assert np.array_equal(function(data, w, **keywords, relu=True, negative_slope=0.1), leaky)
        both = function(data, w, **keywords, addend=addend, relu=True, negative_slope=0.1, num_threads=1)
        assert np.array_equal(both, np.where(total < 0, total * dtype.type(0.1), total))
        alone = function(data[:1], w, **keywords, addend=addend[:1].astype(np.float64), relu=True)
        assert alone.dtype == dtype  # an addend does not promote
        assert np.array_equal(alone, function(data[:1], w, **keywords, addend=addend[:1], relu=True))


def test_an_addend_of_floats_to_what_integers_make_is_refused(backend):
    x, w = np.ones((1, 2, 5), int), np.ones((2, 2, 3), int)
    with pytest.raises(TypeError, match="addend: got float64 with x of int64 and w of int64"):
        ops.conv(x, w, addend=np.full((1, 2, 3), 0.5), backend=backend)
    y = ops.conv(x, w, addend=np.ones((1, 2, 3), np.int8), backend=backend)
    assert np.array_equal(y, np.full((1, 2, 3), 7.0))


def test_options_that_equal_others_are_read_anew():
    """1 == True == 1.0, but the latter two are refused, whatever was asked for before."""
    x, w = np.ones((1, 1, 9)), np.ones((1, 1, 3))
    for name, refused in (
        ("stride", (True, 1.0, (1.0,))),
        ("groups", (True, 1.0)),
        ("padding", (((1.0, 1),),)),
    ):
        ops.conv(x, w, **{name: 1})
        ops.conv(x, w, **{name: ((1, 1),) if name == "padding" else 1})
        for value in refused:
            with pytest.raises(TypeError, match=name):
                ops.conv(x, w, **{name: value})


def test_ends_of_what_is_not_finite(dtype, backend):
    """NaN stays NaN, and a slope of 0 makes 0 of what is infinite."""
    x, w = np.zeros((1, 1, 40), dtype), np.ones((1, 1, 1), dtype)
    addend = np.zeros_like(x)
    addend[0, 0, :3] = np.nan, -np.inf, np.inf
    options = {"addend": addend, "relu": True, "backend": backend}
    for slope, of_negative in ((0.0, 0.0), (0.5, -np.inf), (1e-60, 0.0 if dtype == np.float32 else -np.inf)):
        y = ops.conv(x, w, **options, negative_slope=slope)
        assert np.array_equal(y[0, 0, :4], [np.nan, of_negative, np.inf, 0], equal_nan=True)


def test_bias_gradient(dtype, backend, rng):
    for shape in ((2, 3, 9), (2, 3, 4, 5), (3, 1, 2, 3, 4), (1, 5, 1)):
        grad = rng.integers(-9, 10, shape).astype(dtype)
        expected = grad.sum(axis=(0, *range(2, grad.ndim)))
        got = ops.conv_bias_grad(grad, backend=backend)
        assert got.dtype == dtype
        assert np.array_equal(got, expected)
        alone = ops.conv_bias_grad(grad[0], batched=False, backend=backend)
        assert np.array_equal(alone, grad[:1].sum(axis=(0, *range(2, grad.ndim))))


@pytest.mark.parametrize(("case", "mode"), ONE_EACH)
def test_without_a_batch(case, mode, backend, rng):
    x, w, grad, options = case_arrays(case, rng, np.float64, mode)
    batched = everything(x[:1], w, grad[:1], options, backend=backend)
    through = transposed_options(x.shape, w.shape, grad.shape, options)
    x, grad = x[0], grad[0]
    more = {"backend": backend}
    alone = {
        "conv": ops.conv(x, w, **options, **more),
        "conv_input_grad": ops.conv_input_grad(grad, w, x.shape, **options, **more),
        "conv_weight_grad": ops.conv_weight_grad(grad, x, w.shape, **options, **more),
        "conv_transpose": ops.conv_transpose(grad, w, **through, **more),
        "conv_transpose_input_grad": ops.conv_transpose_input_grad(x, w, grad.shape, **through, **more),
        "conv_transpose_weight_grad": ops.conv_transpose_weight_grad(x, grad, w.shape, **through, **more),
    }
    for name, result in alone.items():
        expected = batched[name] if "weight" in name else batched[name][0]
        assert np.array_equal(result, expected), name
    assert np.array_equal(ops.conv(x, w, **options, relu=True, **more), np.maximum(batched["conv"][0], 0))


def test_items_of_a_batch_do_not_mix(backend, rng):
    for shape, w_shape in (
        ((5, 3, 7, 8), (4, 3, 3, 3)),
        ((5, 2, 30), (3, 2, 4)),
        ((3, 16, 9, 9), (16, 16, 3, 3)),
    ):
        x, w = rng.standard_normal(shape), rng.standard_normal(w_shape)
        together = ops.conv(x, w, padding=1, backend=backend)
        for item, expected in zip(x, together, strict=True):
            assert np.allclose(ops.conv(item, w, padding=1, backend=backend), expected, rtol=0, atol=1e-12)


EMPTY = [
    ((0, 3, 8), (4, 3, 3)),
    ((2, 0, 8), (4, 0, 3)),
    ((0, 3, 6, 7), (4, 3, 3, 2)),
    ((2, 0, 6, 7), (4, 0, 3, 2)),
    ((0, 0, 6, 7, 5), (4, 0, 3, 2, 2)),
]


@pytest.mark.parametrize(("shape", "w_shape"), EMPTY, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_empty(shape, w_shape, mode, dtype, backend):
    """Nothing to sum: results are zero or the bias, and keep the shape that the formula says."""
    x, w, bias = np.ones(shape, dtype), np.ones(w_shape, dtype), np.array([1, -2, 3, 4], dtype)
    options = {"padding": 1, "padding_mode": mode, "backend": backend}
    y = ops.conv(x, w, bias, **options)
    expected = [n + 2 - k + 1 for n, k in zip(shape[2:], w_shape[2:], strict=True)]
    assert y.dtype == dtype
    assert y.shape == (shape[0], 4, *expected)
    assert np.array_equal(y, np.broadcast_to(bias.reshape(-1, *(1,) * (len(shape) - 2)), y.shape))
    assert np.array_equal(ops.conv(x, w, bias, relu=True, **options), np.maximum(y, 0))
    assert np.array_equal(ops.conv(x, w, bias, addend=y, **options), 2 * y)
    assert not ops.conv(x, w, **options).any()
    to_x = ops.conv_input_grad(y, w, shape, **options)
    assert to_x.shape == shape
    assert to_x.dtype == dtype
    to_w = ops.conv_weight_grad(y, x, w_shape, **options)
    assert to_w.shape == w_shape
    assert not to_w.any()
    assert ops.conv_transpose(y, w, **options).shape == shape
    assert not ops.conv_transpose_weight_grad(x, y, w_shape, **options).any()
    assert ops.conv_transpose_input_grad(x, w, y.shape, **options).shape == y.shape
    assert np.array_equal(ops.conv_bias_grad(np.empty((0, 3, 5)), backend=backend), np.zeros(3))


# NaN


def test_nan_spreads_as_far_as_the_kernel_reaches(dtype, backend):
    x = np.ones((1, 1, 9, 9), dtype)
    x[0, 0, 4, 5] = np.nan
    w = np.zeros((1, 1, 3, 3), dtype)
    y = ops.conv(x, w, padding=1, relu=True, exact=True, backend=backend)
    expected = np.zeros((9, 9), bool)
    expected[3:6, 4:7] = True
    assert np.array_equal(np.isnan(y[0, 0]), expected)
    assert np.isnan(ops.conv_transpose(x, w, padding=1, exact=True, backend=backend)[0, 0, 3:6, 4:7]).all()
    w[0, 0, 0, 0] = np.nan  # multiplies padding's zeros too
    assert np.isnan(ops.conv(np.ones_like(x), w, padding=1, exact=True, backend=backend)).all()
    assert np.isnan(ops.conv(np.ones_like(x), np.ones_like(w), [np.nan], relu=True, backend=backend)).all()
    large = np.ones(
        (1, 1, 32, 32, 32), dtype
    )  # by transforms, where it may reach every voxel, and no ReLU hides it
    large[0, 0, 3, 3, 3] = np.nan
    many = np.ones((1, 1, 13, 13, 13), dtype)
    assert np.isnan(ops.conv(large, many, padding=6, relu=True, backend=backend)[0, 0, :10, :10, :10]).all()


@pytest.mark.parametrize("stride, taps", [(2, 3), (2, 5), (3, 5), (3, 2)])
def test_inf_of_a_stride_reaches_no_value_it_is_no_term_of(stride, taps, dtype, backend):
    y = np.ones((1, 2, 5, 6), dtype)
    y[0, 1, 2, 3] = np.inf
    w = np.ones((2, 3, taps, taps), dtype)
    x = ops.conv_transpose(y, w, stride=stride, exact=True, backend=backend)
    expected = np.zeros(x.shape, bool)
    expected[:, :, 2 * stride : 2 * stride + taps, 3 * stride : 3 * stride + taps] = True
    assert np.array_equal(np.isposinf(x), expected)
    assert not np.isnan(x).any()


# Arrays in and out

RULE = {
    "bool": "float32",
    "uint8": "float32",
    "int16": "float32",
    "float16": "float32",
    "float32": "float32",
    ">f4": "float32",
    "int32": "float64",
    "uint64": "float64",
    "float64": "float64",
    ">f8": "float64",
}


@pytest.mark.parametrize("given_dtype", RULE)
def test_dtype_follows_the_first_argument(given_dtype, backend, rng):
    x = rng.integers(0, 2, (2, 3, 7, 8))
    w = rng.integers(-3, 4, (3, 3, 3, 3))
    options = {"padding": 1, "backend": backend}
    expected = everything(x.astype(float), w.astype(float), x.astype(float), options)
    for w_dtype in ("float64", "float16", "int8"):
        got = everything(x.astype(given_dtype), w.astype(w_dtype), x.astype(given_dtype), options)
        for name, result in got.items():
            assert result.dtype == RULE[given_dtype], name
            assert result.dtype.isnative
            assert np.array_equal(result, expected[name]), name


def test_the_weights_dtype_never_promotes(backend, rng):
    x = rng.integers(0, 9, (2, 3, 7)).astype(np.float32)
    w, bias = rng.standard_normal((4, 3, 3)), rng.standard_normal(4)
    got = ops.conv(x, w, bias, backend=backend)
    assert got.dtype == np.float32
    assert np.array_equal(got, ops.conv(x, w.astype(np.float32), bias.astype(np.float32), backend=backend))
    assert ops.conv(x.astype(np.uint16), w, bias, backend=backend).dtype == np.float32
    assert ops.conv_weight_grad(got, x.astype(float), w.shape, backend=backend).dtype == np.float32


def misaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned or array.itemsize == 1 or array.size == 0
    return view


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def far_apart(array):
    """Values 4 KB apart along every axis that has more than one."""
    big = np.zeros((*array.shape, 4096 // array.itemsize), array.dtype)
    big[..., 0] = array
    return big[..., 0]


LAYOUTS = {
    "plain": lambda a: a,
    "fortran": np.asfortranarray,
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "reversed-channels": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "every-second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "channels-last": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1),
    "misaligned": misaligned,
    "read-only": read_only,
    "far-apart": far_apart,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["1d-even", "2d-strided", "2d-row", "3d-plane"])
def test_layouts(case, layout, dtype, backend, rng):
    x, w, grad, options = case_arrays(case, rng, dtype)
    expected = everything(x, w, grad, options, backend=backend)
    change = LAYOUTS[layout]
    given_arrays = change(x), change(w), change(grad)
    copies = [np.array(a) for a in given_arrays]
    got = everything(*given_arrays, options, backend=backend)
    for name, result in got.items():
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert np.array_equal(result, expected[name]), name
    for array, copy in zip(given_arrays, copies, strict=True):
        assert np.array_equal(array, copy)


def test_one_value_for_all(backend):
    x = np.broadcast_to(np.float32(2), (2, 3, 5, 6))
    w = np.broadcast_to(np.float32(3), (4, 3, 2, 2))
    assert np.array_equal(ops.conv(x, w, backend=backend), np.full((2, 4, 4, 5), 72.0))


def test_lists(backend):
    got = ops.conv([[[1.0, 2, 3, 4]]], [[[1.0, 0, -1]]], backend=backend)
    assert np.array_equal(got, [[[-2.0, -2]]])


# out=


def calls_with_out(rng, backend):
    """Every function with an `out`: a call of it, its operands, and the result's shape."""
    x, w = rng.standard_normal((2, 3, 6, 7)), rng.standard_normal((4, 3, 3, 2))
    grad, bias = rng.standard_normal((2, 4, 4, 6)), rng.standard_normal(4)
    more = {"backend": backend}
    return {
        "conv": (lambda out=None: ops.conv(x, w, bias, out=out, **more), (x, w, bias)),
        "conv2d": (lambda out=None: ops.conv2d(x, w, bias, out=out, **more), (x, w, bias)),
        "conv_transpose": (lambda out=None: ops.conv_transpose(grad, w, out=out, **more), (grad, w)),
        "conv_input_grad": (
            lambda out=None: ops.conv_input_grad(grad, w, x.shape, out=out, **more),
            (grad, w),
        ),
        "conv_weight_grad": (
            lambda out=None: ops.conv_weight_grad(grad, x, w.shape, out=out, **more),
            (grad, x),
        ),
        "conv_transpose_input_grad": (
            lambda out=None: ops.conv_transpose_input_grad(x, w, grad.shape, out=out, **more),
            (x, w),
        ),
        "conv_transpose_weight_grad": (
            lambda out=None: ops.conv_transpose_weight_grad(x, grad, w.shape, out=out, **more),
            (x, grad),
        ),
        "conv_bias_grad": (lambda out=None: ops.conv_bias_grad(grad, out=out, **more), (grad,)),
    }


OUT_NAMES = list(calls_with_out(np.random.default_rng(0), "reference"))


@pytest.mark.parametrize("name", OUT_NAMES)
def test_out(name, backend, rng):
    call, _ = calls_with_out(rng, backend)[name]
    expected = call()
    out = np.full(expected.shape, np.nan)
    assert call(out) is out
    assert np.array_equal(out, expected)
    shape = expected.shape
    for bad, error, text in (
        (np.empty((*shape, 1)), ValueError, r"out: got shape \(.*expected a C-contiguous, writable array"),
        (np.empty(shape, np.float32), TypeError, "out: got dtype float32, expected .*float64"),
        (np.empty(shape, ">f8"), TypeError, "out: got dtype >f8"),
        (read_only(np.empty(shape)), ValueError, "out: got an array that is read-only"),
        (np.empty((*shape, 2))[..., 0], ValueError, "out: got an array that is not C-contiguous"),
        (misaligned(np.empty(shape)), ValueError, "out: got an array that is misaligned"),
        ([[0.0]], TypeError, r"out: got \[\[0.0\]\], expected"),
        (np.ma.masked_array(np.empty(shape)), TypeError, "out: got MaskedArray"),
    ):
        with pytest.raises(error, match=text):
            call(bad)


@pytest.mark.parametrize("name", OUT_NAMES)
def test_out_must_not_overlap(name, backend, rng):
    call, operands = calls_with_out(rng, backend)[name]
    shape = call().shape
    for operand in operands:
        before = operand.copy()
        memory = np.lib.stride_tricks.as_strided(operand, shape, np.empty(shape).strides)
        if memory.nbytes > operand.nbytes:
            continue
        with pytest.raises(ValueError, match="out: shares memory with "):
            call(memory)
        assert np.array_equal(operand, before)


def test_out_between_the_values_of_x_is_no_overlap(backend):
    memory = np.ones((2, 2, 1, 4))
    x, out = memory[:, :1, :, :], memory[0, 1:]
    ops.conv(x[:1], np.full((1, 1, 1, 1), 3.0), out=out[None], backend=backend)
    assert np.array_equal(memory[0, 1], np.full((1, 4), 3.0))
    assert np.array_equal(x, np.ones(x.shape))


# Bad arguments

X, W, BIAS = np.ones((2, 4, 6, 7)), np.ones((6, 4, 3, 3)), np.ones(6)
BAD = {
    "x: got 5 axes": lambda **o: ops.conv(np.ones((1, 2, 4, 6, 7)), W, **o),
    "x: got 2 axes .* expected 4, .* or without a batch 3": lambda **o: ops.conv(np.ones((6, 7)), W, **o),
    r"x: got shape \(2, 4, 0, 7\), expected at least 1": lambda **o: ops.conv(np.ones((2, 4, 0, 7)), W, **o),
    "x: got 3 channels, expected 4": lambda **o: ops.conv(np.ones((2, 3, 6, 7)), W, **o),
    "x: got complex": lambda **o: ops.conv(X * 1j, W, **o),
    "x: got a masked array": lambda **o: ops.conv(np.ma.masked_array(X), W, **o),
    "x: got 'image.tif'": lambda **o: ops.conv("image.tif", W, **o),
    "w: got complex": lambda **o: ops.conv(X, W * 1j, **o),
    "w: got dtype object": lambda **o: ops.conv(X, W.astype(object), **o),
    "w: got 2 axes": lambda **o: ops.conv(X, np.ones((3, 3)), **o),
    "w: got 6 axes": lambda **o: ops.conv(X, np.ones((1,) * 6), **o),
    r"w: got shape \(0, 4, 3, 3\)": lambda **o: ops.conv(X, np.ones((0, 4, 3, 3)), **o),
    r"w: got shape \(6, 4, 0, 3\)": lambda **o: ops.conv(X, np.ones((6, 4, 0, 3)), **o),
    r"w: the kernel \(9, 3\) .* covers \(9, 3\), expected at most the padded x, \(6, 7\)": lambda **o: (
        ops.conv(X, np.ones((6, 4, 9, 3)), **o)
    ),
    r"w: the kernel \(3, 3\) with dilation \(4, 1\)": lambda **o: ops.conv(X, W, dilation=(4, 1), **o),
    r"bias: got shape \(5,\), expected \(6,\)": lambda **o: ops.conv(X, W, np.ones(5), **o),
    r"bias: got shape \(6, 1\)": lambda **o: ops.conv(X, W, np.ones((6, 1)), **o),
    r"bias: got shape \(\)": lambda **o: ops.conv(X, W, 1.0, **o),
    "bias: got complex": lambda **o: ops.conv(X, W, BIAS * 1j, **o),
    "bias: got float64 with x of int64 and w of int64": lambda **o: ops.conv(
        X.astype(np.int64), W.astype(np.int64), BIAS, **o
    ),
    "stride: got 0, expected an integer of at least 1": lambda **o: ops.conv(X, W, stride=0, **o),
    r"stride\[1\]: got -1": lambda **o: ops.conv(X, W, stride=(1, -1), **o),
    "stride: got 3 values": lambda **o: ops.conv(X, W, stride=(1, 2, 3), **o),
    "stride: got 1.5": lambda **o: ops.conv(X, W, stride=1.5, **o),
    "stride: got True": lambda **o: ops.conv(X, W, stride=True, **o),
    "stride: got 'same'": lambda **o: ops.conv(X, W, stride="same", **o),
    "stride: got None": lambda **o: ops.conv(X, W, stride=None, **o),
    "stride: got 4294967296": lambda **o: ops.conv(X, W, stride=2**32, **o),
    "dilation: got 0": lambda **o: ops.conv(X, W, dilation=0, **o),
    r"dilation\[0\]: got 'a'": lambda **o: ops.conv(X, W, dilation=("a", 1), **o),
    "padding: got -1": lambda **o: ops.conv(X, W, padding=-1, **o),
    r"padding\[0\]\[1\]: got -1": lambda **o: ops.conv(X, W, padding=((0, -1), (0, 0)), **o),
    "padding: got 'full', expected one of 'same', 'valid'": lambda **o: ops.conv(X, W, padding="full", **o),
    "padding: got 'same' with stride": lambda **o: ops.conv(X, W, stride=(1, 2), padding="same", **o),
    "padding: got 3 values .*, or one": lambda **o: ops.conv(X, W, padding=(1, 2, 3), **o),
    "padding: got 1 pairs": lambda **o: ops.conv(X, W, padding=((1, 2),), **o),
    r"padding\[0\]: got \(1, 2, 3\), expected \(low, high\)": lambda **o: ops.conv(
        X, W, padding=((1, 2, 3), (1, 2)), **o
    ),
    r"padding\[1\]: got 1, expected \(low, high\)": lambda **o: ops.conv(X, W, padding=((1, 2), 1), **o),
    "padding: got 0 values": lambda **o: ops.conv(X, W, padding=(), **o),
    "padding: the padded x would be": lambda **o: ops.conv(X, W, padding=2**31 - 1, **o),
    r"padding: got \(6, 6\) on axis 0 with padding_mode='reflect', expected at most 5": lambda **o: ops.conv(
        X, W, padding=6, padding_mode="reflect", **o
    ),
    r"padding: got \(7, 0\) on axis 0 with padding_mode='circular', expected at most 6": lambda **o: ops.conv(
        X, W, padding=((7, 0), (0, 0)), padding_mode="circular", **o
    ),
    "padding_mode: got 'constant'": lambda **o: ops.conv(X, W, padding_mode="constant", **o),
    "padding_mode: got None": lambda **o: ops.conv(X, W, padding_mode=None, **o),
    "groups: got 0": lambda **o: ops.conv(X, W, groups=0, **o),
    "groups: got 4, expected a divisor of 6, the number of output": lambda **o: ops.conv(X, W, groups=4, **o),
    r"x: got 4 channels, expected 8, groups=2 times axis 1 of w": lambda **o: ops.conv(X, W, groups=2, **o),
    "groups: got 1.0": lambda **o: ops.conv(X, W, groups=1.0, **o),
    "relu: got 1": lambda **o: ops.conv(X, W, relu=1, **o),
    "negative_slope: got -0.1": lambda **o: ops.conv(X, W, relu=True, negative_slope=-0.1, **o),
    "negative_slope: got 1e[+]39, expected a number that float32 holds": lambda **o: ops.conv(
        X.astype(np.float32), W, relu=True, negative_slope=1e39, **o
    ),
    "negative_slope: got 0.1 with relu=False": lambda **o: ops.conv(X, W, negative_slope=0.1, **o),
    r"addend: got shape \(6, 4, 5\), expected \(2, 6, 4, 5\), the result's": lambda **o: ops.conv(
        X, W, addend=np.ones((6, 4, 5)), **o
    ),
    "exact: got None": lambda **o: ops.conv(X, W, exact=None, **o),
    "num_threads: got 0": lambda **o: ops.conv(X, W, num_threads=0, **o),
    "x: got 4 channels, expected 6, axis 0 of w": lambda **o: ops.conv_transpose(X, W, **o),
    "groups: got 5, expected a divisor of 6, the number of input": lambda **o: ops.conv_transpose(
        np.ones((2, 6, 6, 7)), W, groups=5, **o
    ),
    r"output_padding: got \(2, 2\), expected less than the stride": lambda **o: ops.conv_transpose(
        np.ones((2, 6, 6, 7)), W, stride=2, output_padding=2, **o
    ),
    "output_padding: got -1": lambda **o: ops.conv_transpose(
        np.ones((2, 6, 6, 7)), W, output_padding=-1, **o
    ),
    r"padding: got \(\(4, 4\), \(4, 4\)\), which leaves a result of \(0, 1\)": lambda **o: ops.conv_transpose(
        np.ones((2, 6, 6, 7)), W, padding=4, **o
    ),
    r"on axis 0 with padding_mode='reflect', expected at most 3 as the result": lambda **o: (
        ops.conv_transpose(np.ones((2, 6, 8, 9)), W, padding=((5, 1), (0, 0)), padding_mode="reflect", **o)
    ),
    r"bias: got shape \(6,\), expected \(4,\)": lambda **o: ops.conv_transpose(
        np.ones((2, 6, 6, 7)), W, BIAS, **o
    ),
    "stride: the result would be": lambda **o: ops.conv_transpose(
        np.ones((2, 6, 6, 7)), W, stride=2**31 - 1, **o
    ),
    r"grad: got shape \(2, 6, 6, 7\), expected \(2, 6, 4, 5\), the shape of the result of conv": (
        lambda **o: ops.conv_input_grad(np.ones((2, 6, 6, 7)), W, X.shape, **o)
    ),
    r"grad: got shape \(2, 6, 4, 5\), expected \(6, 4, 5\)": lambda **o: ops.conv_input_grad(
        np.ones((2, 6, 4, 5)), W, X.shape[1:], **o
    ),
    "input_shape: got 2 axes": lambda **o: ops.conv_input_grad(np.ones((2, 6, 4, 5)), W, (6, 7), **o),
    "input_shape: got 5, expected a shape": lambda **o: ops.conv_input_grad(X, W, 5, **o),
    r"input_shape\[3\]: got -7": lambda **o: ops.conv_input_grad(X, W, (2, 4, 6, -7), **o),
    "input_shape: got 3 channels": lambda **o: ops.conv_input_grad(X, W, (2, 3, 6, 7), **o),
    "weight_shape: got 2 axes": lambda **o: ops.conv_weight_grad(X, X, (3, 3), **o),
    "weight_shape: got 'abc'": lambda **o: ops.conv_weight_grad(X, X, "abc", **o),
    r"weight_shape\[0\]: got 1.5": lambda **o: ops.conv_weight_grad(X, X, (1.5, 4, 3, 3), **o),
    r"grad: got shape \(2, 4, 6, 7\), expected \(2, 6, 4, 5\)": lambda **o: ops.conv_weight_grad(
        X, X, W.shape, **o
    ),
    "x: got 4 channels, expected 5, groups=1 times axis 1 of weight_shape": lambda **o: ops.conv_weight_grad(
        X, X, (6, 5, 3, 3), **o
    ),
    "the shape of the result of conv_transpose": lambda **o: ops.conv_transpose_input_grad(
        X, W, (2, 6, 5, 5), **o
    ),
    "expected .2, 4, 8, 9., the shape of the result of conv_transpose": (
        lambda **o: ops.conv_transpose_weight_grad(X, np.ones((2, 6, 6, 7)), W.shape, **o)
    ),
    r"grad: got 2 axes .* expected 3 to 5, \(N, C, \*spatial\) with batched=True": (
        lambda **o: ops.conv_bias_grad(np.ones((3, 4)), **o)
    ),
    "grad: got 5 axes": lambda **o: ops.conv_bias_grad(np.ones((1,) * 5), batched=False, **o),
    "batched: got 'no'": lambda **o: ops.conv_bias_grad(X, batched="no", **o),
    r"w: got 4 axes .* expected 3: \(out, in/groups": lambda **o: ops.conv1d(X, W, **o),
    r"w: got 4 axes .* expected 5: \(in, out/groups": lambda **o: ops.conv_transpose3d(x=X, w=W, **o),
    "w: got 3, expected an array of 4 axes": lambda **o: ops.conv2d(X, 3, **o),
    r"w: got 2 axes .* expected 3": lambda **o: ops.conv1d(X, [[1.0]], **o),
    "w: cannot be read as an array": lambda **o: ops.conv1d(X, [[[1.0], [1.0, 2.0]]], **o),
    r"x: got shape \(1, 1, 1073741824\), expected less than 2\*\*30 values": lambda **o: ops.conv(
        np.broadcast_to(np.float32(0), (1, 1, 2**30)), np.ones((1, 1, 3)), **o
    ),
    r"padding: the padded x would be .* less than 2\*\*30 values along": lambda **o: ops.conv(
        np.ones((1, 1, 5)), np.ones((1, 1, 3)), padding=2**29, **o
    ),
    r"stride: got \(1073741824,\), expected less than 2\*\*30": lambda **o: ops.conv(
        np.ones((1, 1, 5)), np.ones((1, 1, 3)), stride=2**30, **o
    ),
    r"stride: got \(1073741825,\), expected less than 2\*\*30": lambda **o: ops.conv_transpose(
        np.ones((1, 1, 1)), np.ones((1, 1, 3)), stride=2**30 + 1, **o
    ),
    r"padding: the padded result would be .* less than 2\*\*30 values along": lambda **o: ops.conv_transpose(
        np.ones((1, 1, 3)), np.ones((1, 1, 3)), stride=2**29, padding=2**29 - 2, **o
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments(message, backend):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message](backend=backend)


def test_types_and_values_are_told_apart():
    for bad in (1.5, "a", None, True, [1.5, 1]):
        with pytest.raises(TypeError):
            ops.conv(X, W, stride=bad, backend="reference")
    for bad in (0, -1, (1, 2, 3), [1, 0], np.int64(-3)):
        with pytest.raises(ValueError):
            ops.conv(X, W, stride=bad, backend="reference")


def test_options_as_sequences_and_numpy_integers(backend, rng):
    x, w = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((6, 4, 3, 3))
    expected = ops.conv(x, w, stride=2, padding=1, backend=backend)
    for stride, padding in (
        ([2], [1]),
        ((2, 2), (1, 1)),
        (np.int64(2), np.uint8(1)),
        (np.array([2, 2]), np.array([[1, 1], [1, 1]])),
        ([2, np.int32(2)], [[1, 1], (1, 1)]),
    ):
        assert np.array_equal(ops.conv(x, w, stride=stride, padding=padding, backend=backend), expected)
    assert np.array_equal(ops.conv(x, w, padding="valid", backend=backend), ops.conv(x, w, backend=backend))


def test_functions_of_one_rank(backend, rng):
    for ndim, functions in (
        (1, (ops.conv1d, ops.conv_transpose1d)),
        (2, (ops.conv2d, ops.conv_transpose2d)),
        (3, (ops.conv3d, ops.conv_transpose3d)),
    ):
        x, w = rng.standard_normal((2, 3, *(6,) * ndim)), rng.standard_normal((3, 3, *(2,) * ndim))
        for function, general in zip(functions, (ops.conv, ops.conv_transpose), strict=True):
            assert inspect.signature(function) == inspect.signature(general)
            assert np.array_equal(
                function(x.tolist(), w.tolist(), backend=backend), general(x, w, backend=backend)
            )
            assert np.array_equal(
                function(x, w, stride=2, backend=backend), general(x, w, stride=2, backend=backend)
            )


# Plans


@pytest.mark.parametrize("case", CASES)
def test_plan_says_what_it_is(case, dtype, backend, rng):
    shape, w_shape, options = CASES[case]
    ndim = len(shape) - 2
    plan = mf.backends.resolve(backend).ConvPlan(
        shape,
        w_shape,
        spread(options.get("stride", 1), ndim),
        tuple(pairs_of(options, w_shape[2:])),
        spread(options.get("dilation", 1), ndim),
        options.get("groups", 1),
        "zeros",
        dtype,
    )
    assert plan.input_shape == shape
    assert plan.weight_shape == w_shape
    assert plan.output_shape == slow_conv(np.zeros(shape), np.zeros(w_shape), **options).shape
    assert plan.dtype == dtype
    assert isinstance(plan.family, str)
    assert plan.workspace_bytes >= 0


# Input, weight, stride, padding, groups: where the scratch of two threads is the most, beside the arrays.
LARGE_SCRATCH = [
    ((1, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
    ((8, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
    ((8, 512, 7, 7), (512, 512, 3, 3), 1, 1, 1),
    ((1, 64, 128, 128), (64, 16, 3, 3), 1, 1, 4),
    ((1, 64, 128, 128), (64, 64, 3, 3), 2, 1, 1),
    ((1, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1),
    ((1, 32, 32, 32, 32), (32, 32, 3, 3, 3), 1, 1, 1),
]


@pytest.mark.skipif("cpp" not in mf.backends.available(), reason="SKIPPED: no compiled kernels")
@pytest.mark.parametrize("shape,w_shape,stride,padding,groups", LARGE_SCRATCH)
def test_scratch_is_small_beside_the_arrays(shape, w_shape, stride, padding, groups, monkeypatch):
    """Without Winograd: a tenth of input and output, and the weights once, for two threads."""
    monkeypatch.setenv("MEDECONV_NUM_THREADS", "2")
    ndim = len(shape) - 2
    plan = mf.backends.resolve("cpp").ConvPlan(
        shape, w_shape, (stride,) * ndim, ((padding, padding),) * ndim, (1,) * ndim, groups, "zeros",
        np.dtype(np.float32), exact=True,
    )  # fmt: skip
    values = math.prod(shape) + math.prod(plan.output_shape)
    assert plan.workspace_bytes <= 4 * (values // 10 + math.prod(w_shape))


# 1 by 1 on an image whose axes become one; long lines.
LARGE_TABLES = [
    ((1, 2, 384, 384, 384), (2, 2, 1, 1, 1), 1, 0),
    ((1, 1, 50_000_000), (1, 1, 5), 1, 2),
    ((1, 1, 40_000), (1, 1, 39_990), 1, 0),
]


@pytest.mark.skipif("cpp" not in mf.backends.available(), reason="SKIPPED: no compiled kernels")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="SKIPPED: no /proc to read memory from")
@pytest.mark.parametrize("shape,w_shape,stride,padding", LARGE_TABLES)
def test_a_plan_is_no_larger_than_what_is_irregular(shape, w_shape, stride, padding):
    """Plans are kept: one that held a number for every position held as much as the image."""
    ndim = len(shape) - 2

    def pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = pages()
    plan = mf.backends.resolve("cpp").ConvPlan(
        shape, w_shape, (stride,) * ndim, ((padding, padding),) * ndim, (1,) * ndim, 1, "zeros",
        np.dtype(np.float32),
    )  # fmt: skip
    assert plan.workspace_bytes >= 0  # both directions have been planned
    assert (pages() - before) * os.sysconf("SC_PAGE_SIZE") < 24e6


def test_strides_longer_than_the_image(backend, dtype, rng):
    x, w = rng.random((2, 3, 9, 7)).astype(dtype), rng.random((4, 3, 3, 2)).astype(dtype)
    options = {"padding": 1, "stride": (10**8, 2)}
    y = ops.conv(x, w, backend=backend, **options)
    np.testing.assert_allclose(y, slow_conv(x, w, **options), rtol=1e-5)
    grad = ops.conv_input_grad(y, w, x.shape, backend=backend, **options)
    expected = ops.conv_input_grad(y, w, x.shape, backend="reference", **options | {"stride": (20, 2)})
    np.testing.assert_allclose(grad, expected, rtol=1e-5)
    back = ops.conv_transpose(y, w, stride=(10**8, 2), padding=1, output_padding=(7, 0), backend=backend)
    np.testing.assert_allclose(back[:, :, :8], expected[:, :, :8, :6], rtol=1e-5)


@pytest.mark.parametrize("size", [9, 160], ids=["sums", "transforms"])
def test_infinite_addends_are_no_warning(size, backend, dtype):
    """Neither where a kernel adds them nor where they are added afterwards."""
    w = np.ones((1, 1, *(min(size, 41),) * 2), dtype)
    x = np.ones((1, 1, size, size), dtype)
    addend = np.full((1, 1, *(size - len(w[0, 0]) + 1,) * 2), np.inf, dtype)
    with np.errstate(all="raise"):
        made = ops.conv(x, w, [-np.inf], addend=addend, relu=True, backend=backend)
    assert np.isnan(made).all()


# Whatever comes


@st.composite
def layers(draw):
    """Shapes, options and layouts of a random small layer that is valid."""
    ndim = draw(st.integers(1, 3))
    most = {1: 24, 2: 10, 3: 6}[ndim]
    mode = draw(st.sampled_from(MODES))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, dilation, padding, kernel, spatial = [], [], [], [], []
    for _ in range(ndim):
        n = draw(st.integers(1, most))
        limit = {"zeros": 4, "replicate": 4, "reflect": min(4, n - 1), "circular": min(4, n)}[mode]
        low, high = draw(st.integers(0, limit)), draw(st.integers(0, limit))
        k = draw(st.integers(1, min(5, low + n + high)))
        d = (
            draw(st.integers(1, max(1, (low + n + high - 1) // (k - 1))))
            if k > 1
            else draw(st.integers(1, 3))
        )
        stride.append(draw(st.integers(1, 4)))
        dilation.append(min(d, 4) if k > 1 else d)
        padding.append((low, high))
        kernel.append(k)
        spatial.append(n)
    # Small images with many channels are the kernels' own business, too.
    if math.prod(spatial) * math.prod(kernel) <= 300 and draw(st.booleans()):
        if draw(st.booleans()):
            groups, per_group = draw(st.sampled_from([12, 19, 33])), (1, draw(st.integers(1, 2)))
        else:
            per_group = draw(st.sampled_from([17, 32, 40])), draw(st.sampled_from([16, 33, 40]))
    shape = (draw(st.integers(0, 3)), groups * per_group[0], *spatial)
    w_shape = (groups * per_group[1], per_group[0], *kernel)
    options = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
        "padding_mode": mode,
    }
    layouts = [draw(st.sampled_from(list(LAYOUTS))) for _ in range(3)]
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return shape, w_shape, options, layouts, dtype, draw(st.integers(0, 2**32 - 1))


@given(layer=layers())
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_random_layers(layer, backend, tol):
    shape, w_shape, options, layouts, dtype, seed = layer
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s).astype(dtype) for s in (shape, w_shape))
    bias = rng.standard_normal(w_shape[0]).astype(dtype)
    one = slow_conv(np.ones((1, *shape[1:])), w, **options)
    grad = rng.standard_normal((shape[0], *one.shape[1:])).astype(dtype)
    precise = everything(*(a.astype(float) for a in (x, w, grad)), options, backend="reference")
    size = everything(*(abs(a).astype(float) for a in (x, w, grad)), options, backend="reference")
    views = [LAYOUTS[layout](a) for layout, a in zip(layouts, (x, w, grad), strict=True)]
    got = everything(*views, options, backend=backend)
    for name, expected in precise.items():
        assert got[name].dtype == dtype
        assert got[name].shape == expected.shape
        bound = tol("conv", dtype) * max(size[name].max(initial=0), 1)
        assert abs(got[name] - expected).max(initial=0) < bound, name
    if shape[0]:
        expected = slow_conv(x, w, bias, **options)
        with_bias = ops.conv(views[0], views[1], bias, **options, backend=backend)
        assert abs(with_bias - expected).max() < tol("conv", dtype) * (size["conv"].max() + abs(bias).max())
    again = everything(*views, options, backend=backend, num_threads=3)
    assert all(np.array_equal(again[name], got[name]) for name in got)


def test_the_strategy_reaches_what_it_should():
    """Every mode, layout and rank, empty batches, strides beyond the kernel, long dilations."""
    seen = set()

    @given(layer=layers())
    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    def collect(layer):
        shape, w_shape, options, layouts, _, _ = layer
        seen.update(layouts, [options["padding_mode"], len(shape) - 2])
        seen.update({"empty"} if shape[0] == 0 else ())
        skips = any(s > k for s, k in zip(options["stride"], w_shape[2:], strict=True))
        seen.update({"skips"} if skips else ())
        seen.update({"dilated"} if max(options["dilation"]) > 2 else ())
        seen.update({"one voxel"} if 1 in shape[2:] else ())
        seen.update({"depthwise"} if w_shape[1] == 1 and options["groups"] > 1 else ())
        seen.update({"depthwise of many"} if w_shape[1] == 1 and options["groups"] > 10 else ())
        seen.update({"many"} if min(w_shape[:2]) > 10 else ())

    collect()
    named = ("empty", "skips", "dilated", "one voxel", "depthwise", "depthwise of many", "many")
    wanted = itertools.chain(LAYOUTS, MODES, (1, 2, 3), named)
    assert seen >= set(wanted)


# Through transforms: forced on small layers, and where the cost model chooses them


FORCED = [
    name
    for name, (shape, _, options) in CASES.items()
    if len(shape) > 3
    and "stride" not in options
    # Whose many pairs are each treated as those of the others; which is padded beyond its reach.
    and name not in ("2d-wide", "2d-many", "2d-pointwise-padded")
]


@pytest.fixture
def used(monkeypatch):
    """Transforms wherever they apply; the list tells for which layers."""
    layers = []

    def forced(kernels, layer, weight):
        if _spectral.applies(layer):
            layers.append(layer)
            return True
        return False

    monkeypatch.setattr(_call, "_is_spectral", forced)
    return layers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", FORCED)
def test_transforms_against_direct_sums(case, mode, dtype, backend, rng, tol, used):
    x, w, grad, options = case_arrays(case, rng, dtype, mode)
    bias = rng.standard_normal(len(w)).astype(dtype)
    expected = slow_conv(x, w, bias, **options)
    got = ops.conv(x, w, bias, **options, backend=backend)
    assert got.dtype == dtype and got.shape == expected.shape
    scale = slow_conv(abs(x), abs(w), abs(bias), **options).max()
    assert abs(got - expected).max() < tol("conv_spectral", dtype) * scale
    clipped = ops.conv(x, w, bias, **options, backend=backend, relu=True)
    assert np.array_equal(clipped, np.maximum(got, 0))
    free = everything(x, w, grad, options, backend=backend)
    sums = everything(*(a.astype(float) for a in (x, w, grad)), options, backend="reference", exact=True)
    for name, other in sums.items():
        assert free[name].dtype == dtype
        assert abs(free[name] - other).max() < tol("conv_spectral", dtype) * scale * w.size, name
    value = dot(free["conv"], grad)
    for name, other in (("conv_input_grad", x), ("conv_transpose_weight_grad", w)):
        allowed = tol("conv_spectral", dtype) * dot(slow_conv(abs(x), abs(w), **options), abs(grad))
        assert abs(dot(free[name], other) - value) < allowed, name
    assert used


def test_transforms_bias_and_relu_of_the_transposed(backend, rng, tol, used):
    for mode in MODES:
        x, w = rng.standard_normal((2, 3, 8, 9)), rng.standard_normal((3, 2, 3, 4))
        bias, options = rng.standard_normal(2), {"padding": 1, "padding_mode": mode}
        got = ops.conv_transpose(x, w, bias, **options, relu=True, backend=backend)
        plain = ops.conv_transpose(x, w, **options, exact=True, backend="reference")
        expected = np.maximum(plain + bias[:, None, None], 0)
        assert abs(got - expected).max() < tol("conv_spectral", np.float64) * abs(plain).max() * w.size
    assert len(used) == len(MODES)


def layer(shape, w_shape, **options):
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros", **options}
    return _geometry.conv_layer(shape, w_shape, *given.values())


def test_where_transforms_apply():
    assert _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), padding=8))
    assert not _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), padding=9))
    assert _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), padding=9, padding_mode="reflect"))
    assert not _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), stride=(1, 2)))
    assert not _spectral.applies(layer((1, 1, 40, 3), (1, 1, 9, 9), padding=(0, 4)))


@pytest.mark.parametrize(
    ("shape", "w_shape", "options", "chosen"),
    [
        ((1, 1, 128, 128, 128), (1, 1, 9, 9, 9), {}, True),
        ((1, 1, 512, 512), (1, 1, 31, 31), {"padding": 15}, True),
        ((1, 64, 256, 256), (64, 64, 3, 3), {}, False),
        ((1, 64, 256, 256), (64, 1, 7, 7), {"groups": 64}, False),
        ((1, 64, 256, 256), (64, 1, 31, 31), {"groups": 64}, True),
        ((1, 1, 24, 24), (1, 1, 11, 11), {}, False),
    ],
    ids=str,
)
def test_choice_of_transforms(shape, w_shape, options, chosen):
    kernels = mf.backends.resolve("auto")
    assert _spectral.is_cheaper(layer(shape, w_shape, **options), kernels) is chosen


def test_large_kernels_take_transforms(backend, rng, tol):
    x = rng.integers(-3, 4, (1, 1, 150, 160)).astype(np.float32)
    w = rng.integers(-3, 4, (1, 1, 41, 43)).astype(np.float32)
    expected = slow_conv(x, w)
    scale = slow_conv(abs(x), abs(w)).max()
    assert np.array_equal(ops.conv(x, w, backend=backend, exact=True), expected)
    one = ops.conv(x, w, backend=backend, num_threads=1)
    assert not np.array_equal(one, expected), "sums of integers would be exact: these were transforms"
    assert abs(one - expected).max() < tol("conv_spectral", np.float32) * scale
    assert np.array_equal(one, ops.conv(x, w, backend=backend, num_threads=2))
