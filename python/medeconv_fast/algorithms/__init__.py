"""One file per algorithm: short loops over the sweeps of `medeconv_fast.Blur`, the same on every backend."""

from ._blind_richardson_lucy import blind_richardson_lucy
from ._options import Info
from ._restore import restore
from ._richardson_lucy import richardson_lucy
from ._wiener import wiener

__all__ = ["Info", "blind_richardson_lucy", "restore", "richardson_lucy", "wiener"]
