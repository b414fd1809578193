"""Networks as ONNX files: opset 17, IR version 8, float32, images of any size."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import library
from ..io._files import write_whole
from ._activations import LeakyReLU, ReLU, Softplus
from ._blur_layers import FixedBlur, RichardsonLucyStep
from ._convolutions import Conv, ConvTranspose, _Convolution
from ._deviation import BOUNDARY, LocalDeviation
from ._graph import Graph
from ._joining import Add, Concat, Crop, Divide, Multiply
from ._layer import Layer
from ._normalization import GroupNorm, InstanceNorm
from ._upsampling import _PAD, UpSampling, taps_of

if TYPE_CHECKING:
    from ._model import Model

OPSET, IR_VERSION = 17, 8
_END = np.iinfo(np.int64).max
_PAD_MODES = {"nearest": "edge", "mirror": "reflect"}  # of a blur's boundaries, as opset 17 knows them
_BOUNDARY_OF = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap"}  # of padding modes


class _Builder:
    """Nodes and constants of a file."""

    def __init__(self) -> None:
        self.onnx = library("onnx", "onnx", "writing ONNX")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = itertools.count(1)

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"c{next(self._count)}"
        values = np.ascontiguousarray(array, dtype)
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{next(self._count)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values), np.int64)

    def slice(self, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        parts = (self.integers(n) for n in (start, stop, axis, step))
        return self.node("Slice", x, *parts)

    def pad(self, x: str, pairs: Sequence[tuple[int, int]], mode: str) -> str:
        """The spatial axes continued; `mode` is ONNX's."""
        low, high = ([pair[i] for pair in pairs] for i in (0, 1))
        return self.node("Pad", x, self.integers(0, 0, *low, 0, 0, *high), mode=mode)


def _activated(build: _Builder, layer: Layer, x: str) -> str:
    if isinstance(layer, LeakyReLU):
        return build.node("LeakyRelu", x, alpha=layer.slope)
    return build.node("Relu" if isinstance(layer, ReLU) else "Softplus", x)


def _convolution(build: _Builder, layer: _Convolution, inputs: Sequence[str]) -> str:
    (x,) = inputs
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "group": layer.groups,
    }
    pairs = layer.padding
    if layer.padding_mode != "zeros":
        if layer.transposed:
            raise NotImplementedError(
                f"{layer.name}: padding_mode={layer.padding_mode!r} of ConvTranspose has no form in ONNX"
            )
        x = _continued(build, x, pairs, _BOUNDARY_OF[layer.padding_mode])
        pairs = ((0, 0),) * len(pairs)
    attributes["pads"] = [low for low, _ in pairs] + [high for _, high in pairs]
    if layer.transposed:
        attributes["output_padding"] = list(layer.output_padding)
    weights = [build.constant(layer.weights[name]) for name in layer.shapes()]
    made = build.node("ConvTranspose" if layer.transposed else "Conv", x, *weights, **attributes)
    return made if layer.activation is None else _activated(build, layer.activation, made)


def _upsampling(build: _Builder, layer: UpSampling, inputs: Sequence[str]) -> str:
    """A transposed convolution of the image continued by its edge: Resize of cubic mode knows two
    axes only.
    """
    (x,) = inputs
    lines = []
    for factor in layer.factor:
        line = np.zeros((2 * _PAD + 1) * factor)
        for phase in range(factor):
            for offset, weight in taps_of(layer.mode, factor, phase):
                line[factor * (_PAD - offset) + phase] += weight
        lines.append(line)
    kernel: np.ndarray = functools.reduce(np.multiply.outer, lines)
    spread = np.broadcast_to(kernel, (layer.channels, 1, *kernel.shape))
    x = build.pad(x, [(_PAD, _PAD)] * len(lines), "edge")
    cut = [2 * _PAD * factor for factor in layer.factor]
    return build.node(
        "ConvTranspose",
        x,
        build.constant(spread),
        strides=list(layer.factor),
        pads=[*cut, *cut],
        group=layer.channels,
        kernel_shape=list(kernel.shape),
    )


def _normalization(build: _Builder, layer: GroupNorm, inputs: Sequence[str]) -> str:
    (x,) = inputs
    groups = layer._groups_of(layer.channels)
    rows = build.node("Reshape", x, build.integers(0, groups, -1))
    ones, zeros = build.constant(np.ones(groups)), build.constant(np.zeros(groups))
    rows = build.node("InstanceNormalization", rows, ones, zeros, epsilon=layer.eps)
    made = build.node("Reshape", rows, build.node("Shape", x))
    if layer.affine:
        shape = (1, layer.channels, *(1,) * layer.ndim)
        made = build.node("Mul", made, build.constant(layer.weights["weight"].reshape(shape)))
        made = build.node("Add", made, build.constant(layer.weights["bias"].reshape(shape)))
    return made


def _divided(build: _Builder, layer: Divide, inputs: Sequence[str]) -> str:
    above, below = inputs
    return build.node("Div", above, build.node("Max", below, build.constant(layer.floor)))


def _cropped(build: _Builder, layer: Crop, inputs: Sequence[str]) -> str:
    x, like = inputs
    spatial = build.node("Shape", like, start=2)
    axes = list(range(2, 2 + layer.ndim))
    return build.node("Slice", x, build.integers(*(0 for _ in axes)), spatial, build.integers(*axes))


def _continued(build: _Builder, x: str, pairs: Sequence[tuple[int, int]], boundary: str) -> str:
    """`x` continued as a blur's `boundary` says, but for "zero", which convolutions do by themselves.

    Opset 17 pads by the edge and by mirroring it away; the others are put together from pieces. An image that
    is too short for its pieces is refused by a Reshape to what they should make, which changes nothing else.
    """
    if boundary in _PAD_MODES:
        return build.pad(x, pairs, _PAD_MODES[boundary])
    shape = build.node("Add", build.node("Shape", x), build.integers(0, 0, *map(sum, pairs)))
    for axis, (low, high) in enumerate(pairs, 2):
        if boundary == "wrap":
            before, behind = (-low, _END, 1), (0, high, 1)
        else:
            before, behind = (low - 1, -_END, -1), (-1, -high - 1, -1)
        parts = [build.slice(x, axis, *before)] if low else []
        parts += [x, build.slice(x, axis, *behind)] if high else [x]
        if len(parts) > 1:
            x = build.node("Concat", *parts, axis=axis)
    return build.node("Reshape", x, shape)


def _folded(build: _Builder, x: str, pairs: Sequence[tuple[int, int]], boundary: str) -> str:
    """The transpose of `_continued`: what lies outside is added to what it continues."""
    for axis, (low, high) in enumerate(pairs, 2):
        core = build.slice(x, axis, low, -high if high else _END)
        shape = build.node("Shape", core)
        # From where to where each side is added.
        places: dict[str, tuple[tuple[int, int | None], ...]] = {
            "reflect": ((0, low), (-high, None)),
            "mirror": ((1, 1 + low), (-1 - high, -1)),
            "nearest": ((0, 1), (-1, None)),
            "wrap": ((-low, None), (0, high)),
        }
        outsides = ((0, low), (-high, _END))
        for count, outside, place in zip((low, high), outsides, places[boundary], strict=True):
            if count:
                part = _placed(build, build.slice(x, axis, *outside), axis, boundary)
                core = _added(build, core, part, axis, *place)
        x = build.node("Reshape", core, shape)  # as in `_continued`
    return x


def _placed(build: _Builder, part: str, axis: int, boundary: str) -> str:
    """What lay outside, in the order of what it continues."""
    if boundary == "wrap":
        return part
    if boundary == "nearest":
        return build.node("ReduceSum", part, build.integers(axis), keepdims=1)
    return build.slice(part, axis, -1, -_END, -1)


def _added(build: _Builder, x: str, part: str, axis: int, start: int, stop: int | None) -> str:
    """`x` with `part` added from `start` to `stop` along `axis`; the end where `stop` is None."""
    pieces = [build.slice(x, axis, 0, start)] if start != 0 else []
    near = build.slice(x, axis, start, _END if stop is None else stop)
    pieces.append(build.node("Add", near, part))
    if stop is not None:
        pieces.append(build.slice(x, axis, stop, _END))
    return build.node("Concat", *pieces, axis=axis)


class _Blurring:
    """The blur by some taps and its transpose, of every channel."""

    def __init__(self, build: _Builder, taps: np.ndarray, channels: int, boundary: str) -> None:
        self._build, self._boundary = build, boundary
        self._outside = [(k - 1 - k // 2, k // 2) for k in taps.shape]
        low, high = zip(*self._outside, strict=True)
        self._pads = [*low, *high] if boundary == "zero" else [0] * 2 * taps.ndim
        self._options = {"group": channels, "kernel_shape": list(taps.shape)}
        weight = np.broadcast_to(np.flip(taps), (channels, 1, *taps.shape))
        self._weight = build.constant(weight)

    def forward(self, x: str) -> str:
        if self._boundary != "zero":
            x = _continued(self._build, x, self._outside, self._boundary)
        return self._build.node("Conv", x, self._weight, pads=self._pads, **self._options)

    def adjoint(self, x: str) -> str:
        x = self._build.node("ConvTranspose", x, self._weight, pads=self._pads, **self._options)
        return x if self._boundary == "zero" else _folded(self._build, x, self._outside, self._boundary)


def _blurred(build: _Builder, layer: FixedBlur, inputs: Sequence[str]) -> str:
    return _Blurring(build, layer.weights["psf"], layer.channels, layer.boundary).forward(inputs[0])


def _deviation(build: _Builder, layer: LocalDeviation, inputs: Sequence[str]) -> str:
    (x,) = inputs
    around, mean = (_Blurring(build, taps, layer.channels, BOUNDARY) for taps in layer.filters())
    detail = build.node("Sub", x, around.forward(x))
    return build.node("Sqrt", mean.forward(build.node("Mul", detail, detail)))


def _iteration(build: _Builder, layer: RichardsonLucyStep, inputs: Sequence[str]) -> str:
    estimate, image = inputs
    forward = _Blurring(build, layer.weights["psf"], layer.channels, layer.boundary)
    back = _Blurring(build, layer.weights[layer.way], layer.channels, layer.boundary)
    # eps is proportional to the largest value of each image; of an image of zeros anything will do.
    axes = list(range(1, 2 + layer.weights["psf"].ndim))
    share = layer.smallest_share(np.dtype(np.float32))
    eps = build.node("Mul", build.node("ReduceMax", image, axes=axes, keepdims=1), build.constant(share))
    eps = build.node("Max", eps, build.constant(np.finfo(np.float32).tiny))
    blurred = build.node("Add", forward.forward(estimate), build.constant(layer.background))
    ratio = build.node("Div", image, build.node("Max", blurred, eps))
    one = build.onnx.numpy_helper.from_array(np.ones(1, np.float32))
    ones = build.node("ConstantOfShape", build.node("Shape", image), value=one)
    normalizer = back.adjoint(ones)
    least = build.node("Mul", build.node("ReduceMax", normalizer, keepdims=0), build.constant(0.1))
    normalizer = build.node("Max", normalizer, least)
    product = build.node("Mul", estimate, back.adjoint(ratio))
    return build.node("Relu", build.node("Div", product, normalizer))


def _export(build: _Builder, layer: Layer, inputs: Sequence[str]) -> str:
    if isinstance(layer, Graph):
        return export_graph(build, layer, inputs)
    if isinstance(layer, Add):
        made = build.node("Sum", *inputs)
        return made if layer.activation is None else _activated(build, layer.activation, made)
    if isinstance(layer, Multiply):
        return build.node("Mul", *inputs)
    if isinstance(layer, Concat):
        return build.node("Concat", *inputs, axis=1)
    if isinstance(layer, LeakyReLU | ReLU | Softplus):
        return _activated(build, layer, inputs[0])
    makers: dict[type[Layer], Callable[..., str]] = {
        Conv: _convolution,
        ConvTranspose: _convolution,
        UpSampling: _upsampling,
        GroupNorm: _normalization,
        InstanceNorm: _normalization,
        Divide: _divided,
        FixedBlur: _blurred,
        RichardsonLucyStep: _iteration,
        Crop: _cropped,
        LocalDeviation: _deviation,
    }
    if type(layer) not in makers:
        raise NotImplementedError(f"{layer.name}: {type(layer).__name__} has no form in ONNX")
    return makers[type(layer)](build, layer, inputs)


def export_graph(build: _Builder, graph: Graph, inputs: Sequence[str]) -> str:
    """The nodes of a network; returns its result's name."""
    values = list(inputs)
    for node in graph.nodes:
        values.append(_export(build, node.layer, [values[i] for i in node.inputs]))
    return values[-1]


def write_onnx(model: Model, path: Path, *, overwrite: bool) -> None:
    """Write `model`; its input is called "image", its result "result"."""
    build = _Builder()
    helper, kind = build.onnx.helper, build.onnx.TensorProto.FLOAT
    last = export_graph(build, model, ["image"])
    build.nodes.append(helper.make_node("Identity", [last], ["result"], name="result"))
    axes = ["z", "y", "x"][-model.ndim :]
    before = helper.make_tensor_value_info("image", kind, ["N", model.channels, *axes])
    after = helper.make_tensor_value_info(
        "result", kind, ["N", model.output.channels, *(f"result_{axis}" for axis in axes)]
    )
    graph = helper.make_graph(build.nodes, type(model).__name__, [before], [after], build.constants)
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="medeconv_fast",
    )
    build.onnx.checker.check_model(made, full_check=True)
    write_whole(path, lambda p: build.onnx.save(made, str(p)), overwrite=overwrite)
