"""What the taps of a PSF allow: symmetry, products of filters, short sums of such products."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from . import _costs

MOST_TERMS = 8  # of a sum of products: with more, transforms are faster
LEAST_SQUARES_STEPS = 200


def product_of(lines: Sequence[np.ndarray]) -> np.ndarray:
    """The array that one filter per axis makes."""
    return functools.reduce(np.multiply.outer, lines)


def product_taps(psf: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """One filter per axis whose outer product is `psf` to within its own rounding, or None."""
    peak = np.unravel_index(int(np.argmax(np.abs(psf))), psf.shape)
    highest = float(psf[peak])
    if highest == 0:
        return tuple(np.zeros(k, psf.dtype) for k in psf.shape)
    lines = []
    for axis in range(psf.ndim):
        line = psf[tuple(slice(None) if a == axis else int(peak[a]) for a in range(psf.ndim))]
        lines.append(line.astype(np.float64) / highest)
    lines[0] = lines[0] * highest
    product = product_of(lines)
    if float(np.abs(psf - product).max()) > 8 * np.finfo(psf.dtype).eps * abs(highest):
        return None
    # The rounded peak is in every line: restore the sum, which an iteration would otherwise see drift.
    # Not where taps cancel (a derivative's): their sum is rounding then, and so is a ratio of two of them.
    total = float(product.sum())
    if abs(total) > float(np.abs(product).sum()) / 2:
        lines[0] = lines[0] * (float(psf.sum(dtype=np.float64)) / total)
    return tuple(_symmetrised_line(line.astype(psf.dtype)) for line in lines)


def _flipped(psf: np.ndarray) -> np.ndarray:
    """Along every axis; np.flip takes longer than what a small PSF is looked at for."""
    return psf[(slice(None, None, -1),) * psf.ndim]


def _symmetrised_line(line: np.ndarray) -> np.ndarray:
    """`line` made symmetric where it is so to within its own rounding: two taps then cost one product."""
    mirrored = line[::-1]
    tolerance = 8 * np.finfo(line.dtype).eps * float(np.abs(line).max())
    return line / 2 + mirrored / 2 if float(np.abs(line - mirrored).max()) <= tolerance else line


def _evened(psf: np.ndarray, axis: int) -> np.ndarray | None:
    """`psf` made symmetric along an axis where it is so to within its own rounding, or None."""
    mirrored = psf[(slice(None),) * axis + (slice(None, None, -1),)]
    tolerance = 8 * np.finfo(psf.dtype).eps * float(np.abs(psf).max())
    return psf / 2 + mirrored / 2 if float(np.abs(psf - mirrored).max()) <= tolerance else None


def symmetrised(psf: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """`psf` made symmetric along z and x where it is so to within its own rounding, and the shape of what is
    left of its taps when the direct engine adds before it multiplies."""
    left = list(psf.shape)
    for axis in (psf.ndim - 3, psf.ndim - 1):
        if axis < 0 or psf.shape[axis] == 1:
            continue
        even = _evened(psf, axis)
        if even is not None:
            psf = even
            left[axis] = (left[axis] + 1) // 2
    return np.ascontiguousarray(psf), tuple(left)


def taps_of(psf: np.ndarray, tolerance: float = 0.0) -> _costs.Taps:
    """What the cost model needs to know of the PSF's taps."""
    terms = product_terms(psf, tolerance)
    return _costs.Taps(psf.shape, symmetrised(psf)[1], 0 if terms is None else len(terms))


def product_terms(psf: np.ndarray, tolerance: float = 0.0) -> list[tuple[np.ndarray, ...]] | None:
    """Products of one filter per axis whose sum is `psf`, as few as will do, or None.

    Parameters
    ----------
    psf : ndarray
        1 to 3 axes.
    tolerance : float
        0: only a single product that is `psf` to within its own rounding. Else the sum of the absolute values
        of what is left out is at most this share of that of the PSF, so that no blurred value moves by more
        than this share of (sum |psf|) · max |image|. The sum of the taps is kept.
    """
    single = product_taps(psf)
    if single is not None:
        return [single]
    if tolerance <= 0:
        return None
    wide = psf.astype(np.float64)
    allowed = tolerance * float(np.abs(wide).sum())
    for factors in _decompositions(wide):
        approximation = _sum_of_products(factors)
        total = float(approximation.sum())
        if total != 0:
            factors[0] *= float(wide.sum()) / total
            approximation *= float(wide.sum()) / total
        if float(np.abs(wide - approximation).sum()) <= allowed:
            return [
                tuple(_symmetrised_line(f[:, term].astype(psf.dtype)) for f in factors)
                for term in range(factors[0].shape[1])
            ]
    return None


def _sum_of_products(factors: list[np.ndarray]) -> np.ndarray:
    letters = "zyx"[: len(factors)]
    return np.einsum(",".join(f"{a}r" for a in letters) + "->" + letters, *factors)


def _decompositions(psf: np.ndarray) -> Iterator[list[np.ndarray]]:
    """One matrix per axis, its columns the filters, with 1, 2, ... terms.

    Two axes: the singular value decomposition. Three: alternating least squares (Carroll and Chang 1970;
    Harshman 1970), each number of terms beginning where the one before ended with the best product of what
    it left, on the core that singular vectors of the three unfoldings leave (Tucker 1966).
    """
    if psf.ndim == 2:
        u, s, v = np.linalg.svd(psf, full_matrices=False)
        for terms in range(1, min(MOST_TERMS, len(s)) + 1):
            yield [u[:, :terms] * s[:terms], v[:terms].T.copy()]
        return
    bases = []
    for axis in range(3):
        unfolded = np.moveaxis(psf, axis, 0).reshape(psf.shape[axis], -1)
        bases.append(np.linalg.svd(unfolded, full_matrices=False)[0][:, : 2 * MOST_TERMS])
    core = np.einsum("zyx,zi,yj,xk->ijk", psf, *bases, optimize=True)
    factors = [np.zeros((n, 0)) for n in core.shape]
    for _ in range(MOST_TERMS):
        left = core - _sum_of_products(factors) if factors[0].shape[1] else core
        factors = [np.column_stack([f, new]) for f, new in zip(factors, _best_product(left), strict=True)]
        for _ in range(LEAST_SQUARES_STEPS):
            for axis in range(3):
                factors[axis] = _least_squares(core, factors, axis)
        yield [basis @ f for basis, f in zip(bases, factors, strict=True)]


def _best_product(tensor: np.ndarray) -> list[np.ndarray]:
    """The first singular vectors, one unfolding after the other: where alternating least squares begins."""
    u, _, v = np.linalg.svd(tensor.reshape(tensor.shape[0], -1), full_matrices=False)
    y, _, x = np.linalg.svd(v[0].reshape(tensor.shape[1:]), full_matrices=False)
    weight = float(np.einsum("zyx,z,y,x->", tensor, u[:, 0], y[:, 0], x[0]))
    return [u[:, 0] * weight, y[:, 0], x[0]]


def _least_squares(core: np.ndarray, factors: list[np.ndarray], axis: int) -> np.ndarray:
    """The filters of `axis` that fit best while the other axes' stay; those are scaled to length 1."""
    others = [i for i in range(3) if i != axis]
    gram = np.ones((factors[0].shape[1],) * 2)
    for i in others:
        factors[i] = factors[i] / np.maximum(np.linalg.norm(factors[i], axis=0), np.finfo(float).tiny)
        gram = gram * (factors[i].T @ factors[i])
    letters = "zyx"
    spec = f"zyx,{letters[others[0]]}r,{letters[others[1]]}r->{letters[axis]}r"
    right = np.einsum(spec, core, factors[others[0]], factors[others[1]], optimize=True)
    # Terms that are nearly parallel share their part instead of cancelling each other.
    ridge = 1e-12 * np.trace(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + ridge, right.T).T


def point_symmetric(psf: np.ndarray, centre: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """`psf`, made exactly symmetric about its centre where it is so to within its own rounding, and whether.

    Its OTF is then real: a spectral sweep moves half as much of it.
    """
    if any(k != 2 * c + 1 for k, c in zip(psf.shape, centre, strict=True)):
        return psf, False
    mirrored = _flipped(psf)
    if float(np.abs(psf - mirrored).max()) > 8 * np.finfo(psf.dtype).eps * float(np.abs(psf).max()):
        return psf, False
    return np.ascontiguousarray(psf / 2 + mirrored / 2), True


def mirror_symmetric(psf: np.ndarray, centre: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """`psf`, made exactly symmetric along every axis where it is so to within its own rounding, and whether.

    An image that goes on as its own mirror image then stays so when it is blurred.
    """
    if any(k != 2 * c + 1 for k, c in zip(psf.shape, centre, strict=True)):
        return psf, False
    made = psf
    for axis in range(psf.ndim):
        even = _evened(made, axis)
        if even is None:
            return psf, False
        made = even
    return np.ascontiguousarray(made), True


def mirrored_terms(terms: Sequence[tuple[np.ndarray, ...]]) -> list[tuple[np.ndarray, ...]]:
    """The terms of a PSF that is `mirror_symmetric`, every filter made so.

    That projects their sum onto what is symmetric along every axis, where it is already.
    """
    return [tuple(line / 2 + line[::-1] / 2 for line in term) for term in terms]


def wrapped_taps(
    psf: np.ndarray, centre: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The PSF that acts like `psf` on a periodic grid of `shape` but is not larger, and its centre."""
    if all(k <= n for k, n in zip(psf.shape, shape, strict=True)):
        return psf, centre
    small = np.zeros([min(k, n) for k, n in zip(psf.shape, shape, strict=True)], psf.dtype)
    at, new_centre = [], []
    for k, c, n in zip(psf.shape, centre, shape, strict=True):
        at.append(np.arange(k) if k <= n else (np.arange(k) - c) % n)
        new_centre.append(c if k <= n else 0)
    np.add.at(small, np.ix_(*at), psf)
    return small, tuple(new_centre)
