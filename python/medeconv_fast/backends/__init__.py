"""Backends: the same kernels in several languages, and the choice among them.

A call's ``backend=`` counts first, then `use_backend`, then the environment variable ``MEDECONV_BACKEND``,
then "auto": the first available one of cpp, numba, reference; cuda is for those who name it. A backend that
was asked for by name and is not available raises with the reason; nothing falls back silently: the first call
that "auto" leaves to the reference warns.
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Any

from .. import _device, _validate
from . import cpp, cuda, numba, reference

__all__ = ["available", "release_memory", "resolve", "use_backend"]

_BUILT: dict[str, ModuleType] = {
    "cpp": cpp,
    "numba": numba,
    "reference": reference,
    "cuda": cuda,
}  # in the order of "auto", which never gets beyond the reference
_VARIABLE = "MEDECONV_BACKEND"
_chosen = "auto"
_warned = False  # once per process


def available() -> tuple[str, ...]:
    """Names of the backends that can compute here, the one that "auto" picks first."""
    return tuple(name for name, module in _BUILT.items() if module.is_available())


def _automatic() -> ModuleType:
    # In turn: asking Numba means importing it, which is not needed where the compiled module is.
    module = next(module for module in _BUILT.values() if module.is_available())
    global _warned
    if module is reference and not _warned:
        _warned = True
        warnings.warn(
            "computing with NumPy alone, which is many times slower than the other backends. cpp: "
            f"{cpp.unavailable_reason()}. numba: {numba.unavailable_reason()}",
            RuntimeWarning,
            stacklevel=4,
        )
    return module


def _named(name: Any, argument: str) -> ModuleType:
    name = _validate.choice(name, argument, ("auto", *_BUILT))
    if name == "auto":
        return _automatic()
    module = _BUILT[name]
    if not module.is_available():
        raise ImportError(f"{argument}: {name!r} is not available here: {module.unavailable_reason()}")
    return module


def use_backend(name: str) -> None:
    """Set the backend of all later calls in this process that do not name one themselves.

    Parameters
    ----------
    name : {"auto", "cpp", "numba", "reference", "cuda"}
        "auto" returns to ``MEDECONV_BACKEND`` or the first available one.

    Raises
    ------
    ValueError
        Unknown name.
    ImportError
        The backend is not available here; the message says why.
    """
    global _chosen
    _named(name, "name")
    _chosen = name


def resolve(name: Any = "auto", *arrays: Any) -> ModuleType:
    """The backend module for a call's ``backend=`` argument and its arrays; errors as `use_backend`.

    The device is the array's: in GPU memory only 'cuda' computes.
    """
    for resident in arrays:
        if not _device.on_device(resident):
            continue
        if name not in ("auto", "cuda"):
            raise ValueError(
                f"backend: got {name!r} for a {_device.library_of(resident)} array in GPU memory, expected "
                "'cuda' or 'auto'; or copy it to the host first (torch: .cpu(), CuPy: .get())"
            )
        return _named("cuda", "backend")
    if not isinstance(name, str) or name != "auto":
        return _named(name, "backend")
    if _chosen != "auto":
        return _named(_chosen, "backend")
    text = os.environ.get(_VARIABLE, "").strip()
    return _named(text or "auto", f"environment variable {_VARIABLE}")


def release_memory() -> None:
    """Give buffers that the backends keep for reuse back to the system."""
    for module in _BUILT.values():
        module.release_memory()
