"""What is done to the results of a convolution of networks while they are in cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _validate


class End(NamedTuple):
    """``addend`` is added (of the result's shape, or None), then negative values become ``slope`` times what
    they are, if `relu` asks for it.
    """

    relu: bool = False
    addend: Any = None
    slope: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but perhaps a ReLU."""
        return self.addend is None and self.slope == 0

    def options(self) -> dict[str, Any]:
        """As the kernels take it."""
        return {"relu": self.relu, "addend": self.addend, "slope": self.slope}

    def apply(self, out: np.ndarray) -> None:
        """In passes of its own, where a kernel does not do it."""
        with np.errstate(over="ignore", invalid="ignore"):  # kernels say nothing of NaN and Inf either
            if self.addend is not None:
                out += self.addend.reshape(out.shape)
            if self.relu and self.slope:  # `where=` takes thirty times as long
                other = out * out.dtype.type(self.slope)
                (np.maximum if self.slope <= 1 else np.minimum)(out, other, out=out)
            elif self.relu:
                np.maximum(out, 0, out=out)


NOTHING = End()


def read_end(relu: Any, negative_slope: Any) -> End:
    """`relu` and `negative_slope` as the public functions take them."""
    if relu is False and negative_slope == 0.0 and type(negative_slope) is float:
        return NOTHING
    relu = _validate.flag(relu, "relu")
    slope = _validate.number(negative_slope, "negative_slope", minimum=0)
    if slope and not relu:
        raise ValueError(f"negative_slope: got {slope!r} with relu=False, expected 0 or relu=True")
    return End(relu, None, slope)
