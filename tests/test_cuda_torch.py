"""Torch's own tensors and autograd over the CUDA backend: on a GPU, or on the emulator.

Its device memory is the host's, so that torch's CPU tensors can play tensors in GPU memory.
"""

import os
import types

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _device
from medeconv_fast.backends import cuda

torch = pytest.importorskip("torch")
EMULATED = bool(os.environ.get("MEDECONV_TEST_EMULATOR"))
pytestmark = pytest.mark.skipif(
    not (cuda.is_available() and (EMULATED or torch.cuda.is_available())),
    reason="SKIPPED: no GPU that torch sees, and MEDECONV_TEST_EMULATOR names no emulator",
)


@pytest.fixture
def on_gpu(monkeypatch):
    """put: a tensor into GPU memory; get: its way back.

    Torch gives a CPU tensor's memory back without waiting for a stream: the emulator's must work at once.
    """
    if not EMULATED:
        return types.SimpleNamespace(put=lambda t: t.cuda(), get=lambda t: t.cpu())
    place = _device.native().Place(0)

    def layout(tensor):
        return {
            "shape": tuple(tensor.shape),
            "typestr": np.dtype(str(tensor.dtype).removeprefix("torch.")).str,
            "data": (tensor.data_ptr(), False),
            "strides": tuple(s * tensor.element_size() for s in tensor.stride()),
            "version": 2,
        }

    on_device = _device.on_device
    monkeypatch.setattr(
        _device, "on_device", lambda value: isinstance(value, torch.Tensor) or on_device(value)
    )
    monkeypatch.setattr(torch.Tensor, "__cuda_array_interface__", property(layout))
    stream = types.SimpleNamespace(cuda_stream=place.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: place.stream, raising=False)

    def get(tensor):
        place.synchronize()
        return tensor.detach()

    return types.SimpleNamespace(put=lambda t: t.clone(), get=get)


def leaf(on_gpu, array):
    return on_gpu.put(torch.from_numpy(array)).requires_grad_()


@pytest.mark.parametrize("transposed", [False, True])
def test_autograd_goes_through_our_kernels(on_gpu, transposed, rng, tol):
    from medeconv_fast.compat import torch as bridge

    x = rng.standard_normal((2, 4, 9, 11)).astype(np.float32)
    w = rng.standard_normal((4, 2, 3, 2) if transposed else (6, 2, 3, 2)).astype(np.float32)
    b = rng.standard_normal(4 if transposed else 6).astype(np.float32)
    name = "conv_transpose2d" if transposed else "conv2d"
    options = {"stride": 2, "padding": 1, "groups": 2}
    ours = [leaf(on_gpu, a) for a in (x, w, b)]
    y = getattr(bridge, name)(*ours, **options)
    assert isinstance(y, torch.Tensor) and y.device == ours[0].device
    theirs = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, w, b)]
    expected = getattr(torch.nn.functional, name)(*theirs, **options)
    grad = rng.standard_normal(tuple(expected.shape)).astype(np.float32)
    y.backward(on_gpu.put(torch.from_numpy(grad)))
    expected.backward(torch.from_numpy(grad.astype(np.float64)))
    pairs = [(on_gpu.get(y), expected.detach())]
    pairs += [(on_gpu.get(a.grad), b.grad) for a, b in zip(ours, theirs, strict=True)]
    for got, want in pairs:
        error = torch.linalg.vector_norm(got.double() - want) / torch.linalg.vector_norm(want)
        assert float(error) < tol("conv_torch", np.float32)


def test_strided_tensors(on_gpu, rng, tol, relative_error):
    """What is not contiguous is copied by torch, on its stream, before the kernels see it."""
    x = rng.standard_normal((1, 3, 12, 10)).astype(np.float32)
    w = rng.standard_normal((2, 3, 3, 3)).astype(np.float32)
    turned = on_gpu.put(torch.from_numpy(x)).permute(0, 1, 3, 2)
    got = mf.ops.conv(turned, on_gpu.put(torch.from_numpy(w)), padding=1)
    expected = mf.ops.conv(np.ascontiguousarray(x.transpose(0, 1, 3, 2)), w, padding=1, backend="reference")
    assert relative_error(on_gpu.get(got).numpy(), expected) < tol("conv_torch", np.float32)


def test_restoration(on_gpu, rng, tol, relative_error):
    image = rng.poisson(30.0, (6, 15, 18)).astype(np.float32)
    psf = mf.psf.gaussian((2, 2, 2), (1, 1, 1))
    got = mf.richardson_lucy(on_gpu.put(torch.from_numpy(image)), psf, 4)
    assert isinstance(got, torch.Tensor)
    expected = mf.richardson_lucy(image, psf, 4, backend="reference")
    assert relative_error(on_gpu.get(got).numpy(), expected) < tol("backends", np.float32)
