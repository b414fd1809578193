"""One file per algorithm: short loops over the sweeps of `medeconv_fast.Blur`, the same on every backend."""

from ._blind_richardson_lucy import blind_richardson_lucy
from ._fista import fista
from ._inverse_filter import inverse_filter
from ._landweber import landweber
from ._options import Info
from ._restore import restore
from ._richardson_lucy import richardson_lucy
from ._tikhonov import tikhonov
from ._unsupervised_wiener import unsupervised_wiener
from ._van_cittert import van_cittert
from ._wiener import wiener

__all__ = [
    "Info",
    "blind_richardson_lucy",
    "fista",
    "inverse_filter",
    "landweber",
    "restore",
    "richardson_lucy",
    "tikhonov",
    "unsupervised_wiener",
    "van_cittert",
    "wiener",
]
