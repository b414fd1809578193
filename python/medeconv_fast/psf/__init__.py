"""Point spread functions: models, measured ones, other grids, width, files, pictures.

Axis order is the image's, (z, y, x) or (y, x); the centre is at ``shape // 2`` on every axis, for even
lengths too; a PSF made here sums to 1. Lengths are in the unit of `voxel_size` (mm, µm, …), whichever that
is.
"""

from ._edge import EdgeInfo, from_edge
from ._estimate import WidthInfo, estimate_fwhm
from ._measured import BeadsInfo, from_beads
from ._models import airy, born_wolf, gaussian, gibson_lanni, light_sheet
from ._plot import plot
from ._sampling import fwhm, recentre, remove_background, resample
from ._storage import load, save

__all__ = [
    "BeadsInfo",
    "EdgeInfo",
    "WidthInfo",
    "airy",
    "born_wolf",
    "estimate_fwhm",
    "from_beads",
    "from_edge",
    "fwhm",
    "gaussian",
    "gibson_lanni",
    "light_sheet",
    "load",
    "plot",
    "recentre",
    "remove_background",
    "resample",
    "save",
]
