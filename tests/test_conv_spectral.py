"""mf.ops through transforms: forced on small layers, and where the cost model chooses them."""

import numpy as np
import pytest
from test_conv import CASES, MODES, case_arrays, dot, everything, slow_conv

from medeconv_fast import backends, ops
from medeconv_fast.ops import _call, _geometry, _spectral

FORCED = [name for name, (_, _, options) in CASES.items() if "stride" not in options]


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
def test_against_direct_sums(case, mode, dtype, backend, rng, tol, used):
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
    assert used or case == "1d-one-voxel"


def test_bias_and_relu_of_the_transposed(backend, rng, tol, used):
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


def test_where_it_applies():
    assert _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), padding=8))
    assert not _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), padding=9))
    assert _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), padding=9, padding_mode="reflect"))
    assert not _spectral.applies(layer((1, 1, 40, 41), (1, 1, 9, 9), stride=(1, 2)))
    assert not _spectral.applies(layer((1, 1, 40, 9), (1, 1, 9, 9), padding=(0, 2)))


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
def test_choice(shape, w_shape, options, chosen):
    kernels = backends.resolve("auto")
    assert _spectral.is_cheaper(layer(shape, w_shape, **options), kernels) is chosen


def test_large_kernels_take_it(backend, rng, tol):
    x = rng.integers(-3, 4, (1, 1, 150, 160)).astype(np.float32)
    w = rng.integers(-3, 4, (1, 1, 41, 43)).astype(np.float32)
    expected = slow_conv(x, w)
    scale = slow_conv(abs(x), abs(w)).max()
    assert np.array_equal(ops.conv(x, w, backend=backend, exact=True), expected)
    one = ops.conv(x, w, backend=backend, num_threads=1)
    assert not np.array_equal(one, expected), "sums of integers would be exact: these were transforms"
    assert abs(one - expected).max() < tol("conv_spectral", np.float32) * scale
    assert np.array_equal(one, ops.conv(x, w, backend=backend, num_threads=2))
