"""Point spread functions: models, measured ones, resampling, width.

Axis order is the image's, (z, y, x) or (y, x); the centre is at ``shape // 2`` on every axis, for even
lengths too; a PSF made here sums to 1. Lengths are in the unit of `voxel_size` (mm, µm, …), whichever that
is.
"""

from ._measured import from_beads
from ._models import airy, born_wolf, gaussian, gibson_lanni, light_sheet
from ._sampling import fwhm, resample

__all__ = ["airy", "born_wolf", "from_beads", "fwhm", "gaussian", "gibson_lanni", "light_sheet", "resample"]
