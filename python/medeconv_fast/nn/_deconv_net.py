"""DeconvNet: a convolution, and a decoder of transposed convolutions."""

from __future__ import annotations

from typing import Any

from .. import _validate
from ._convolutions import Conv, ConvTranspose
from ._joining import Add
from ._layer import Input
from ._model import Model
from ._upsampling import UpSampling

SCALES = (1, 2, 4)


class DeconvNet(Model):
    """The small network of many examples: Conv(64, 3, relu), then transposed convolutions up to the scale.

    scale 1 ends with a 3-wide transposed convolution, 2 with a 4-wide one of stride 2, 4 with two of those.

    Parameters
    ----------
    scale : {1, 2, 4}
        How much finer the result's grid is.
    filters : int
        Channels between the layers.
    ndim : int
        Spatial axes, 1 to 3.
    channels : int
        Of images and results.
    residual : bool
        Add the image, interpolated by Keys's cubic convolution where the scale asks for it. The last layer
        then starts at zero, so that training starts from the interpolated image and not from noise.
    seed, dtype, backend, num_threads
        As in `Model`.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> x, y = np.random.default_rng(0).random((2, 64, 1, 16, 16), np.float32)
    >>> net = mf.nn.DeconvNet().compile(optimizer="adam", loss="mse")
    >>> history = net.fit(x, y, epochs=2, batch_size=32)
    >>> net.predict(x[:1]).shape
    (1, 1, 16, 16)
    """

    def __init__(
        self,
        scale: int = 1,
        filters: int = 64,
        ndim: int = 2,
        channels: int = 1,
        residual: bool = True,
        seed: int = 0,
        *,
        dtype: Any = "float32",
        backend: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        scale = _validate.integer(scale, "scale", minimum=1)
        if scale not in SCALES:
            raise ValueError(f"scale: got {scale}, expected 1, 2 or 4")
        filters = _validate.integer(filters, "filters", minimum=1)
        residual = _validate.flag(residual, "residual")
        image = Input(channels, ndim)
        self._arguments: dict[str, Any] = {
            "scale": scale,
            "filters": filters,
            "ndim": image.ndim,
            "channels": image.channels,
            "residual": residual,
        }
        signal = Conv(filters, 3, activation="relu", name="encoder")(image)
        if scale == 4:
            signal = ConvTranspose(filters, 4, 2, activation="relu", name="enlarge")(signal)
        kernel, stride = (3, 1) if scale == 1 else (4, 2)
        init = "zeros" if residual else "glorot"
        signal = ConvTranspose(channels, kernel, stride, init=init, name="decoder")(signal)
        if residual:
            skip = image if scale == 1 else UpSampling(scale, "cubic", name="interpolation")(image)
            signal = Add(name="residual")(skip, signal)
        super().__init__(image, signal, seed=seed, dtype=dtype, backend=backend, num_threads=num_threads)

    def arguments(self) -> dict[str, Any]:
        return self._arguments

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any], **options: Any) -> Model:
        return cls(**arguments, **options)
