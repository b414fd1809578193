"""medeconv_fast: fast deconvolution of medical and microscopy images. For research, not a medical device.

Arrays are (z, y, x), (y, x) or (x). A PSF's centre is at ``shape // 2``. See `richardson_lucy`, `wiener` and
`restore`.
"""

import importlib as _importlib
import typing as _typing

from . import backends, metrics, ops, stop
from ._blur import Blur
from ._convolution import convolve, correlate
from ._planner import plan
from ._simulate import simulate
from ._threads import get_num_threads, set_num_threads
from .algorithms import (
    blind_richardson_lucy,
    fista,
    inverse_filter,
    landweber,
    restore,
    richardson_lucy,
    tikhonov,
    unsupervised_wiener,
    van_cittert,
    wiener,
)
from .backends import release_memory, use_backend

if _typing.TYPE_CHECKING:
    from . import compat, io, nn, preprocess, psf, report, volumes
    from .volumes import restore_volume

__version__ = "0.1.0"

__all__ = [
    "Blur",
    "__version__",
    "backends",
    "blind_richardson_lucy",
    "compat",
    "convolve",
    "correlate",
    "fista",
    "get_num_threads",
    "inverse_filter",
    "io",
    "landweber",
    "metrics",
    "nn",
    "ops",
    "plan",
    "preprocess",
    "psf",
    "release_memory",
    "report",
    "restore",
    "restore_volume",
    "richardson_lucy",
    "set_num_threads",
    "simulate",
    "stop",
    "tikhonov",
    "unsupervised_wiener",
    "use_backend",
    "van_cittert",
    "volumes",
    "wiener",
]

# Together they take as long to load as all the rest, and few programs need them all.
_LATER = ("compat", "io", "nn", "preprocess", "psf", "report", "volumes")

if not _typing.TYPE_CHECKING:  # which would let any name pass

    def __getattr__(name):
        if name in _LATER:
            return _importlib.import_module(f".{name}", __name__)
        if name == "restore_volume":
            return _importlib.import_module(".volumes", __name__).restore_volume
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
