"""`patched`: our stand-ins in the peers' own modules, for a while."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from types import ModuleType
from typing import Any

from . import _calls

# Name -> the peer's modules that it swaps.
PEERS = {
    "skimage": ("skimage.restoration",),
    "scipy": ("scipy.signal", "scipy.ndimage"),
}
# Where names of the peers are looked for: scikit-image imports functions of scipy by name.
PACKAGES = ("scipy", "skimage")

_lock = threading.RLock()
_depth: Counter[str] = Counter()
# Of each peer that is swapped now: where something else stood, under which name, and what.
_replaced: dict[str, list[tuple[dict[str, Any], str, Any]]] = {}


def patched(*peers: str) -> Any:
    """Context manager (and decorator): the peers' functions are ours while it lasts.

    Every function in ``compat.skimage.restoration``, ``compat.scipy.signal`` and ``compat.scipy.ndimage``
    takes the place of the peer's function of that name wherever a loaded module of scipy or scikit-image
    holds it, so that both libraries use ours in their own work too. On leaving, also by an exception, each of
    these names holds again the very object that it held before.

    Parameters
    ----------
    *peers : {"skimage", "scipy"}
        Whose functions are swapped.

    Returns
    -------
    context manager
        It may be entered again and again, also while it is entered, and in several threads.

    Raises
    ------
    ValueError
        No peer, or an unknown one.
    ImportError
        A peer that is not installed, on entering; the message names what to install. Nothing is swapped then.

    Notes
    -----
    Modules belong to the process: all its threads see the swap, and so do processes forked inside the block.
    Processes started otherwise (multiprocessing's "spawn" and "forkserver", joblib's, a dask cluster's) have
    modules of their own and compute with the peer's functions; enter a block in what they run. The first
    block that enters swaps, the last that leaves restores, in whatever order blocks of several threads end.
    Code that took hold of a function while it was swapped (``from scipy.signal import convolve`` inside the
    block) has the peer's behaviour back, too, when the last block has ended. Code outside scipy and
    scikit-image that took hold of a function by name before the block keeps the peer's.

    Functions are pickled by name: inside the block those found in the peer's modules are, and each process
    loads what stands under the name there. One that was taken hold of before the block cannot be pickled
    inside it (PicklingError: not the same object).

    Examples
    --------
    >>> import medeconv_fast as mf, scipy.ndimage, numpy as np
    >>> with mf.compat.patched("scipy"):
    ...     smooth = scipy.ndimage.gaussian_filter(np.ones((32, 32, 32)), 2)
    """
    names = tuple(dict.fromkeys(peers))
    unknown = [name for name in names if not isinstance(name, str) or name not in PEERS]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) if unknown else "none"
        raise ValueError(f"peers: got {got}, expected one or more of {', '.join(map(repr, PEERS))}")
    return _Swapped(names)


class _Swapped(ContextDecorator):
    """The block of `patched`: it remembers nothing of one time that would not do for the next."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._inside = 0

    def __enter__(self) -> None:
        with _lock:
            for name in self._names:
                for module in PEERS[name]:
                    _calls.peer(module)
            entered: list[str] = []
            try:
                for name in self._names:
                    if not _depth[name]:
                        _swap(name)
                    _depth[name] += 1
                    entered.append(name)
            except BaseException:
                _leave(entered)
                raise
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with _lock:
            if not self._inside:
                raise RuntimeError("patched: left more often than entered")
            self._inside -= 1
            _leave(self._names)


def _leave(names: Iterable[str]) -> None:
    for name in names:
        _depth[name] -= 1
        if not _depth[name]:
            _restore(name)


def _stand_ins(module: str) -> dict[str, Callable[..., Any]]:
    ours: ModuleType = importlib.import_module(f"{__package__}.{module}")
    return {name: getattr(ours, name) for name in ours.__all__}


def _swap(peer: str) -> None:
    dispatchers: dict[int, tuple[Any, Callable[..., Any]]] = {}
    for home in PEERS[peer]:
        for name, ours in _stand_ins(home).items():
            theirs = getattr(_calls.peer(home), name)
            dispatchers[id(theirs)] = (theirs, _dispatcher(peer, theirs, ours))
    replaced = _replaced.setdefault(peer, [])
    try:
        for module_name, module in list(sys.modules.items()):
            if module_name.partition(".")[0] not in PACKAGES or not isinstance(module, ModuleType):
                continue
            namespace = vars(module)
            for key, value in list(namespace.items()):
                found = dispatchers.get(id(value))
                if found is not None and found[0] is value:
                    replaced.append((namespace, key, value))
                    namespace[key] = found[1]
    except BaseException:
        _restore(peer)
        raise


def _restore(peer: str) -> None:
    for namespace, key, value in reversed(_replaced.pop(peer, [])):
        namespace[key] = value


def _dispatcher(peer: str, theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        # A module that was loaded inside the block may hold on to this function for good.
        if _calls.in_peer() or not _depth[peer]:
            return theirs(*args, **kwargs)
        return ours(*args, **kwargs)

    call._medeconv_original = theirs  # type: ignore[attr-defined]
    return call
