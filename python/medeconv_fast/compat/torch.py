"""Convolutions that torch's autograd follows: drop-in for torch.nn.functional's and torch.nn's.

    from medeconv_fast.compat.torch import Conv2d, conv2d

    y = conv2d(x, weight, bias, padding=1)         # torch tensors on the CPU, float32 or float64
    layer = Conv2d.from_torch(torch_conv2d)        # shares the parameters; state_dict as in torch.nn

The kernels read and write the tensors' memory. Each operation is a `torch.library.custom_op` with a fake
implementation and derivatives of any order. The differences from torch: `padding_mode` works for transposed
convolutions and in the functions too; padding may be (low, high) pairs; a convolution without input channels
gives its bias, where torch gives a result without channels.
"""

from __future__ import annotations

from collections.abc import Sequence
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

Tensor = torch.Tensor

# Convolution, its transpose and its weight gradient are one form, linear in each of x, w and the gradient; the
# derivative of each of the three is the other two, so three operations close under differentiation. A
# transposed convolution is `conv_adjoint` with a bias. `padding` is (low, high) of each axis, in one list.
_OPTIONS = (
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode, bool exact"
)
_CONV = f"(Tensor x, Tensor w, Tensor? bias, {_OPTIONS}) -> Tensor"
_ADJOINT = f"(Tensor x, Tensor w, Tensor? bias, SymInt[] input_shape, {_OPTIONS}) -> Tensor"
_WEIGHT = f"(Tensor grad, Tensor x, SymInt[] weight_shape, {_OPTIONS}) -> Tensor"


def _pairs(padding: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(padding[::2], padding[1::2], strict=True))


def _keywords(
    stride: Any, padding: Any, dilation: Any, groups: Any, padding_mode: Any, exact: Any
) -> dict[str, Any]:
    return {
        "stride": stride,
        "padding": _pairs(padding),
        "dilation": dilation,
        "groups": groups,
        "padding_mode": padding_mode,
        "exact": exact,
    }


def _plain(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach()


@torch.library.custom_op("medeconv_fast::conv", mutates_args=(), schema=_CONV)
def _conv(x, w, bias, *options):
    return ops.conv(_plain(x), _plain(w), _plain(bias), **_keywords(*options))


@torch.library.custom_op("medeconv_fast::conv_adjoint", mutates_args=(), schema=_ADJOINT)
def _conv_adjoint(x, w, bias, input_shape, *options):
    keywords = _keywords(*options)
    return ops.conv_transpose(
        _plain(x), _plain(w), _plain(bias), output_padding=_output_padding(x, w, input_shape, keywords), **keywords
    )


@torch.library.custom_op("medeconv_fast::conv_weight_grad", mutates_args=(), schema=_WEIGHT)
def _conv_weight_grad(grad, x, weight_shape, *options):
    return ops.conv_weight_grad(_plain(grad), _plain(x), tuple(weight_shape), **_keywords(*options))


@torch.library.custom_op("medeconv_fast::conv_bias_grad", mutates_args=(), schema="(Tensor grad) -> Tensor")
def _conv_bias_grad(grad):
    return ops.conv_bias_grad(_plain(grad))
