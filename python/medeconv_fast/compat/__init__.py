"""Drop-in modules: the signatures and numbers of scikit-image and scipy, computed by this library's kernels.

``compat.skimage.restoration``, ``compat.scipy.signal`` and ``compat.scipy.ndimage`` hold functions that can
stand in for those of the same name in the peer, quirks included. `patched` swaps them into the peer's own
modules for a while. What the kernels do not serve is handed back to the peer: `DELEGATED` lists it, `calls`
counts it. ``compat.torch`` holds convolutions that torch's autograd follows. The peers themselves are
imported only when something is handed back or looked up. One thing is not the peers': our kernels may take
denormals (below 1.2e-38 in float32, 2.2e-308 in float64) for zeros.
"""

from __future__ import annotations

import importlib
from typing import Any

from ._calls import DELEGATED, Calls, calls
from ._patch import patched

__all__ = ["DELEGATED", "Calls", "calls", "patched"]

_SUBMODULES = ("scipy", "skimage", "torch")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_SUBMODULES))
