"""Networks that learn to deconvolve, trained and applied on this library's own kernels.

Arrays are (N, C, [z,] y, x). `DeconvNet` is ready made; `Sequential` and `Model` are made of layers. See
docs/nets.md.
"""

from ._activations import LeakyReLU, ReLU, Softplus
from ._augmentation import Augmentation
from ._callbacks import Callback, EarlyStopping, ReduceOnPlateau
from ._convolutions import Conv, ConvTranspose
from ._data import PatchSampler
from ._deconv_net import DeconvNet
from ._graph import Graph, register
from ._history import History
from ._joining import Add, Concat
from ._layer import Input, Layer
from ._model import Model, Sequential
from ._normalization import GroupNorm, InstanceNorm
from ._optimizers import SGD, Adam, AdamW
from ._schedules import CosineDecay, ExponentialDecay
from ._upsampling import UpSampling

register(Add, Concat, Conv, ConvTranspose, GroupNorm, InstanceNorm, LeakyReLU, ReLU, Softplus, UpSampling)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Add",
    "Augmentation",
    "Callback",
    "Concat",
    "Conv",
    "ConvTranspose",
    "CosineDecay",
    "DeconvNet",
    "EarlyStopping",
    "ExponentialDecay",
    "Graph",
    "GroupNorm",
    "History",
    "Input",
    "InstanceNorm",
    "Layer",
    "LeakyReLU",
    "Model",
    "PatchSampler",
    "ReLU",
    "ReduceOnPlateau",
    "Sequential",
    "Softplus",
    "UpSampling",
]
