"""What is computed here and what is handed back to the peer: the list, the counts, and the way back.

A stand-in raises `HandBack` as soon as it sees something that its kernels do not serve. The call then goes to
the peer's own function with the very arguments that came in, so that results, warnings and errors are the
peer's.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Everything that is handed back to the peer. Whatever is not in this list is computed by our kernels.
DELEGATED = {
    "complex": "complex arrays",
    "object": "arrays of objects, strings, dates or records",
    "longdouble": "arrays of longdouble",
    "float16": "arrays of float16 without one of float32 or float64 beside them",
    "integer": "integers and bools: for scipy.signal all operands, for scipy.ndimage the filtered array",
    "dimensions": "arrays of no axis or of more than three",
    "empty": "arrays without an element",
    "array kind": "arrays that are neither NumPy's own nor lists or numbers: subclasses, masked ones, torch",
    "not finite": "NaN or Inf where the peer transforms or keeps running sums, which spreads them in ways of "
    "its own; NaN or Inf among weights; NaN or Inf in scipy.ndimage under weights of zero, or with weights "
    "more than the values (mode='wrap') or than twice as many; any NaN or Inf in skimage.restoration",
    "tiny weights": "scipy.ndimage.correlate1d and convolve1d with all weights below 1e-6: its test for "
    "symmetric ones is absolute",
    "output dtype": "scipy.ndimage with output= other than float32 or float64",
    "transfer function": "skimage.restoration with a psf or reg in Fourier space, or is_real=False",
    "filter without bounds": "skimage.restoration.wiener where filter and regularizer can vanish together: "
    "balance that is not positive and finite in the result's dtype, or a psf that sums to 0",
    "random spectrum": "skimage.restoration.unsupervised_wiener: its numbers are those of random draws laid "
    "out on half a spectrum, which no kernel here holds",
    "arguments": "options that the peer refuses, or takes in a sense that is not documented; its own error "
    "says which; skimage.restoration.wiener with a reg of even length that is the image's",
}

_PIP = {"scipy": "scipy", "skimage": "scikit-image"}


class Calls(NamedTuple):
    """How often a stand-in was called: computed here, and handed back by reason (a key of `DELEGATED`)."""

    own: int
    delegated: dict[str, int]


class HandBack(Exception):
    """This call is the peer's; `reason` is a key of `DELEGATED`."""

    def __init__(self, reason: str) -> None:
        assert reason in DELEGATED
        super().__init__(reason)
        self.reason = reason


_lock = threading.Lock()
_own: Counter[str] = Counter()
_delegated: dict[str, Counter[str]] = {}
_thread = threading.local()


def calls(*, reset: bool = False) -> dict[str, Calls]:
    """How often each stand-in was called in this process, and what became of the calls.

    Parameters
    ----------
    reset : bool
        Set all counts to zero after reading them.

    Returns
    -------
    dict of str to Calls
        By the peer's name (``"scipy.signal.convolve"``), of functions called at least once: ``own``, the
        calls that our kernels computed, and ``delegated``, the number of calls handed back for each reason
        (see `DELEGATED`), also where the peer then refused it. What the peer calls in its turn while it
        serves a call that was handed back does not count.

    Raises
    ------
    TypeError
        A `reset` that is not a bool.
    """
    if not isinstance(reset, bool):
        raise TypeError(f"reset: got {reset!r}, expected True or False")
    with _lock:
        names = sorted({*_own, *_delegated})
        counts = {name: Calls(_own[name], dict(_delegated.get(name, ()))) for name in names}
        if reset:
            _own.clear()
            _delegated.clear()
    return counts


def peer(module: str) -> ModuleType:
    """The peer's module, imported now; its absence is explained."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise ImportError(
            f"{module}: needed by medeconv_fast.compat for this call, and cannot be imported ({error}); "
            f"pip install {_PIP[root]}"
        ) from error


def original(module: str, name: str) -> Callable[..., Any]:
    """The peer's own function, whatever `patched` has put in its place."""
    function = getattr(peer(module), name)
    while hasattr(function, "_medeconv_original"):
        function = function._medeconv_original
    return function


@contextmanager
def peers_own() -> Iterator[None]:
    """In this thread, functions that `patched` has swapped act as the peer's own."""
    before = getattr(_thread, "peers_own", False)
    _thread.peers_own = True
    try:
        yield
    finally:
        _thread.peers_own = before


def in_peer() -> bool:
    return getattr(_thread, "peers_own", False)


def stand_in(module: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function that stands in for the one of the same name in the peer's `module`."""

    def decorate(own: Callable[P, R]) -> Callable[P, R]:
        name = f"{module}.{own.__name__}"
        own.__doc__ = (
            f"Stand in for ``{name}``: its arguments, its results.\n\n"
            f"{own.__doc__ or ''}\n\n"
            "What is handed back to the peer is listed in ``compat.DELEGATED``, counted by ``compat.calls``."
        )

        @functools.wraps(own)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = own(*args, **kwargs)
            except HandBack as handed:
                with _lock:
                    _delegated.setdefault(name, Counter())[handed.reason] += 1
            else:
                with _lock:
                    _own[name] += 1
                return result
            with peers_own():
                return original(module, own.__name__)(*args, **kwargs)

        # The peers annotate nothing; with our annotations the two signatures would not be equal.
        bare = inspect.signature(own)
        parameters = [p.replace(annotation=p.empty) for p in bare.parameters.values()]
        call.__signature__ = bare.replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=bare.empty
        )
        return call

    return decorate
