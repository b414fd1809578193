"""ONNX's own cases of Conv and ConvTranspose: every one of a single node that the onnx wheel ships."""

import importlib
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

onnx = pytest.importorskip("onnx", reason="SKIPPED: onnx is not installed (extra test)")
loader = pytest.importorskip("onnx.backend.test.loader")

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
# The wheels of 1.22 and 1.23 ship so many; fewer means that the search went wrong.
SHIPPED = 47


def node_cases():
    """Of these two operations: all others' together take seconds to make."""
    for name in ("conv", "convtranspose"):
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    return sys.modules["onnx.backend.test.case.node"]._NodeTestCases


def found():
    cases = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx makes its cases when they are listed, some on purpose with NaN
        for kind in KINDS:
            for case in node_cases() if kind == "node" else loader.load_model_tests(kind=kind):
                if case.model is None and case.model_dir is None:
                    continue  # would be downloaded
                model = case.model or onnx.load(Path(case.model_dir, "model.onnx"))
                if [node.op_type for node in model.graph.node] in (["Conv"], ["ConvTranspose"]):
                    cases[f"{kind}-{case.name}"] = (case, model)
    return cases


CASES = found()


def array(tensor):
    return onnx.numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto) else np.asarray(tensor)


def load(path):
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return onnx.numpy_helper.to_array(tensor)


def data_sets(case):
    """(inputs, outputs) of each data set, in memory or in files."""
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield [array(t) for t in inputs], [array(t) for t in outputs]
        return
    for directory in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield tuple(
            [load(directory / f"{which}_{i}.pb") for i in range(len(list(directory.glob(f"{which}_*.pb"))))]
            for which in ("input", "output")
        )


def padding_of(attributes, total):
    """ONNX's pads per axis: given, or `total` as auto_pad distributes it."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto == "SAME_UPPER":
        return [(t // 2, t - t // 2) for t in total]
    if auto == "SAME_LOWER":
        return [(t - t // 2, t // 2) for t in total]
    pads = attributes.get("pads", [0] * 2 * len(total))
    return list(zip(pads[: len(total)], pads[len(total) :], strict=True))


def run(node, x, w, bias, backend):
    """The node by `mf.ops`; the rules are those of onnx/docs/Operators.md."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    kernel = w.shape[2:]
    ndim = len(kernel)
    assert tuple(attributes.get("kernel_shape", kernel)) == kernel
    stride = tuple(attributes.get("strides", [1] * ndim))
    dilation = tuple(attributes.get("dilations", [1] * ndim))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    options = {"stride": stride, "dilation": dilation, "groups": attributes.get("group", 1)}
    lengths = list(zip(x.shape[2:], stride, extent, strict=True))
    if node.op_type == "Conv":
        total = [max((math.ceil(n / s) - 1) * s + e - n, 0) for n, s, e in lengths]
        padding = padding_of(attributes, total)
        return mf.ops.conv(x, w, bias, padding=padding, **options, backend=backend)
    extra = list(attributes.get("output_padding", [0] * ndim))
    if "output_shape" in attributes or "auto_pad" in attributes:
        wanted = attributes.get("output_shape", [n * s for n, s, _ in lengths])
        total = [
            s * (n - 1) + o + e - size for (n, s, e), o, size in zip(lengths, extra, wanted, strict=True)
        ]
        # A size beyond what the kernel reaches is output_padding by another name.
        extra = [o + max(-t, 0) for o, t in zip(extra, total, strict=True)]
        total = [max(t, 0) for t in total]
        upper = attributes.get("auto_pad") == b"SAME_UPPER"
        padding = [(t // 2, t - t // 2) if upper else (t - t // 2, t // 2) for t in total]
    else:
        padding = padding_of(attributes, [0] * ndim)
    return mf.ops.conv_transpose(
        x, w, bias, padding=padding, output_padding=tuple(extra), **options, backend=backend
    )


@pytest.fixture(params=[n for n in mf.backends.available() if hasattr(mf.backends.resolve(n), "ConvPlan")])
def backend(request):
    return request.param


def test_all_cases_are_there():
    assert len(CASES) >= SHIPPED


@pytest.mark.parametrize("name", CASES)
def test_onnx(name, backend, tol):
    case, model = CASES[name]
    (node,) = model.graph.node
    constants = {t.name: array(t) for t in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in constants]
    sets = list(data_sets(case))
    assert sets
    for inputs, outputs in sets:
        values = {**constants, **dict(zip(names, inputs, strict=True))}
        x, w, bias = [values[n] for n in node.input] + [None] * (3 - len(node.input))
        (expected,) = outputs
        got = run(node, x, w, bias, backend)
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert abs(got - expected).max() < tol("conv_onnx", got.dtype) * abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=case.rtol, atol=max(case.atol, 1e-6))
