"""Convolution's CUDA kernels: every way to cut a shape into blocks, against the reference backend.

What any backend must do is in test_conv.py, which runs on this one as well.
"""

import math

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _device
from medeconv_fast.backends import reference

if "cuda" not in mf.backends.available():
    pytest.skip("SKIPPED: backend 'cuda' is not available here, nor emulated", allow_module_level=True)
from medeconv_fast.backends import cuda

pytestmark = pytest.mark.filterwarnings("error")


def plans(shape, w_shape, dtype, *, stride=1, padding=0, dilation=1, groups=1, mode="zeros", exact=True):
    ndim = len(shape) - 2
    every = [
        (v,) * ndim if isinstance(v, int) else v
        for v in (stride, ((padding, padding) if isinstance(padding, int) else padding), dilation)
    ]
    pairs = (every[1],) * ndim if isinstance(padding, int) else padding
    arguments = (shape, w_shape, every[0], pairs, every[2], groups, mode)
    return cuda.ConvPlan(*arguments, dtype, exact), reference.ConvPlan(*arguments, np.float64, exact)


def results(plan, x, w, grad, bias, source_bias, dtype):
    """All that a plan computes, of arrays in its dtype."""
    x, w, grad, bias, source_bias = (a.astype(dtype) for a in (x, w, grad, bias, source_bias))
    y, to_x, to_w = (np.full(s, np.nan, dtype) for s in (plan.output_shape, plan.input_shape, w.shape))
    plan.forward(x, w, bias, y, relu=True)
    plan.input_grad(grad, w, source_bias, to_x)
    plan.weight_grad(grad, x, to_w)
    return {"forward": y, "input_grad": to_x, "weight_grad": to_w}


# Shapes, options, and what the cut of forward, input gradient and weight gradient must be there to be tested.
CUTS = {
    "rows": ((1, 3, 12, 40), (1, 3, 3, 3), {"padding": 1}, ({"kernel": "rows", "rows": 4}, {}, {})),
    "line": ((2, 3, 90), (1, 3, 8), {"padding": 4}, ({"kernel": "rows", "rows": 1}, {}, {})),
    "next rows": (
        (1, 2, 80, 256),
        (33, 2, 3, 3),
        {"padding": 1},
        ({"segment": 40, "threads": (64, 1, 2)}, {}, {}),
    ),
    "flat": ((1, 2, 13, 13), (6, 2, 3, 3), {"padding": 1}, ({"kernel": "table", "segment": 32}, {}, {})),
    "teams": ((1, 1, 40000), (64, 1, 2), {}, ({"threads": (32, 2, 1)}, {}, {})),
    "32 rows": (
        (1, 230, 6, 7),
        (33, 230, 3, 3),
        {"padding": 1},
        ({"rows": 32, "parts": 58}, {"parts": 9}, {}),
    ),
    "parts of groups": (
        (2, 260, 5, 5),
        (6, 130, 3, 3),
        {"padding": 1, "groups": 2},
        ({"sources_at_once": 4, "parts": 33}, {}, {}),
    ),
    "parts of rows": (
        (1, 300, 12, 12),
        (1, 300, 3, 3),
        {"padding": 1},
        ({"kernel": "rows", "parts": 38}, {"kernel": "points"}, {}),
    ),
    "parts of phases": (
        (1, 70, 9, 9),
        (150, 70, 3, 3),
        {"stride": 2, "padding": 1},
        ({"parts": 18}, {"merged": (1, 1, 1), "parts": 19}, {}),
    ),
    "parts of slices": (
        (1, 60, 3, 4, 5),
        (20, 60, 3, 3, 3),
        {"padding": 1},
        ({"parts": 45}, {"parts": 15}, {}),
    ),
    "parts of a padding": (
        (1, 70, 6, 6),
        (90, 70, 3, 3),
        {"padding": 1, "mode": "reflect"},
        ({"parts": 18}, {"parts": 23, "tile": (8, 8)}, {}),
    ),
    "parts of a single tap": ((1, 512, 6, 7), (20, 512, 1, 1), {}, ({"parts": 43}, {}, {})),
    "points": (
        (2, 10, 9, 12),
        (20, 1, 3, 5),
        {"stride": (2, 3), "padding": 1, "groups": 10, "dilation": (1, 2)},
        ({"kernel": "points"}, {}, {}),
    ),
    "points of phases": (
        (2, 5, 6, 9, 7),
        (5, 1, 2, 3, 2),
        {"stride": (1, 2, 3), "dilation": (3, 2, 1), "padding": 2, "groups": 5},
        ({"kernel": "points"}, {"kernel": "points"}, {}),
    ),
    "merged": ((1, 2, 6, 14), (9, 2, 2, 2), {"stride": 2}, ({}, {"merged": (1, 2, 2)}, {})),
    "phases": ((1, 9, 7, 13), (9, 9, 3, 4), {"stride": 3}, ({}, {"merged": (1, 1, 1)}, {})),
    "phases without taps": ((1, 2, 3, 40), (1, 2, 2, 2), {"stride": (2, 5)}, ({}, {"merged": (1, 1, 1)}, {})),
    "taps in blocks": ((1, 1, 960), (16, 1, 900), {}, ({"taps": (1, 450)}, {}, {"of": (1, 1, 1, 1, 29)})),
    "taps of a column": ((1, 1, 420, 10), (1, 1, 400, 3), {}, ({"kernel": "rows", "taps": (200, 3)}, {}, {})),
    "far apart": ((1, 2, 90, 90), (2, 2, 3, 3), {"dilation": 40}, ({"taps": (3, 2)}, {}, {})),
    "many weights": ((1, 40, 5, 6), (70, 40, 3, 3), {"padding": 1}, ({}, {}, {"of": (2, 2, 1, 1, 1)})),
    "parts": ((2, 2, 30, 70), (5, 2, 3, 3), {}, ({}, {}, {"own": (4, 2, 3), "parts": 16})),
}


@pytest.mark.parametrize("name", CUTS)
def test_every_cut(name, dtype, rng, tol):
    """Small integers are summed without rounding: one wrong product shows; then numbers of any size."""
    shape, w_shape, options, cuts = CUTS[name]
    plan, precise = plans(shape, w_shape, dtype, **options)
    if dtype == np.float32:
        for cut, expected in zip(plan._plan.cuts, cuts, strict=True):
            assert {key: cut[key] for key in expected} == expected
    shapes = (shape, w_shape, plan.output_shape, w_shape[:1], shape[1:2])
    for draw in (lambda s: rng.integers(-3, 4, s), rng.standard_normal):
        arrays = [draw(s) for s in shapes]
        exact = np.issubdtype(arrays[0].dtype, np.integer)
        expected = results(precise, *arrays, np.float64)
        scale = results(precise, *map(abs, arrays), np.float64)
        for key, got in results(plan, *arrays, dtype).items():
            bound = 0 if exact else tol("conv", dtype) * scale[key].max()
            assert abs(got - expected[key]).max() <= bound, key


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 2, 1, 5), (2, 2, 4, 3, 2)], ids=str)
def test_padding_longer_than_the_axis(shape, mode, rng):
    """Further than `mf.ops` lets it go: values repeat periodically; the transpose adds them up again."""
    kernel = (2,) * (len(shape) - 2)
    plan, precise = plans(shape, (3, shape[1], *kernel), np.float64, padding=9, mode=mode)
    shapes = (shape, plan.weight_shape, plan.output_shape, (3,), shape[1:2])
    arrays = [rng.integers(-3, 4, s) for s in shapes]
    expected = results(precise, *arrays, np.float64)
    for key, got in results(plan, *arrays, np.float64).items():
        assert np.array_equal(got, expected[key]), key


def test_nan_does_not_cross_phases():
    """A tap that only one phase has is not multiplied with zero for the others."""
    plan, _ = plans((1, 1, 7, 7), (1, 1, 3, 3), np.float32, stride=2)
    grad = np.ones(plan.output_shape, np.float32)
    grad[0, 0, 1, 1] = np.nan
    out = np.empty(plan.input_shape, np.float32)
    plan.input_grad(grad, np.ones((1, 1, 3, 3), np.float32), None, out)
    expected = np.zeros((7, 7), bool)
    expected[2:5, 2:5] = True
    assert np.array_equal(np.isnan(out[0, 0]), expected)


def test_nan_stays_out_of_weights_that_do_not_see_it():
    """The last positions of a row are not made up to a vector."""
    plan, _ = plans((1, 1, 9), (1, 1, 4), np.float32)
    x = np.ones(plan.input_shape, np.float32)
    x[..., -1] = np.nan
    out = np.empty(plan.weight_shape, np.float32)
    plan.weight_grad(np.ones(plan.output_shape, np.float32), x, out)
    assert np.isnan(out[0, 0]).tolist() == [False, False, False, True]


@pytest.mark.parametrize("shape", [(3, 2, 5), (2, 3, 70, 130), (1, 1, 3, 50, 60), (5, 700, 1)], ids=str)
def test_sum_channels(shape, dtype, rng):
    x = rng.integers(-9, 10, shape).astype(dtype)
    out = np.full(shape[1], np.nan, dtype)
    cuda.sum_channels(x, out)
    assert np.array_equal(out, x.sum(axis=(0, *range(2, x.ndim)), dtype=float))


@pytest.mark.parametrize("shape", [(2, 3, 20, 30), (1, 71, 5, 5)], ids=str)
def test_workspace_is_what_is_said(shape, dtype):
    """The padded gradient in whole vectors, and results as often as a sum has parts."""
    w_shape = (shape[1] + 1, shape[1], 3, 3)
    plan, _ = plans(shape, w_shape, dtype, padding=1, mode="reflect")
    forward, backward, weight = (cut["parts"] if cut["parts"] > 1 else 0 for cut in plan._plan.cuts)
    assert (forward > 1, backward > 1) == (shape[1] > 3,) * 2
    padded = shape[0] * shape[1] * (shape[2] + 2) * (shape[3] + 2)
    sizes = {
        "forward": forward * math.prod(plan.output_shape),
        "input_grad": -(-padded // 4) * 4 + backward * padded,
        "weight_grad": weight * math.prod(w_shape),
    }
    itemsize = np.dtype(dtype).itemsize
    for call, size in sizes.items():
        assert getattr(plan._plan, call + "_bytes") == size * itemsize, call
    assert plan.workspace_bytes == max(sizes.values()) * itemsize


@pytest.mark.parametrize("parts", [1, 7, 8, 9, 40, 300])
def test_parts_are_added_in_order(parts, dtype, rng):
    """Of a weight gradient whose tiles are dealt out: the same bits again, and as exact as its type."""
    x, grad = (
        rng.standard_normal((parts, 1, 1, 8)).astype(dtype),
        rng.standard_normal((parts, 1, 1, 8)).astype(dtype),
    )
    plan, precise = plans(x.shape, (1, 1, 1, 1), dtype)
    assert plan._plan.cuts[2]["parts"] == parts
    got, again, expected = (
        np.empty((1, 1, 1, 1), dtype),
        np.empty((1, 1, 1, 1), dtype),
        np.empty((1, 1, 1, 1)),
    )
    plan.weight_grad(grad, x, got)
    plan.weight_grad(grad, x, again)
    precise.weight_grad(grad.astype(float), x.astype(float), expected)
    assert got == again
    assert abs(got - expected) <= 8 * np.finfo(dtype).eps * (abs(grad) * abs(x)).sum()


def test_arrays_in_gpu_memory_stay_there(rng):
    """The bits of the same call on host arrays; weights may be on the host."""
    x, w = rng.standard_normal((2, 3, 9, 11)), rng.standard_normal((4, 3, 3, 4))
    bias, y = rng.standard_normal(4), rng.standard_normal((2, 4, 5, 5))
    options = {"stride": 2, "padding": 1}
    upload = _device.own_memory().uploaded
    for function, *arrays in (
        (mf.ops.conv, x, w, bias),
        (mf.ops.conv_transpose, y, w.astype(np.float32)),
        (mf.ops.conv_input_grad, y, w, x.shape),
        (mf.ops.conv_weight_grad, y, x, w.shape),
        (mf.ops.conv_bias_grad, y),
    ):
        keywords = options if function is not mf.ops.conv_bias_grad else {}
        resident = [upload(arrays[0]), *arrays[1:]]
        if function is mf.ops.conv_weight_grad:
            resident[1] = upload(x)
        expected = function(*arrays, **keywords, backend="cuda")
        got = function(*resident, **keywords)
        assert isinstance(got, _device.DeviceArray)
        assert np.array_equal(got.numpy(), expected)
        out = upload(np.full(expected.shape, np.nan))
        assert function(*resident, **keywords, out=out) is out
        assert np.array_equal(out.numpy(), expected)


def test_what_is_refused_in_gpu_memory(rng):
    upload = _device.own_memory().uploaded
    x, w = upload(rng.standard_normal((1, 2, 6, 6))), upload(rng.standard_normal((2, 2, 3, 3)))
    with pytest.raises(ValueError, match="out: shares memory with x"):
        mf.ops.conv(x, w, padding=1, out=x)
    with pytest.raises(
        ValueError, match=r"out: got .*, expected a writable C-contiguous array in GPU memory"
    ):
        mf.ops.conv(x, w, padding=1, out=np.empty((1, 2, 6, 6)))
    with pytest.raises(ValueError, match="backend: got 'cpp'"):
        mf.ops.conv(x, w, backend="cpp")
    with pytest.raises(NotImplementedError, match="output_padding"):
        mf.ops.conv_transpose(x, w, dilation=3, output_padding=2)
    empty = mf.ops.conv(
        upload(np.ones((2, 0, 5))), np.ones((3, 0, 2)), upload(np.array([1.0, -2, 3])), relu=True
    )
    assert np.array_equal(empty.numpy(), np.broadcast_to([[1.0], [0], [3]], (2, 3, 4)))


def test_large_kernels_in_gpu_memory_are_summed(rng):
    """Transforms go through the host; a resident array does not."""
    x, w = rng.standard_normal((1, 1, 20, 21)), rng.standard_normal((1, 1, 15, 15))
    got = mf.ops.conv(_device.own_memory().uploaded(x), w)
    assert np.array_equal(got.numpy(), mf.ops.conv(x, w, exact=True, backend="cuda"))
