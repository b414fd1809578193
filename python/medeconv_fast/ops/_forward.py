"""Convolution and transposed convolution of one to three dimensions, with torch.nn.functional's meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from .. import _validate
from .._arrays import taken
from ._call import Call
from ._end import read_end
from ._geometry import batch_of, conv_layer, spatial_rank, transposed_layer

P = ParamSpec("P")


def conv(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    relu: bool = False,
    negative_slope: float = 0.0,
    addend: Any = None,
    out: Any = None,
    exact: bool = False,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Convolve as networks do: the cross-correlation of `x` with every output channel's weight.

    ``out[n, o, p] = bias[o] + sum over c, k of w[o, c, k] * x[n, c, p * stride + k * dilation - low]``
    in one to three dimensions, as many as the weight has kernel axes.

    Parameters
    ----------
    x : array_like
        (N, C, z, y, x), (N, C, y, x) or (N, C, x), or without N. The result's kind and dtype follow it:
        float64, 32- and 64-bit integers give float64, everything else float32. N and C may be 0; then nothing
        is summed and the bias remains. In GPU memory (CuPy, torch) it stays there, and so does the result.
    w : array_like
        (out, C / groups, *kernel), with 1 to 3 kernel axes. Its dtype does not promote: it is rounded to that
        of the work.
    bias : array_like, optional
        (out,). Floats where `x` and `w` both hold integers are refused, as torch does.
    stride, dilation : int or one int per axis
        Step of the kernel over `x`, and distance of the kernel's taps.
    padding : int, one int per axis, one (low, high) pair per axis, "same" or "valid"
        How far `x` is continued before and behind each axis. "same" keeps `x`'s size (stride 1 only); an even
        kernel's odd value goes behind, as in torch. "valid" is 0.
    groups : int
        Input and output channels fall into so many groups, each convolved on its own; C for depthwise.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What `x` is continued with: zeros; itself mirrored without repeating the edge (at most n - 1 values);
        its edge values; itself repeated (at most n values).
    relu : bool
        Apply max(., 0) to the result while it is in cache.
    negative_slope : float
        With `relu`: what negative values are multiplied by instead, at least 0 (a leaky ReLU).
    addend : array_like, optional
        Of the result's shape: added to it while it is in cache, before `relu`. Its dtype does not promote.
        On a GPU it takes a pass of its own, as `negative_slope`.
    out : numpy.ndarray, torch.Tensor or cupy.ndarray, optional
        Where the result goes: C-contiguous, writable, of the result's shape and dtype, sharing no memory with
        the other arguments.
    exact : bool
        Sum the products as they are. By default 3-wide kernels (lines: 3 or 5 taps) with many channels may go
        through Winograd's transformation, large ones through a Fourier transform; their rounding is larger,
        and they leave float32's range earlier: with values from about 1e36 on, or weights below 1e-32.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    num_threads : int, optional
        Does not change a bit of the result.

    Returns
    -------
    array of the kind of `x`, or `out`
        (N, out, *spatial), without N where `x` has none; each axis
        ``(n + low + high - dilation * (k - 1) - 1) // stride + 1`` long.

    Raises
    ------
    ValueError, TypeError
        Shapes, options or an `out` that do not fit; the message names the argument.

    See Also
    --------
    conv_transpose : the adjoint.
    conv_input_grad, conv_weight_grad, conv_bias_grad : the gradients.
    medeconv_fast.convolve : convolution of one image by one kernel, with scipy.signal's meaning.

    Notes
    -----
    NaN and Inf are not refused: they spread to every value whose sum has them as a term, zero weights and the
    zeros of the padding included, and pass `relu`, as in torch. Which other values they reach under Winograd
    or a Fourier transform is not defined; ``exact=True`` keeps to the sum. In a weight's gradient Inf and NaN
    of the input may reach elements that they are no term of; so may those of a weight near the edges of a
    transposed convolution and of the input's gradient. The backend "cpp" takes denormal numbers for 0.

    The arithmetic of strides, paddings and dilations is that of [1]_.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin: A guide to convolution arithmetic for deep learning. arXiv:1603.07285, 2016.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> mf.ops.conv(np.arange(5.0)[None], np.ones((1, 1, 3)), padding=1)
    array([[1., 3., 6., 9., 7.]])
    """
    end = read_end(relu, negative_slope)
    call = Call(x, "x", exact, backend, num_threads)
    image, weight = call.operand(x, "x"), call.operand(w, "w")
    ndim = spatial_rank(weight.shape, "w", transposed=False)
    shape, batched = batch_of(image.shape, "x", ndim, "w")
    layer = conv_layer(shape, weight.shape, stride, padding, dilation, groups, padding_mode)
    offset = call.bias(bias, layer.output_shape[1])
    end = call.end(end, addend, layer.output_shape[not batched :])
    array, result = call.result(out, layer.output_shape[not batched :])
    call.forward(layer, call.ready("x"), call.ready("w"), offset, array, end)
    return result


def conv_transpose(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    relu: bool = False,
    negative_slope: float = 0.0,
    addend: Any = None,
    out: Any = None,
    exact: bool = False,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Transposed convolution: the exact adjoint of `conv` with the same weight and options.

    ``sum(conv(y, w) * x) == sum(y * conv_transpose(x, w))`` up to rounding, for every x, y and padding mode.

    Parameters
    ----------
    x : array_like
        (N, C, z, y, x), (N, C, y, x) or (N, C, x), or without N; decides as in `conv`.
    w : array_like
        (C, out / groups, *kernel): the weight of the `conv` that leads from the result to `x`.
    bias : array_like, optional
        (out,), as in `conv`.
    stride, dilation : int or one int per axis
        Of that `conv`.
    padding : int, one int per axis, one (low, high) pair per axis, "same" or "valid"
        Of that `conv`: the result is shorter by it. "same" with stride 1 only.
    output_padding : int or one int per axis
        A strided `conv` leads from several lengths to the same one; this is how much longer than the shortest
        of them the result is behind each axis. Less than the stride or the dilation.
    groups : int
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        Of that `conv`: what falls outside the result is dropped ("zeros") or added to the value that it
        continues (the others, which torch does not have).
    relu, negative_slope, addend, out, exact, backend, num_threads
        As in `conv`.

    Returns
    -------
    array of the kind of `x`, or `out`
        (N, out, *spatial), without N where `x` has none; each axis
        ``(n - 1) * stride - low - high + dilation * (k - 1) + output_padding + 1`` long.

    Raises
    ------
    ValueError, TypeError
        Shapes, options or an `out` that do not fit; the message names the argument.

    See Also
    --------
    conv : the convolution that this is the adjoint of. It is not its inverse: for deconvolution see
        `medeconv_fast.restore`.
    conv_transpose_input_grad, conv_transpose_weight_grad, conv_bias_grad : the gradients.

    Notes
    -----
    NaN and Inf: as in `conv`. The arithmetic is that of [1]_.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin: A guide to convolution arithmetic for deep learning. arXiv:1603.07285, 2016.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> mf.ops.conv_transpose(np.array([[1.0, 2.0]]), np.ones((1, 1, 3)), stride=2)
    array([[1., 1., 3., 2., 2.]])
    """
    end = read_end(relu, negative_slope)
    call = Call(x, "x", exact, backend, num_threads)
    image, weight = call.operand(x, "x"), call.operand(w, "w")
    ndim = spatial_rank(weight.shape, "w", transposed=True)
    shape, batched = batch_of(image.shape, "x", ndim, "w")
    layer = transposed_layer(
        shape, weight.shape, stride, padding, output_padding, groups, dilation, padding_mode
    )
    offset = call.bias(bias, layer.input_shape[1])
    end = call.end(end, addend, layer.input_shape[not batched :])
    array, result = call.result(out, layer.input_shape[not batched :])
    call.adjoint(layer, call.ready("x"), call.ready("w"), offset, array, end)
    return result


def _of_rank(function: Callable[P, Any], ndim: int) -> Callable[P, Any]:
    """`function` for weights of `ndim` kernel axes only."""
    transposed = function.__name__ == "conv_transpose"

    @functools.wraps(function)
    def ranked(*args: P.args, **kwargs: P.kwargs) -> Any:
        w = kwargs.get("w", args[1] if len(args) > 1 else None)
        if isinstance(w, list | tuple):
            spatial_rank(taken(w, "w")[0].shape, "w", transposed, ndim)
        elif hasattr(w, "shape"):
            spatial_rank(tuple(w.shape), "w", transposed, ndim)
        elif w is not None:
            raise TypeError(f"w: got {_validate.shown(w)}, expected an array of {ndim + 2} axes")
        return function(*args, **kwargs)

    name = f"{function.__name__}{ndim}d"
    ranked.__name__ = ranked.__qualname__ = name
    axes = _validate.AXES[ndim].strip("()")
    ranked.__doc__ = f"""`{function.__name__}` in {ndim} dimension{"s" if ndim > 1 else ""}.

    Parameters
    ----------
    x : array_like
        (N, C, {axes}) or (C, {axes}).
    w : array_like
        {"(C, out / groups" if transposed else "(out, C / groups"}, {axes}).
    bias, stride, padding, dilation, groups, padding_mode, relu, negative_slope, addend, out, exact, backend,
    num_threads
        As in `{function.__name__}`{", as is output_padding" if transposed else ""}.

    Returns
    -------
    array of the kind of `x`, or `out`
        (N, out, {axes}), without N where `x` has none.

    Raises
    ------
    ValueError, TypeError
        As `{function.__name__}`; also a weight of another rank.
    """
    return ranked


conv1d = _of_rank(conv, 1)
conv2d = _of_rank(conv, 2)
conv3d = _of_rank(conv, 3)
conv_transpose1d = _of_rank(conv_transpose, 1)
conv_transpose2d = _of_rank(conv_transpose, 2)
conv_transpose3d = _of_rank(conv_transpose, 3)
