"""Stands in for ``skimage``: `restoration`."""

from . import restoration

__all__ = ["restoration"]
