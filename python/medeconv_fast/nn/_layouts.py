"""Weights in the layouts of torch and Keras.

torch keeps (out, in / groups, *kernel), transposed (in, out / groups, *kernel), as we do. Keras has the
kernel's axes first: (*kernel, in / groups, out), transposed (*kernel, out, in). Neither mirrors the kernel.
"""

from __future__ import annotations

import numpy as np

from .. import _validate
from ._convolutions import _Convolution
from ._layer import Layer

LAYOUTS = ("torch", "keras")


def _axes(layer: Layer, name: str, array: np.ndarray) -> tuple[int, ...] | None:
    """The transposition from our layout to Keras's; None where both are the same."""
    if not isinstance(layer, _Convolution) or name != "weight":
        return None
    return (*range(2, array.ndim), 1, 0)


def to_layout(layer: Layer, name: str, array: np.ndarray, layout: str) -> np.ndarray:
    """A copy of a weight in a layout."""
    axes = _axes(layer, name, array) if layout == "keras" else None
    return array.copy() if axes is None else np.ascontiguousarray(array.transpose(axes))


def from_layout(layer: Layer, name: str, array: np.ndarray, layout: str) -> np.ndarray:
    axes = _axes(layer, name, array) if layout == "keras" else None
    return array if axes is None else array.transpose(np.argsort(axes))


def check_layout(layout: object) -> str:
    return _validate.choice(layout, "layout", LAYOUTS)
