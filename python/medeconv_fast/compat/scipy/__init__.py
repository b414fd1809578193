"""Stands in for ``scipy``: `signal` and `ndimage`."""

from . import ndimage, signal

__all__ = ["ndimage", "signal"]
