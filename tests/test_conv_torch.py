"""Against torch: its own sample and error inputs, and the bridge's autograd, compiler and modules."""

import copy
import functools
import importlib
import inspect
import subprocess
import sys
import types
import unittest
import warnings

import numpy as np
import pytest

import medeconv_fast as mf

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed (extra torch)")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Using padding='same'"),  # torch about its own copy
]
functional = torch.nn.functional

NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@functools.cache
def opinfo(name):
    """torch's table entry, with the samples that torch tests itself on."""
    try:
        importlib.import_module("expecttest")
    except ImportError:
        # torch's table imports it for torch's own test cases, of which nothing is used here.
        sys.modules["expecttest"] = types.SimpleNamespace(TestCase=unittest.TestCase)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    (found,) = [op for op in op_db if op.name == f"nn.functional.{name}"]
    return found


def samples(name):
    found = list(opinfo(name).sample_inputs("cpu", torch.float64))
    assert len(found) >= 10
    return found


@pytest.fixture(params=mf.backends.available())
def backend(request):
    mf.use_backend(request.param)  # the bridge has no argument for it
    yield request.param
    mf.use_backend("auto")


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Torch's arrays here are tiny: with several threads most of the time goes into their waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# For what is slow and about the bridge, not about a backend's numbers.
first_backend = pytest.mark.parametrize("backend", mf.backends.available()[:1], indirect=True)


@pytest.fixture
def bridge():
    return mf.compat.torch


def leaf(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def gap(got, expected):
    """Largest error over the largest value that was expected."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    return float((got - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-300))


# torch's samples


@pytest.mark.parametrize("name", NAMES)
def test_sample_inputs(name, backend, bridge, tol):
    for sample in samples(name):
        x, (w, bias), options = sample.input, sample.args, sample.kwargs
        expected = getattr(functional, name)(x, w, bias, **options)
        got = getattr(mf.ops, name)(x, w, bias, **options, backend=backend)
        assert isinstance(got, torch.Tensor)
        assert gap(got, expected) < tol("conv_torch"), sample
        arrays = [None if t is None else t.numpy() for t in (x, w, bias)]
        as_numpy = getattr(mf.ops, name)(*arrays, **options, backend=backend)
        assert isinstance(as_numpy, np.ndarray)
        assert np.array_equal(as_numpy, got.numpy())
        assert torch.equal(getattr(bridge, name)(x, w, bias, **options), got)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_sample_inputs(name, backend, bridge, tol):
    """The bridge's gradients and the functions for them, against torch's autograd."""
    transposed = name.startswith("conv_transpose")
    stem = "conv_transpose" if transposed else "conv"
    for sample in samples(name):
        options = sample.kwargs
        theirs = [None if t is None else t.clone().requires_grad_() for t in (sample.input, *sample.args)]
        ours = [None if t is None else t.clone().requires_grad_() for t in (sample.input, *sample.args)]
        expected = getattr(functional, name)(*theirs, **options)
        grad = leaf(*expected.shape).detach()
        expected.backward(grad)
        getattr(bridge, name)(*ours, **options).backward(grad)
        for one, other in zip(ours, theirs, strict=True):
            assert one is None or gap(one.grad, other.grad) < tol("conv_torch"), sample
        x, w, bias = (None if t is None else t.detach() for t in theirs)
        to_x = getattr(mf.ops, f"{stem}_input_grad")(grad, w, x.shape, **options, backend=backend)
        to_w = getattr(mf.ops, f"{stem}_weight_grad")(grad, x, w.shape, **options, backend=backend)
        assert gap(to_x, theirs[0].grad) < tol("conv_torch"), sample
        assert gap(to_w, theirs[1].grad) < tol("conv_torch"), sample
        if bias is not None:
            batched = x.ndim == w.ndim
            to_bias = mf.ops.conv_bias_grad(grad, batched=batched, backend=backend)
            assert gap(to_bias, theirs[2].grad) < tol("conv_torch"), sample


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d"])
def test_error_inputs_are_rejected(name, backend, bridge):
    errors = list(opinfo(name).error_inputs("cpu"))
    assert len(errors) >= 9
    for error in errors:
        sample = error.sample_input
        for function in (getattr(mf.ops, name), getattr(bridge, name)):
            with pytest.raises((ValueError, TypeError), match=r"^\w+(\[\d\])?: .* expected"):
                function(sample.input, *sample.args, **sample.kwargs)


MODES = ("reflect", "replicate", "circular")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [(1, 2), (2, 0), "same"], ids=str)
def test_padding_modes_of_modules(mode, padding, backend, bridge, tol):
    kernel = (4, 3) if padding == "same" else (3, 3)
    theirs = torch.nn.Conv2d(4, 6, kernel, padding=padding, padding_mode=mode, groups=2, dtype=torch.float64)
    ours = bridge.Conv2d.from_torch(theirs)
    x = leaf(2, 4, 7, 8)
    grad = leaf(*theirs(x).shape, seed=1).detach()
    expected, got = theirs(x), ours(x)
    assert gap(got, expected) < tol("conv_torch")
    for one, other in zip(
        torch.autograd.grad(got, (x, *ours.parameters()), grad),
        torch.autograd.grad(expected, (x, *theirs.parameters()), grad),
        strict=True,
    ):
        assert gap(one, other) < tol("conv_torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "w_shape", "options"),
    [
        ((2, 3, 33), (5, 3, 4), {"stride": 2, "padding": 3, "dilation": 2}),
        ((2, 16, 21, 22), (16, 16, 3, 3), {"padding": 1}),
        ((1, 8, 15, 17), (8, 1, 7, 7), {"padding": 3, "groups": 8}),
        ((1, 1, 14, 13, 12), (1, 1, 5, 5, 5), {"padding": 2}),
    ],
    ids=str,
)
def test_larger_arrays(shape, w_shape, options, dtype, backend, tol):
    x, w = (leaf(*s, dtype=dtype).detach() for s in (shape, w_shape))
    name = f"conv{len(shape) - 2}d"
    expected = getattr(functional, name)(x.double(), w.double(), **options).to(dtype)
    got = getattr(mf.ops, name)(x, w, **options, backend=backend)
    assert gap(got, expected) < tol("conv_torch", str(dtype).removeprefix("torch."))


# Tensors in mf.ops


class Labelled(torch.Tensor):
    """Another library's kind of tensor."""


def test_tensors_share_memory_and_stay_what_they_are(backend):
    x, w = leaf(2, 3, 6, 7).detach(), leaf(4, 3, 3, 3).detach()
    expected = functional.conv2d(x, w)
    out = torch.empty_like(expected)
    assert mf.ops.conv(x, w, out=out, backend=backend) is out
    assert gap(out, expected) < 1e-12
    from_views = mf.ops.conv(x.mT.contiguous().mT, w.flip(0).flip(0).numpy(), backend=backend)
    assert torch.equal(from_views, out)
    assert mf.ops.conv(x.half(), w, backend=backend).dtype == torch.float32
    assert isinstance(mf.ops.conv(x.numpy(), w, backend=backend), np.ndarray)
    assert isinstance(mf.ops.conv_bias_grad(x, backend=backend), torch.Tensor)
    assert mf.ops.conv(torch.empty(0, 3, 6, 7), w, backend=backend).shape == (0, 4, 4, 5)
    negated = torch.complex(x, x).conj().imag
    assert negated.is_neg()
    assert torch.equal(mf.ops.conv(negated, w, backend=backend), -out)
    made = mf.ops.conv(negated.as_subclass(Labelled), w, backend=backend)  # as MONAI's and torchvision's
    assert type(made) is torch.Tensor and torch.equal(made, -out)
    labelled = torch.empty_like(expected).as_subclass(Labelled)
    assert mf.ops.conv(x, w, out=labelled, backend=backend) is labelled and torch.equal(labelled, out)
    with pytest.raises(TypeError, match=r"pass .detach\(\)"):
        mf.ops.conv(leaf(2, 3, 6, 7).as_subclass(Labelled), w, backend=backend)
    with pytest.raises(TypeError, match="x: got a torch tensor on the device 'meta', which has no values"):
        mf.ops.conv(x.to("meta"), w, backend=backend)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.requires_grad_(), TypeError, "out: got a torch tensor that requires a gradient"),
        (lambda t: t.float(), TypeError, "out: got dtype float32"),
        (lambda t: t.mT.contiguous().mT, ValueError, "out: got an array that is not C-contiguous"),
        (lambda t: t.bfloat16(), TypeError, "out: the tensor has no memory to be written to"),
        (lambda t: t.to_sparse(), TypeError, "out: the tensor has no memory to be written to"),
        (lambda t: (1j * t).conj().imag, TypeError, "out: the tensor has no memory to be written to"),
        (lambda t: t.to("meta"), TypeError, "out: got a torch tensor on the device 'meta'"),
    ],
)
def test_bad_out_tensors(change, error, message, backend):
    x, w = leaf(2, 3, 6, 7).detach(), leaf(4, 3, 3, 3).detach()
    with pytest.raises(error, match=message):
        mf.ops.conv(x, w, out=change(torch.empty(2, 4, 4, 5, dtype=torch.float64)), backend=backend)


def test_out_tensor_must_not_overlap(backend):
    memory = torch.ones(2, 3, 6, 7, dtype=torch.float64)
    with pytest.raises(ValueError, match="out: shares memory with x"):
        mf.ops.conv(memory, torch.ones(3, 3, 1, 1), out=memory, backend=backend)


def test_tensors_that_need_a_gradient_are_refused_by_ops(backend):
    for call in (
        lambda: mf.ops.conv(leaf(2, 3, 6), leaf(4, 3, 3).detach(), backend=backend),
        lambda: mf.ops.conv(leaf(2, 3, 6).detach(), leaf(4, 3, 3), backend=backend),
    ):
        with pytest.raises(TypeError, match=r"^[xw]: got a torch tensor that requires a gradient"):
            call()


# The bridge: autograd

LAYERS = {
    "conv1d": ((2, 4, 9), (6, 2, 3), 6, {"stride": 2, "padding": (2,), "groups": 2}),
    "conv2d": ((2, 2, 5, 6), (3, 2, 2, 3), 3, {"padding": "same", "dilation": (1, 2)}),
    "conv3d": ((1, 2, 4, 3, 5), (2, 2, 2, 3, 2), 2, {"padding": ((0, 1), (1, 1), (2, 0))}),
    "conv_transpose1d": ((2, 2, 4), (2, 3, 3), 3, {"dilation": 3, "output_padding": 2}),
    "conv_transpose2d": ((2, 4, 3, 4), (4, 1, 3, 2), 2, {"stride": 2, "output_padding": (1, 0), "groups": 2}),
    "conv_transpose3d": ((1, 2, 2, 3, 2), (2, 2, 2, 2, 3), 2, {"stride": (1, 2, 2), "padding": (0, 1, 1)}),
}


def layer_arguments(name):
    shape, w_shape, channels, options = LAYERS[name]
    return (leaf(*shape), leaf(*w_shape, seed=1), leaf(channels, seed=2)), options


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
@first_backend
def test_gradcheck(name, mode, backend, bridge):
    arguments, options = layer_arguments(name)

    def function(*tensors):
        return getattr(bridge, name)(*tensors, **options, padding_mode=mode)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=name.endswith("3d"))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_are_not_wanted_are_not_computed(name, backend, bridge, monkeypatch):
    (x, w, bias), options = layer_arguments(name)
    calls = []
    for stem in ("conv", "conv_transpose", "conv_weight_grad", "conv_bias_grad"):
        function = getattr(mf.ops, stem)
        monkeypatch.setattr(
            mf.ops, stem, lambda *a, _f=function, _n=stem, **k: (calls.append(_n), _f(*a, **k))[1]
        )
    getattr(bridge, name)(x.detach(), w, None, **options).sum().backward()
    assert calls[1:] == ["conv_weight_grad"]
    del calls[:]
    getattr(bridge, name)(x.detach(), w.detach(), bias, **options).sum().backward()
    assert calls[1:] == ["conv_bias_grad"]
    del calls[:]
    assert not getattr(bridge, name)(x.detach(), w.detach(), **options).requires_grad
    assert len(calls) == 1


def test_third_derivatives(backend, bridge):
    """Three operations close under differentiation: any order works."""
    x, w = leaf(1, 2, 6), leaf(2, 2, 3, seed=1)
    results = []
    for function in (functional.conv1d, bridge.conv1d):
        y = function(x, w, padding=1)
        first = torch.autograd.grad((y**4).sum(), w, create_graph=True)[0]
        second = torch.autograd.grad((first**2).sum(), x, create_graph=True)[0]
        results.append(torch.autograd.grad((second**2).sum(), w)[0])
    assert gap(results[1], results[0]) < 1e-11


@pytest.mark.parametrize("name", ["conv1d", "conv_transpose2d"])
@first_backend
def test_forward_mode(name, backend, bridge):
    arguments, options = layer_arguments(name)

    def function(*tensors):
        return getattr(bridge, name)(*tensors, **options)

    assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, check_fwd_over_rev=True, fast_mode=True)


TRANSFORMS = {
    "jvp": lambda func, f, a: func.jvp(f, a, tuple(torch.cos(t) for t in a)),
    "jvp-of-the-bias": lambda func, f, a: func.jvp(lambda b: f(*a[:2], b), a[2:], (torch.cos(a[2]),)),
    "jacfwd": lambda func, f, a: func.jacfwd(f, (0, 1, 2))(*a),
    "jacrev": lambda func, f, a: func.jacrev(f, (0, 1, 2))(*a),
    "grad": lambda func, f, a: func.grad(lambda *t: f(*t).sum(), (0, 1, 2))(*a),
    "hessian": lambda func, f, a: func.hessian(lambda *t: f(*t).sum(), (0, 1, 2))(*a),
    "hessian-forward": lambda func, f, a: func.jacfwd(func.jacfwd(lambda *t: f(*t).sum()))(*a),
    "jacobian": lambda func, f, a: torch.autograd.functional.jacobian(
        f, a, strategy="forward-mode", vectorize=True
    ),
    "vmap": lambda func, f, a: func.vmap(lambda x: f(x, *a[1:]), 3, 1)(torch.stack([a[0], -a[0]], 3)),
    "vmap-weights": lambda func, f, a: func.vmap(f, (None, 0, 0))(
        a[0], torch.stack([a[1], -a[1]]), torch.stack([a[2], -a[2]])
    ),
    "per-sample": lambda func, f, a: func.vmap(func.grad(lambda w, x: f(x[None], w, a[2]).sum()), (None, 0))(
        a[1], a[0]
    ),
}


@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@first_backend
def test_transforms_of_torch_func(name, transform, backend, bridge):
    arguments, options = layer_arguments(name)
    arguments = tuple(t.detach() for t in arguments)
    results = []
    for module in (functional, bridge):

        def function(x, w, bias, module=module):
            return torch.sin(getattr(module, name)(x, w, bias, **options))

        results.append(
            torch.utils._pytree.tree_leaves(TRANSFORMS[transform](torch.func, function, arguments))
        )
    for expected, got in zip(*results, strict=True):
        assert gap(got, expected) < 1e-11


@first_backend
def test_tangents_inside_the_compiler_are_refused(backend, bridge):
    x, w = leaf(1, 2, 6).detach(), leaf(2, 2, 3).detach()

    def function(x):
        return torch.func.jvp(lambda q: bridge.conv1d(q, w), (x,), (x,))[1]

    with pytest.raises(Exception, match="expected forward-mode derivatives to be taken outside"):
        torch.compile(function, backend="aot_eager", fullgraph=True)(x)
    torch.compiler.reset()


def opcheck_arguments():
    options = ([2, 1], [1, 0, 2, 1], [1, 2], 2, "zeros", False)
    x, w, bias = leaf(2, 4, 6, 7), leaf(6, 2, 3, 2, seed=1), leaf(6, seed=2)
    y = leaf(2, 6, 3, 8, seed=3)
    back = leaf(4, seed=4)
    return {
        "conv": (x, w, bias, *options),
        "conv-without-gradient": (x.detach(), w.detach(), None, *options),
        "conv-float32": tuple(t.detach().float().requires_grad_() for t in (x, w, bias)) + options,
        "conv_adjoint": (y, w, back, [6, 7], *options),
        "conv_adjoint-circular": (y, w, None, [6, 7], *options[:4], "circular", False),
        "conv_weight_grad": (y, x, [6, 2, 3, 2], *options),
        "conv_bias_grad": (y,),
    }


@pytest.mark.parametrize("case", opcheck_arguments())
@first_backend
def test_opcheck(case, backend, bridge):
    operation = getattr(torch.ops.medeconv_fast, case.partition("-")[0]).default
    done = torch.library.opcheck(operation, opcheck_arguments()[case])
    assert set(done.values()) == {"SUCCESS"}
    assert len(done) == 4


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose1d"])
@first_backend
def test_compiles_without_a_break(name, backend, bridge):
    (x, w, bias), options = layer_arguments(name)

    def function(x, w, bias):
        return getattr(bridge, name)(torch.tanh(x), w, bias, **options) * 2

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for tensor in (x, torch.cat([x, x], 0).detach().requires_grad_()):
        expected, got = function(tensor, w, bias), compiled(tensor, w, bias)
        assert torch.equal(got, expected)
        for one, other in zip(
            torch.autograd.grad(got.sum(), (tensor, w, bias)),
            torch.autograd.grad(expected.sum(), (tensor, w, bias)),
            strict=True,
        ):
            assert torch.equal(one, other)
    torch.compiler.reset()


@pytest.mark.parametrize("name", NAMES)
def test_fake_shapes(name, bridge):
    """On "meta" nothing is computed; the shape must be the real one's."""
    for sample in samples(name):
        real = getattr(functional, name)(sample.input, *sample.args, **sample.kwargs)
        tensors = [None if t is None else t.to("meta") for t in (sample.input, *sample.args)]
        fake = getattr(bridge, name)(*tensors, **sample.kwargs)
        assert fake.device.type == "meta"
        assert fake.shape == real.shape


def test_results_are_the_same_for_expanded_and_odd_tensors(backend, bridge):
    x, w = leaf(2, 3, 8).detach(), leaf(4, 3, 3).detach()
    for tensor in (x[:, :, ::2], x[:1].expand(5, 3, 8), x.mT.contiguous().mT, x[0]):
        assert gap(bridge.conv1d(tensor, w), functional.conv1d(tensor, w)) < 1e-12
    inner = leaf(1, 3, 8)
    bridge.conv1d(inner, w).sum().backward()  # a gradient with strides of zero
    assert inner.grad.shape == inner.shape


def test_zero_batch_and_gradient(backend, bridge):
    x, w, bias = leaf(0, 3, 8), leaf(4, 3, 3), leaf(4)
    y = bridge.conv1d(x, w, bias)
    assert y.shape == (0, 4, 6)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not w.grad.any()
    assert not bias.grad.any()


# The bridge: arguments


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs(name, bridge):
    ours = list(inspect.signature(getattr(bridge, name)).parameters)
    assert ours[: ours.index("padding_mode")] == (
        ["input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"]
        if "transpose" in name
        else ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    )
    assert inspect.getdoc(getattr(bridge, name))


X, W = torch.ones(2, 4, 6, 7), torch.ones(6, 4, 3, 3)
BAD = {
    "input: got .*ndarray of shape": lambda f: f(X.numpy(), W),
    "weight: got 3, expected a torch tensor": lambda f: f(X, 3),
    "bias: got 1.0, expected a torch tensor": lambda f: f(X, W, 1.0),
    "input: got dtype torch.float16, expected torch.float32 or torch.float64": lambda f: f(
        X.half(), W.half()
    ),
    "input: got dtype torch.bfloat16": lambda f: f(X.bfloat16(), W.bfloat16()),
    "input: got dtype torch.int64": lambda f: f(X.long(), W.long()),
    "weight: got dtype torch.float64, expected torch.float32, the input's": lambda f: f(X, W.double()),
    "bias: got dtype torch.float64": lambda f: f(X, W, torch.ones(6).double()),
    r"bias: got shape \(5,\), expected \(6,\)": lambda f: f(X, W, torch.ones(5)),
    "input: got 3 channels, expected 4": lambda f: f(X[:, :3], W),
    "input: got 5 axes .* as weight has 2 kernel axes": lambda f: f(X[None], W),
    "weight: got 3 axes .* expected 4": lambda f: f(X, W[0]),
    "weight: the kernel": lambda f: f(X, torch.ones(6, 4, 9, 9)),
    "stride: got 0": lambda f: f(X, W, stride=0),
    "padding: got -1": lambda f: f(X, W, padding=-1),
    "padding_mode: got 'wrap'": lambda f: f(X, W, padding_mode="wrap"),
    "groups: got 5": lambda f: f(X, W, groups=5),
    "exact: got 1": lambda f: f(X, W, exact=1),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments(message, bridge):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message](bridge.conv2d)


def test_devices(bridge):
    """Tensors on a GPU are taken (tests/test_cuda_torch.py computes with them), mixtures refused."""
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        x, w = torch.empty(2, 4, 6, 7, device="cuda"), torch.empty(6, 4, 3, 3, device="cuda")
        y = bridge.conv2d(x, w)
        assert y.device.type == "cuda" and y.shape == (2, 6, 4, 5)
        with pytest.raises(
            ValueError, match=r"weight: got a tensor on cuda.*, expected it on cpu, as the input"
        ):
            bridge.conv2d(torch.empty(2, 4, 6, 7), w)
    with pytest.raises(
        NotImplementedError, match="input: got a tensor on mps, expected one on the CPU or on"
    ):
        bridge._check_device("input", torch.device("mps"), torch.device("mps"))


# The bridge: modules

MODULES = {
    "Conv1d": ((4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 11)),
    "Conv2d": ((4, 6, (3, 2)), {"padding": "same", "bias": False}, (2, 4, 7, 8)),
    "Conv3d": (
        (2, 3, 3),
        {"dilation": (1, 2, 1), "padding_mode": "replicate", "padding": 1},
        (1, 2, 5, 6, 7),
    ),
    "ConvTranspose1d": ((4, 6, 3), {"stride": 3, "output_padding": 2, "groups": 2}, (2, 4, 5)),
    "ConvTranspose2d": ((4, 6, (4, 3)), {"stride": 2, "padding": 1, "bias": False}, (2, 4, 5, 4)),
    "ConvTranspose3d": ((2, 3, 2), {"stride": 2, "dilation": 2}, (1, 2, 3, 2, 3)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name, backend, bridge, tol):
    positional, keywords, shape = MODULES[name]
    theirs = getattr(torch.nn, name)(*positional, **keywords, dtype=torch.float64)
    ours = getattr(bridge, name).from_torch(theirs)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(theirs)
    assert ours.weight is theirs.weight
    assert ours.bias is theirs.bias
    x = leaf(*shape)
    expected = theirs(x)
    assert gap(ours(x), expected) < tol("conv_torch")
    assert gap(ours(x[0]), theirs(x[0])) < tol("conv_torch")

    fresh = getattr(bridge, name)(*positional, **keywords, dtype=torch.float64)
    assert fresh.state_dict().keys() == theirs.state_dict().keys()
    assert not torch.equal(fresh.weight, theirs.weight)
    fresh.load_state_dict(theirs.state_dict())
    assert torch.equal(fresh(x), ours(x))
    theirs.load_state_dict(copy.deepcopy(fresh).state_dict())

    grad = leaf(*expected.shape, seed=5).detach()
    ours(x).backward(grad)
    got = [p.grad.clone() for p in ours.parameters()] + [x.grad.clone()]
    theirs.zero_grad()
    x.grad = None
    theirs(x).backward(grad)
    for one, other in zip(got, [p.grad for p in theirs.parameters()] + [x.grad], strict=True):
        assert gap(one, other) < tol("conv_torch")


def test_module_details(backend, bridge):
    theirs = torch.nn.ConvTranspose2d(2, 3, 3, stride=2).eval()
    ours = bridge.ConvTranspose2d.from_torch(theirs)
    assert not ours.training
    x = torch.randn(1, 2, 4, 5)
    assert ours(x, output_size=(10, 12)).shape == (1, 3, 10, 12)
    torch.testing.assert_close(ours(x, output_size=(10, 12)), theirs(x, output_size=(10, 12)))
    ours.exact = True
    torch.testing.assert_close(ours(x), theirs(x))
    assert bridge.ConvTranspose2d.from_torch(ours).exact
    circular = bridge.ConvTranspose2d(2, 3, 3, padding=1, padding_mode="circular")
    y = torch.randn(1, 3, 4, 5)
    # The adjoint of torch's own circular convolution.
    forward = torch.nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular", bias=False)
    forward.weight = circular.weight
    bias = circular.bias.reshape(1, 3, 1, 1)
    torch.testing.assert_close((forward(y) * x).sum(), (y * (circular(x) - bias)).sum())


def test_modules_refuse(bridge):
    with pytest.raises(TypeError, match=r"module: got Conv1d, expected a torch.nn.Conv2d"):
        bridge.Conv2d.from_torch(torch.nn.Conv1d(1, 1, 1))
    with pytest.raises(TypeError, match="module: its weight is a UninitializedParameter"):
        bridge.Conv2d.from_torch(torch.nn.LazyConv2d(1, 1))
    with pytest.raises(TypeError, match="module: its weight is a Tensor"):
        bridge.Conv2d.from_torch(torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 1)))
    with pytest.raises(ValueError, match="padding_mode: got 'wrap'"):
        bridge.ConvTranspose2d(1, 1, 1, padding_mode="wrap")
    with pytest.raises(TypeError, match="padding: got a string"):
        bridge.ConvTranspose2d(1, 1, 3, padding="same")
    with pytest.raises(TypeError, match=r"input: got a tensor of layout torch\.sparse_coo, expected a dense"):
        bridge.Conv2d(1, 1, 1)(torch.ones(1, 1, 3, 3).to_sparse())


def test_a_network_trains_the_same(backend, bridge):
    """A few steps of the same network, once per library, end at the same weights."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 1, 3, padding="same", padding_mode="reflect"),
    ).double()
    ours = copy.deepcopy(theirs)
    for i in (0, 2, 4):
        ours[i] = getattr(bridge, type(ours[i]).__name__).from_torch(ours[i])
    x, target = torch.randn(2, 1, 8, 9).double(), torch.randn(2, 1, 16, 18).double()
    for network in (theirs, ours):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            functional.mse_loss(network(x), target).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert gap(one, other) < 1e-9


def test_torch_is_imported_when_used_and_its_absence_explained():
    code = (
        "import sys, medeconv_fast as mf\n"
        "assert 'torch' not in sys.modules\n"
        "sys.modules['torch'] = None\n"
        "try:\n"
        "    mf.compat.torch\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    mf.compat.nonsense\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "medeconv-fast[torch]"' in done.stdout
    assert "has no attribute 'nonsense'" in done.stdout


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*")
@pytest.mark.parametrize(
    "kind, options", [("Conv2d", {"padding": "same"}), ("ConvTranspose2d", {"stride": 2})]
)
def test_modules_can_be_traced(kind, options):
    module = getattr(mf.compat.torch, kind)(4, 6, 3, **options)
    x = torch.randn(2, 4, 9, 8)
    traced = torch.jit.trace(module, x)
    assert torch.equal(traced(x), module(x))
    if kind == "ConvTranspose2d":  # a trace's sizes are constants
        with pytest.raises(RuntimeError):
            traced(x[:, :, :7])
