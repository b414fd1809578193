"""Libraries that only some functions need."""

from __future__ import annotations

import importlib
from types import ModuleType


def library(name: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional library (or a module of it), or say which command installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{purpose} needs {package}: pip install 'medeconv-fast[{extra}]'") from error


def matplotlib_figure(purpose: str) -> ModuleType:
    """The module of figures that are drawn without pyplot, so that nothing global is touched."""
    return library("matplotlib.figure", "report", purpose)
