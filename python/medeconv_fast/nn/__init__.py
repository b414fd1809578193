"""Networks that learn to deconvolve, trained and applied on this library's own kernels.

Arrays are (N, C, [z,] y, x). `DeconvNet` and `RLNet` are ready made; `Sequential` and `Model` are made of
layers. See docs/nets.md.
"""

# Whole, before parts of them: a thread that asks for a part while another one loads the package would make
# them wait for each other, which Python ends with an error.
from .. import io as _io  # noqa: F401
from .. import preprocess as _preprocess  # noqa: F401
from ._activations import LeakyReLU, ReLU, Softplus
from ._augmentation import Augmentation
from ._blur_layers import FixedBlur, RichardsonLucyStep
from ._callbacks import Callback, EarlyStopping, ReduceOnPlateau
from ._convolutions import Conv, ConvTranspose
from ._data import PatchSampler
from ._deconv_net import DeconvNet
from ._deviation import LocalDeviation
from ._graph import Graph, register
from ._history import History
from ._joining import Add, Concat, Crop, Divide, Multiply
from ._layer import Input, Layer
from ._model import Model, Sequential
from ._normalization import GroupNorm, InstanceNorm
from ._optimizers import SGD, Adam, AdamW, Muon
from ._rl_net import RLNet
from ._schedules import CosineDecay, ExponentialDecay
from ._upsampling import UpSampling
from ._without_truth import SimulatedPairs, fit_without_truth

register(
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    Divide,
    FixedBlur,
    GroupNorm,
    InstanceNorm,
    LeakyReLU,
    LocalDeviation,
    Multiply,
    ReLU,
    RichardsonLucyStep,
    Softplus,
    UpSampling,
)

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
    "Crop",
    "DeconvNet",
    "Divide",
    "EarlyStopping",
    "ExponentialDecay",
    "FixedBlur",
    "Graph",
    "GroupNorm",
    "History",
    "Input",
    "InstanceNorm",
    "Layer",
    "LeakyReLU",
    "LocalDeviation",
    "Model",
    "Multiply",
    "Muon",
    "PatchSampler",
    "RLNet",
    "ReLU",
    "ReduceOnPlateau",
    "RichardsonLucyStep",
    "Sequential",
    "SimulatedPairs",
    "Softplus",
    "UpSampling",
    "fit_without_truth",
]
