"""Convolutions that torch's autograd follows: drop-in for torch.nn.functional's and torch.nn's.

    from medeconv_fast.compat.torch import Conv2d, conv2d

    y = conv2d(x, weight, bias, padding=1)         # torch tensors on the CPU or a GPU, float32 or float64
    layer = Conv2d.from_torch(torch_conv2d)        # shares the parameters; state_dict as in torch.nn

The kernels read the tensors' memory and torch gets theirs, without a copy; on a GPU on torch's current stream
and with memory of torch's allocator (the backend "cuda", see docs/gpu.md). Every operation is a
`torch.library.custom_op` with a fake implementation (for torch.compile and torch.export) and derivatives of
any order, backward and forward; torch.func's transforms follow them outside of what is compiled. Beyond
torch: `padding_mode` works in the functions and for transposed convolutions too, where it means the exact
adjoint of the padded convolution, and padding may be (low, high) pairs. Unlike torch, a convolution of an
input without channels gives its bias (torch: a result without channels). NaN and Inf spread as in torch where
`exact` is True, but for gradients of weights, and those of a weight in transposed convolutions and gradients
of inputs; else as in `medeconv_fast.ops.conv`.
`medeconv_fast.set_num_threads` counts here, torch.set_num_threads does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import _validate, ops
from ..ops import _geometry

try:
    import torch
except ImportError as error:
    raise ImportError(
        f'medeconv_fast.compat.torch needs torch ({error}); pip install "medeconv-fast[torch]"'
    ) from error

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

# Convolution, its adjoint and its weight gradient are one form that is linear in the input, the weight and
# the gradient; each one's derivatives are the two others, so three operations close under differentiation.
# All are batched. A transposed convolution is `conv_adjoint` with a bias. `padding` lists low and high of
# each axis in turn; `size` is the spatial shape of the convolution's input.
_OPTIONS = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode, bool exact"
_NO_GRADIENT = (None,) * 6
_LIBRARY = "medeconv_fast"


def _keywords(
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
    exact: bool,
) -> dict[str, Any]:
    return {
        "stride": tuple(stride),
        "padding": tuple(zip(padding[::2], padding[1::2], strict=True)),
        "dilation": tuple(dilation),
        "groups": groups,
        "padding_mode": padding_mode,
        "exact": exact,
    }


def _plain(tensor: Any) -> Any:
    # Autograd is handled outside of the operation, so the kernels may see memory that needs a gradient.
    return None if tensor is None else tensor.detach()


def _lengths(sizes: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[Any]:
    """A convolution's spatial shape from its input's; the values may be symbols."""
    return [
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, k, s, low, high, d in zip(
            sizes, kernel, stride, padding[::2], padding[1::2], dilation, strict=True
        )
    ]


@torch.library.custom_op(
    f"{_LIBRARY}::conv",
    mutates_args=(),
    schema=f"(Tensor x, Tensor w, Tensor? bias, {_OPTIONS}) -> Tensor",
)
def _conv(x, w, bias, *options):
    return ops.conv(_plain(x), _plain(w), _plain(bias), **_keywords(*options))


@_conv.register_fake
def _(x, w, bias, stride, padding, dilation, groups, padding_mode, exact):
    lengths = _lengths(x.shape[2:], w.shape[2:], stride, padding, dilation)
    return x.new_empty((x.shape[0], w.shape[0], *lengths))


@torch.library.custom_op(
    f"{_LIBRARY}::conv_adjoint",
    mutates_args=(),
    schema=f"(Tensor x, Tensor w, Tensor? bias, SymInt[] size, {_OPTIONS}) -> Tensor",
)
def _conv_adjoint(x, w, bias, size, *options):
    keywords = _keywords(*options)
    shortest = [
        (n - 1) * s - low - high + d * (k - 1) + 1
        for n, s, (low, high), d, k in zip(
            x.shape[2:],
            keywords["stride"],
            keywords["padding"],
            keywords["dilation"],
            w.shape[2:],
            strict=True,
        )
    ]
    extra = tuple(n - m for n, m in zip(size, shortest, strict=True))
    return ops.conv_transpose(_plain(x), _plain(w), _plain(bias), output_padding=extra, **keywords)


@_conv_adjoint.register_fake
def _(x, w, bias, size, stride, padding, dilation, groups, padding_mode, exact):
    return x.new_empty((x.shape[0], w.shape[1] * groups, *size))


@torch.library.custom_op(
    f"{_LIBRARY}::conv_weight_grad",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor x, SymInt[] weight_shape, {_OPTIONS}) -> Tensor",
)
def _conv_weight_grad(grad, x, weight_shape, *options):
    return ops.conv_weight_grad(_plain(grad), _plain(x), tuple(weight_shape), **_keywords(*options))


@_conv_weight_grad.register_fake
def _(grad, x, weight_shape, stride, padding, dilation, groups, padding_mode, exact):
    return grad.new_empty(tuple(weight_shape))


@torch.library.custom_op(f"{_LIBRARY}::conv_bias_grad", mutates_args=(), schema="(Tensor grad) -> Tensor")
def _conv_bias_grad(grad):
    return ops.conv_bias_grad(_plain(grad))


@_conv_bias_grad.register_fake
def _(grad):
    return grad.new_empty((grad.shape[1],))


def _keep_conv(ctx, inputs, output):
    x, w, _, *ctx.options = inputs
    ctx.save_for_backward(x, w)


def _conv_backward(ctx, g):
    x, w = ctx.saved_tensors
    to_x, to_w, to_bias = ctx.needs_input_grad[:3]
    return (
        _adjoint_of(g, w, None, list(x.shape[2:]), *ctx.options) if to_x else None,
        _weight_grad_of(g, x, list(w.shape), *ctx.options) if to_w else None,
        _bias_grad_of(g) if to_bias else None,
        *_NO_GRADIENT,
    )


def _keep_adjoint(ctx, inputs, output):
    x, w, _, _, *ctx.options = inputs
    ctx.save_for_backward(x, w)


def _adjoint_backward(ctx, g):
    x, w = ctx.saved_tensors
    to_x, to_w, to_bias = ctx.needs_input_grad[:3]
    return (
        _conv_of(g, w, None, *ctx.options) if to_x else None,
        _weight_grad_of(x, g, list(w.shape), *ctx.options) if to_w else None,
        _bias_grad_of(g) if to_bias else None,
        None,
        *_NO_GRADIENT,
    )


def _keep_weight_grad(ctx, inputs, output):
    grad, x, _, *ctx.options = inputs
    ctx.save_for_backward(grad, x)


def _weight_grad_backward(ctx, g):
    grad, x = ctx.saved_tensors
    to_grad, to_x = ctx.needs_input_grad[:2]
    return (
        _conv_of(x, g, None, *ctx.options) if to_grad else None,
        _adjoint_of(grad, g, None, list(x.shape[2:]), *ctx.options) if to_x else None,
        None,
        *_NO_GRADIENT,
    )


def _keep_bias_grad(ctx, inputs, output):
    ctx.shape = inputs[0].shape


def _per_channel(values, shape):
    return values.reshape(1, -1, *(1,) * (len(shape) - 2)).expand(shape)


def _bias_grad_backward(ctx, g):
    return _per_channel(g, ctx.shape)


_conv.register_autograd(_conv_backward, setup_context=_keep_conv)
_conv_adjoint.register_autograd(_adjoint_backward, setup_context=_keep_adjoint)
_conv_weight_grad.register_autograd(_weight_grad_backward, setup_context=_keep_weight_grad)
_conv_bias_grad.register_autograd(_bias_grad_backward, setup_context=_keep_bias_grad)


def _has_tangent(tensor: Any) -> bool:
    return tensor is not None and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None


def _followed(
    operation: Any, keep: Any, backward: Any, tensors: int, *, batched: bool = False
) -> Callable[..., Any]:
    """`operation`, followed also by forward-mode AD and torch.func, which know no operation of torch.library.

    It is bilinear in the first two of its `tensors`, which come first; a third one is a bias. `batched`: the
    first one's first axis is a batch that is the result's too.
    """

    class Followed(torch.autograd.Function):
        @staticmethod
        def forward(*inputs):
            return operation(*inputs)

        @staticmethod
        def setup_context(ctx, inputs, output):
            keep(ctx, inputs, output)
            ctx.save_for_forward(*inputs[: min(tensors, 2)])
            ctx.rest, ctx.result_shape = inputs[tensors:], output.shape
            ctx.set_materialize_grads(False)  # no convolution of zeros for a tangent that there is not

        @staticmethod
        def backward(ctx, g):
            return (None,) * len(ctx.needs_input_grad) if g is None else backward(ctx, g)

        @staticmethod
        def jvp(ctx, *tangents):
            if tensors == 1:
                return call(tangents[0])
            a, b = ctx.saved_tensors
            offset = (None,) * (tensors - 2)
            terms = [
                call(first, second, *offset, *ctx.rest)
                for first, second in ((tangents[0], b), (a, tangents[1]))
                if first is not None and second is not None
            ]
            if tensors == 3 and tangents[2] is not None:
                terms.append(_per_channel(tangents[2], ctx.result_shape))
            return sum(terms[1:], terms[0])

        @staticmethod
        def vmap(info, in_dims, *inputs):
            mapped = [
                tensor if axis is None else tensor.movedim(axis, 0)
                for tensor, axis in zip(inputs[:tensors], in_dims, strict=False)
            ]
            rest = inputs[tensors:]
            if all(axis is None for axis in in_dims[1:tensors]) and batched:
                result = call(mapped[0].flatten(0, 1), *mapped[1:], *rest)
                return result.unflatten(0, mapped[0].shape[:2]), 0
            results = [
                call(
                    *(t if axis is None else t[i] for t, axis in zip(mapped, in_dims, strict=False)),
                    *rest,
                )
                for i in range(info.batch_size)
            ]
            return torch.stack(results), 0

    def call(*inputs):
        # Compiler and tracer know the operation, and no function with a rule for forward mode.
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            return Followed.apply(*inputs)
        if any(map(_has_tangent, inputs[:tensors])):
            raise NotImplementedError(
                "forward mode: got a tensor with a tangent inside torch.compile or torch.jit.trace, expected "
                "forward-mode derivatives to be taken outside"
            )
        return operation(*inputs)

    return call


_conv_of = _followed(_conv, _keep_conv, _conv_backward, 3, batched=True)
_adjoint_of = _followed(_conv_adjoint, _keep_adjoint, _adjoint_backward, 3, batched=True)
_weight_grad_of = _followed(_conv_weight_grad, _keep_weight_grad, _weight_grad_backward, 2)
_bias_grad_of = _followed(_conv_bias_grad, _keep_bias_grad, _bias_grad_backward, 1)


def _check_device(name: str, device: Any, inputs: Any) -> None:
    # Tensors on "meta" have no memory: only the shape of the result is asked for.
    if device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"{name}: got a tensor on {device}, expected one on the CPU or on a CUDA device; copy it "
            "there with .cpu() or .cuda()"
        )
    if device != inputs:
        raise ValueError(f"{name}: got a tensor on {device}, expected it on {inputs}, as the input")


def _check_tensors(input: Any, weight: Any, bias: Any) -> None:
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: got {_validate.shown(tensor)}, expected a torch tensor")
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name}: got a tensor of layout {tensor.layout}, expected a dense one")
        _check_device(name, tensor.device, input.device)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: got dtype {tensor.dtype}, expected torch.float32 or torch.float64")
        if tensor.dtype != input.dtype:
            raise TypeError(f"{name}: got dtype {tensor.dtype}, expected {input.dtype}, the input's")


def _check_bias(bias: Any, channels: int) -> None:
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(
            f"bias: got shape {tuple(bias.shape)}, expected ({channels},), one value per output channel"
        )


def _shape(tensor: Any) -> tuple[Any, ...]:
    """Numbers, also where torch.jit.trace makes tensors of them: sizes are constants of a trace."""
    shape = tuple(tensor.shape)
    return tuple(int(n) for n in shape) if torch.jit.is_tracing() else shape


def _options(layer: _geometry.Layer, exact: bool) -> tuple[Any, ...]:
    padding = [n for pair in layer.padding for n in pair]
    return (list(layer.stride), padding, list(layer.dilation), layer.groups, layer.padding_mode, exact)


def _layer_of(function: Any, *arguments: Any) -> _geometry.Layer:
    if torch.compiler.is_compiling():  # which warns of a cache that it looks through
        function = function.__wrapped__
    made: _geometry.Layer = function(*arguments)
    return made


def _convolve(
    ndim: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
    exact: bool,
) -> Any:
    _check_tensors(input, weight, bias)
    weight_shape = _shape(weight)
    _geometry.spatial_rank(weight_shape, "weight", False, ndim)
    shape, batched = _geometry.batch_of(_shape(input), "input", ndim, "weight")
    layer = _layer_of(
        _geometry.conv_layer,
        shape,
        weight_shape,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        ("input", "weight"),
    )
    _check_bias(bias, weight_shape[0])
    options = _options(layer, _validate.flag(exact, "exact"))
    if batched:
        return _conv_of(input, weight, bias, *options)
    return _conv_of(input.unsqueeze(0), weight, bias, *options).squeeze(0)


def _convolve_transposed(
    ndim: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    padding_mode: str,
    exact: bool,
) -> Any:
    _check_tensors(input, weight, bias)
    weight_shape = _shape(weight)
    _geometry.spatial_rank(weight_shape, "weight", True, ndim)
    shape, batched = _geometry.batch_of(_shape(input), "input", ndim, "weight")
    layer = _layer_of(
        _geometry.transposed_layer,
        shape,
        weight_shape,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
        ("input", "weight"),
    )
    _check_bias(bias, layer.input_shape[1])
    options = _options(layer, _validate.flag(exact, "exact"))
    if not batched:
        input = input.unsqueeze(0)
    if any(layer.beyond):
        # `conv_adjoint` takes what a convolution can return; zeros where there is no input add nothing.
        behind = [n for beyond in reversed(layer.beyond) for n in (0, beyond)]
        input = torch.nn.functional.pad(input, behind)
    result = _adjoint_of(input, weight, bias, list(layer.input_shape[2:]), *options)
    return result if batched else result.squeeze(0)


def conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    exact: bool = False,
) -> torch.Tensor:
    return _convolve(1, input, weight, bias, stride, padding, dilation, groups, padding_mode, exact)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    exact: bool = False,
) -> torch.Tensor:
    return _convolve(2, input, weight, bias, stride, padding, dilation, groups, padding_mode, exact)


def conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    exact: bool = False,
) -> torch.Tensor:
    return _convolve(3, input, weight, bias, stride, padding, dilation, groups, padding_mode, exact)


def conv_transpose1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    exact: bool = False,
) -> torch.Tensor:
    return _convolve_transposed(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, exact
    )


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    exact: bool = False,
) -> torch.Tensor:
    return _convolve_transposed(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, exact
    )


def conv_transpose3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    exact: bool = False,
) -> torch.Tensor:
    return _convolve_transposed(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode, exact
    )


def _document(function: Any, ndim: int, transposed: bool) -> None:
    axes = _validate.AXES[ndim].strip("()")
    general = "conv_transpose" if transposed else "conv"
    function.__doc__ = f"""torch.nn.functional.{function.__name__} on our kernels.

    Parameters
    ----------
    input : torch.Tensor
        (N, C, {axes}) or (C, {axes}), on the CPU or a CUDA device, float32 or float64.
    weight : torch.Tensor
        {"(C, out / groups" if transposed else "(out, C / groups"}, {axes}), of the input's dtype.
    bias : torch.Tensor, optional
        (out,), of the input's dtype.
    stride, padding, {"output_padding, groups, dilation" if transposed else "dilation, groups"}
        As torch's; padding also {"as a (low, high) pair per axis" if ndim > 1 else "as ((low, high),)"}.
    padding_mode, exact
        As in `medeconv_fast.ops.{general}`.

    Returns
    -------
    torch.Tensor
        (N, out, {axes}), without N where `input` has none. Autograd, torch.func and torch.compile follow it.

    Raises
    ------
    TypeError
        Not a tensor, or a dtype that is not float32 or float64 or not the input's.
    ValueError
        Shapes or options that do not fit, tensors on several devices; the message names the argument.
    NotImplementedError
        A tensor on a device of another kind; a forward-mode derivative inside torch.compile.

    See Also
    --------
    medeconv_fast.ops.{general} : the operation, with its formula and source.
    """


for _ndim, _pair in enumerate(
    ((conv1d, conv_transpose1d), (conv2d, conv_transpose2d), (conv3d, conv_transpose3d)), 1
):
    for _transposed, _function in enumerate(_pair):
        _document(_function, _ndim, bool(_transposed))


class _Layer(torch.nn.Module):
    """What the modules share: taking over a torch.nn module, and the policy `exact`."""

    _base: type[torch.nn.Module]
    exact: bool = False  # as the argument of `medeconv_fast.ops.conv`; may be set on a module

    @classmethod
    def from_torch(cls, module: Any) -> Any:
        """The same layer on our kernels, with the very parameters of `module` (shared, not copied).

        Parameters
        ----------
        module : torch.nn.Module
            The module of torch.nn that has this class's name.

        Raises
        ------
        TypeError
            Another module, or one whose weight is computed (parametrized, not initialised yet).
        """
        if not isinstance(module, cls._base):
            raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.{cls._base.__name__}")
        if type(module.weight) is not torch.nn.Parameter:
            raise TypeError(
                f"module: its weight is a {type(module.weight).__name__}, expected a plain torch.nn.Parameter"
            )
        keywords: dict[str, Any] = {
            name: getattr(module, name)
            for name in ("stride", "padding", "dilation", "groups", "padding_mode")
        }
        if module.transposed:
            keywords["output_padding"] = module.output_padding
        channels = (module.in_channels, module.out_channels)
        layer = cls(  # on "meta": the parameters made here are thrown away
            *channels, module.kernel_size, bias=module.bias is not None, device="meta", **keywords
        )
        layer.weight, layer.bias = module.weight, module.bias
        layer.exact = getattr(module, "exact", False)  # of one of these classes
        return layer.train(module.training)


class _Convolution(_Layer):
    _function: Any

    def _conv_forward(self: Any, input: Any, weight: Any, bias: Any) -> Any:
        return type(self)._function(
            input,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
            exact=self.exact,
        )


class _Transposed(_Layer):
    _function: Any
    padding_mode: Any

    def __init__(self: Any, *args: Any, padding_mode: str = "zeros", **keywords: Any) -> None:
        # torch refuses other modes, and reads a string as a sequence of letters.
        if isinstance(keywords.get("padding", args[4] if len(args) > 4 else 0), str):
            raise TypeError("padding: got a string, expected an integer or one per axis")
        super().__init__(*args, **keywords)
        self.padding_mode = _validate.choice(padding_mode, "padding_mode", _geometry.PADDING_MODES)

    def forward(self: Any, input: Any, output_size: Any = None) -> Any:
        """As torch.nn's: `output_size` is the spatial shape wanted, in place of `output_padding`."""
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,
            self.padding,
            self.kernel_size,
            len(self.kernel_size),
            self.dilation,
        )
        return type(self)._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            padding_mode=self.padding_mode,
            exact=self.exact,
        )


class Conv1d(_Convolution, torch.nn.Conv1d):
    """torch.nn.Conv1d on our kernels: same arguments, same state_dict."""

    _base = torch.nn.Conv1d
    _function = staticmethod(conv1d)


class Conv2d(_Convolution, torch.nn.Conv2d):
    """torch.nn.Conv2d on our kernels: same arguments, same state_dict."""

    _base = torch.nn.Conv2d
    _function = staticmethod(conv2d)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """torch.nn.Conv3d on our kernels: same arguments, same state_dict."""

    _base = torch.nn.Conv3d
    _function = staticmethod(conv3d)


class ConvTranspose1d(_Transposed, torch.nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d on our kernels: same state_dict; every padding_mode."""

    _base = torch.nn.ConvTranspose1d
    _function = staticmethod(conv_transpose1d)


class ConvTranspose2d(_Transposed, torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on our kernels: same state_dict; every padding_mode."""

    _base = torch.nn.ConvTranspose2d
    _function = staticmethod(conv_transpose2d)


class ConvTranspose3d(_Transposed, torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on our kernels: same state_dict; every padding_mode."""

    _base = torch.nn.ConvTranspose3d
    _function = staticmethod(conv_transpose3d)
