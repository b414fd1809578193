"""Convolution of networks: `conv`, `conv_transpose` and their gradients, in one to three dimensions.

The meaning is torch.nn.functional's: cross-correlation, channels before the spatial axes, a batch before
them. NumPy arrays and torch tensors on the CPU come back as what they were; torch's autograd follows the
functions of `medeconv_fast.compat.torch`, not these.
"""

from ._forward import (
    conv,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from ._gradients import (
    conv_bias_grad,
    conv_input_grad,
    conv_transpose_input_grad,
    conv_transpose_weight_grad,
    conv_weight_grad,
)

__all__ = [
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_bias_grad",
    "conv_input_grad",
    "conv_transpose",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "conv_transpose_input_grad",
    "conv_transpose_weight_grad",
    "conv_weight_grad",
]
