"""Volumes larger than memory, many of them, on many machines: restored in tiles, through one function."""

# Whole, before parts of them, as in `medeconv_fast.nn`.
from .. import io as _io  # noqa: F401
from .. import preprocess as _preprocess  # noqa: F401
from ._drivers import TileError
from ._plan import VolumePlan
from ._restore_volume import VolumeResult, plan_volume, restore_volume

__all__ = ["TileError", "VolumePlan", "VolumeResult", "plan_volume", "restore_volume"]
