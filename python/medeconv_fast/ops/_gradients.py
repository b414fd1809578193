"""Gradients of `conv` and `conv_transpose` to their input, weight and bias: sums of their own, deterministic.

`grad` is the gradient of a scalar to the function's result; it decides about the kind and the dtype of what
is returned, as `x` does in `conv`.
"""

from __future__ import annotations

from typing import Any

from .. import _validate
from ._call import Call
from ._geometry import LONGEST, batch_of, conv_layer, read_shape, spatial_rank, transposed_layer

_INPUT_AXES = "(N, C, *spatial) or (C, *spatial)"
_WEIGHT_AXES = "(out, in/groups, *kernel)"
_TRANSPOSED_WEIGHT_AXES = "(in, out/groups, *kernel)"


def _check_grad(shape: tuple[int, ...], expected: tuple[int, ...], of: str) -> None:
    if shape != expected:
        raise ValueError(f"grad: got shape {shape}, expected {expected}, the shape of the result of {of}")


def _input_batch(value: Any, ndim: int) -> tuple[tuple[int, ...], bool]:
    shape = read_shape(value, "input_shape", (ndim + 1, ndim + 2), _INPUT_AXES)
    return batch_of(shape, "input_shape", ndim, "w")


def conv_input_grad(
    grad: Any,
    w: Any,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    out: Any = None,
    exact: bool = False,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Gradient of `conv` to its input: its exact transpose, applied to `grad`.

    Parameters
    ----------
    grad : array_like
        Of the shape of ``conv``'s result. The kind and dtype of what is returned follow it as they follow `x`
        in `conv`.
    w : array_like
        (out, C / groups, *kernel).
    input_shape : tuple of int
        The shape of `x`, (N, C, *spatial), or (C, *spatial) where `grad` has no N: a strided `conv` leads
        from several lengths to the same one.
    stride, padding, dilation, groups, padding_mode
        What `conv` was given.
    out, exact, backend, num_threads
        As in `conv`.

    Returns
    -------
    array of the kind of `grad`, or `out`
        Of `input_shape`.

    Raises
    ------
    ValueError, TypeError
        Shapes, options or an `out` that do not fit; the message names the argument.
    """
    call = Call(grad, "grad", exact, backend, num_threads)
    given, weight = call.operand(grad, "grad"), call.operand(w, "w")
    ndim = spatial_rank(weight.shape, "w", transposed=False)
    shape, batched = _input_batch(input_shape, ndim)
    layer = conv_layer(
        shape, weight.shape, stride, padding, dilation, groups, padding_mode, ("input_shape", "w")
    )
    _check_grad(given.shape, layer.output_shape[not batched :], "conv")
    array, result = call.result(out, layer.input_shape[not batched :])
    call.adjoint(layer, call.ready("grad"), call.ready("w"), None, array)
    return result


def conv_weight_grad(
    grad: Any,
    x: Any,
    weight_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    out: Any = None,
    exact: bool = False,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Gradient of `conv` to its weight, summed over the batch.

    Parameters
    ----------
    grad : array_like
        Of the shape of ``conv``'s result. The kind and dtype of what is returned follow it as they follow `x`
        in `conv`; `x`'s dtype does not promote.
    x : array_like
        The input of `conv`, (N, C, *spatial) or (C, *spatial).
    weight_shape : tuple of int
        (out, C / groups, *kernel).
    stride, padding, dilation, groups, padding_mode
        What `conv` was given.
    out, exact, backend, num_threads
        As in `conv`.

    Returns
    -------
    array of the kind of `grad`, or `out`
        Of `weight_shape`.

    Raises
    ------
    ValueError, TypeError
        Shapes, options or an `out` that do not fit; the message names the argument.
    """
    call = Call(grad, "grad", exact, backend, num_threads)
    given, image = call.operand(grad, "grad"), call.operand(x, "x")
    weights = read_shape(weight_shape, "weight_shape", (3, 4, 5), _WEIGHT_AXES)
    ndim = spatial_rank(weights, "weight_shape", transposed=False)
    shape, batched = batch_of(image.shape, "x", ndim, "weight_shape")
    layer = conv_layer(shape, weights, stride, padding, dilation, groups, padding_mode, ("x", "weight_shape"))
    _check_grad(given.shape, layer.output_shape[not batched :], "conv")
    array, result = call.result(out, weights)
    call.weight_grad(layer, call.ready("grad"), call.ready("x"), array)
    return result


def conv_transpose_input_grad(
    grad: Any,
    w: Any,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    out: Any = None,
    exact: bool = False,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Gradient of `conv_transpose` to its input: the convolution that it is the adjoint of.

    Parameters
    ----------
    grad : array_like
        Of the shape of ``conv_transpose``'s result; the kind and dtype of what is returned follow it.
    w : array_like
        (C, out / groups, *kernel).
    input_shape : tuple of int
        The shape of `x`, (N, C, *spatial), or (C, *spatial) where `grad` has no N.
    stride, padding, output_padding, groups, dilation, padding_mode
        What `conv_transpose` was given.
    out, exact, backend, num_threads
        As in `conv`.

    Returns
    -------
    array of the kind of `grad`, or `out`
        Of `input_shape`.

    Raises
    ------
    ValueError, TypeError
        Shapes, options or an `out` that do not fit; the message names the argument.
    """
    call = Call(grad, "grad", exact, backend, num_threads)
    given, weight = call.operand(grad, "grad"), call.operand(w, "w")
    ndim = spatial_rank(weight.shape, "w", transposed=True)
    shape, batched = _input_batch(input_shape, ndim)
    layer = transposed_layer(
        shape,
        weight.shape,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
        ("input_shape", "w"),
    )
    _check_grad(given.shape, layer.input_shape[not batched :], "conv_transpose")
    array, result = call.result(out, layer.output_shape[not batched :])
    call.forward(layer, call.ready("grad"), call.ready("w"), None, array)
    return result


def conv_transpose_weight_grad(
    grad: Any,
    x: Any,
    weight_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    out: Any = None,
    exact: bool = False,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Gradient of `conv_transpose` to its weight, summed over the batch.

    Parameters
    ----------
    grad : array_like
        Of the shape of ``conv_transpose``'s result; the kind and dtype of what is returned follow it.
    x : array_like
        The input of `conv_transpose`, (N, C, *spatial) or (C, *spatial).
    weight_shape : tuple of int
        (C, out / groups, *kernel).
    stride, padding, output_padding, groups, dilation, padding_mode
        What `conv_transpose` was given.
    out, exact, backend, num_threads
        As in `conv`.

    Returns
    -------
    array of the kind of `grad`, or `out`
        Of `weight_shape`.

    Raises
    ------
    ValueError, TypeError
        Shapes, options or an `out` that do not fit; the message names the argument.
    """
    call = Call(grad, "grad", exact, backend, num_threads)
    given, image = call.operand(grad, "grad"), call.operand(x, "x")
    weights = read_shape(weight_shape, "weight_shape", (3, 4, 5), _TRANSPOSED_WEIGHT_AXES)
    ndim = spatial_rank(weights, "weight_shape", transposed=True)
    shape, batched = batch_of(image.shape, "x", ndim, "weight_shape")
    layer = transposed_layer(
        shape,
        weights,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
        ("x", "weight_shape"),
    )
    _check_grad(given.shape, layer.input_shape[not batched :], "conv_transpose")
    array, result = call.result(out, weights)
    # The layer leads from the result to x: what it is applied to is grad, and x stands for its gradient.
    call.weight_grad(layer, call.ready("x"), call.ready("grad"), array)
    return result


def conv_bias_grad(
    grad: Any,
    *,
    batched: bool = True,
    out: Any = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Gradient of `conv` and of `conv_transpose` to the bias: the sum over all axes but the channels'.

    Parameters
    ----------
    grad : array_like
        (N, C, *spatial) with 1 to 3 spatial axes; the kind and dtype of what is returned follow it.
    batched : bool
        False: `grad` has no N, (C, *spatial).
    out, backend, num_threads
        As in `conv`.

    Returns
    -------
    array of the kind of `grad`, or `out`
        (C,).

    Raises
    ------
    ValueError, TypeError
        A rank or an `out` that does not fit; the message names the argument.
    """
    batched = _validate.flag(batched, "batched")
    call = Call(grad, "grad", False, backend, num_threads)
    given = call.operand(grad, "grad")
    expected = "(N, C, *spatial)" if batched else "(C, *spatial)"
    if not 2 + batched <= given.ndim <= 4 + batched:
        raise ValueError(
            f"grad: got {given.ndim} axes (shape {given.shape}), expected {2 + batched} to {4 + batched}, "
            f"{expected} with batched={batched}"
        )
    if max(given.shape) > LONGEST:
        raise ValueError(f"grad: got shape {given.shape}, expected axes of at most 2**31 - 1")
    shape = given.shape if batched else (1, *given.shape)
    array, result = call.result(out, shape[1:2])
    if given.size == 0:
        call.zero(array)
    else:
        call.kernels.sum_channels(call.ready("grad").reshape(shape), array, num_threads=call.num_threads)
    return result
