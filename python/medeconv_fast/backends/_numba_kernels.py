"""Inner loops of the Numba backend; imported by it when it first computes, never before: Numba takes a while.

Everything runs without the GIL, on one thread, over arrays that the caller has laid out; threads are the
business of ``numba.py``. Compiled code is cached beside this file (or where ``NUMBA_CACHE_DIR`` says).

No fast-math: each value is a sum in the order that is written here, whatever the compiler vectorises, so a
block's borders change no bit. Scalars come in the arrays' dtype: Python's floats would widen float32
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

BLOCK = 512  # values of a line that are summed at a time: one output and 8 inputs fit the first cache
SUMMED = 2048  # positions of a weight gradient between two additions to its float64 sums
PARTIAL = 128  # taps summed by themselves, so that rounding does not grow with the number of taps


def _kernel(function: Callable[..., Any]) -> Any:
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no place to cache: a read-only installation and no home
        return njit(nogil=True)(function)


@_kernel
def _accumulate(acc, source, at, offsets, weights, first, last):
    """acc[i] += sum over taps first <= t < last of weights[t] * source[at + offsets[t] + i]."""
    n = acc.size
    t = first
    # Eight taps per pass over `acc`: fewer loads and stores of it. Views start at 0, so that indices are
    # known not to be negative, which would keep the loops from being vectorised.
    while t + 8 <= last:
        a0 = source[at + offsets[t] :][:n]
        a1 = source[at + offsets[t + 1] :][:n]
        a2 = source[at + offsets[t + 2] :][:n]
        a3 = source[at + offsets[t + 3] :][:n]
        a4 = source[at + offsets[t + 4] :][:n]
        a5 = source[at + offsets[t + 5] :][:n]
        a6 = source[at + offsets[t + 6] :][:n]
        a7 = source[at + offsets[t + 7] :][:n]
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        w4, w5, w6, w7 = weights[t + 4], weights[t + 5], weights[t + 6], weights[t + 7]
        for i in range(n):
            v = acc[i] + w0 * a0[i] + w1 * a1[i] + w2 * a2[i] + w3 * a3[i]
            acc[i] = v + w4 * a4[i] + w5 * a5[i] + w6 * a6[i] + w7 * a7[i]
        t += 8
    if t + 4 <= last:
        a0 = source[at + offsets[t] :][:n]
        a1 = source[at + offsets[t + 1] :][:n]
        a2 = source[at + offsets[t + 2] :][:n]
        a3 = source[at + offsets[t + 3] :][:n]
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        for i in range(n):
            acc[i] = acc[i] + w0 * a0[i] + w1 * a1[i] + w2 * a2[i] + w3 * a3[i]
        t += 4
    while t < last:
        a0 = source[at + offsets[t] :][:n]
        w0 = weights[t]
        for i in range(n):
            acc[i] += w0 * a0[i]
        t += 1


@_kernel
def taps_along_line(out, source, at, offsets, weights, partial):
    """out[i] = sum over the taps of weights[t] * source[at + offsets[t] + i]; `partial` is BLOCK values of
    scratch.
    """
    taps = offsets.size
    for start in range(0, out.size, BLOCK):
        acc = out[start : start + BLOCK]
        acc[:] = 0
        if taps <= PARTIAL:
            _accumulate(acc, source, at + start, offsets, weights, 0, taps)
            continue
        some = partial[: acc.size]
        for first in range(0, taps, PARTIAL):
            some[:] = 0
            _accumulate(some, source, at + start, offsets, weights, first, min(first + PARTIAL, taps))
            for i in range(acc.size):
                acc[i] += some[i]


@_kernel
def gather(x, out, first, map_z, map_y, map_x, run_start, run_stop):
    """out[z, y, i] = x[map_z[first + z], map_y[y], map_x[i]]; an index of -1 stands for 0.

    From run_start to run_stop map_x counts up by one: a copy.
    """
    for z in range(out.shape[0]):
        source_z = map_z[first + z]
        for y in range(out.shape[1]):
            row = out[z, y]
            source_y = map_y[y]
            if source_z < 0 or source_y < 0:
                row[:] = 0
                continue
            source = x[source_z, source_y]
            for i in range(run_start):
                row[i] = source[map_x[i]] if map_x[i] >= 0 else 0
            if run_stop > run_start:
                row[run_start:run_stop] = source[map_x[run_start] :][: run_stop - run_start]
            for i in range(run_stop, row.size):
                row[i] = source[map_x[i]] if map_x[i] >= 0 else 0


@_kernel
def gather_channels(x, out, first, last, maps_z, maps_y, maps_x, runs):
    """out[c, place] = channel c of x, gathered by every combination of the maps, for first <= c < last."""
    for c in range(first, last):
        place = 0
        for a in range(maps_z.shape[0]):
            for b in range(maps_y.shape[0]):
                for k in range(maps_x.shape[0]):
                    gather(x[c], out[c, place], 0, maps_z[a], maps_y[b], maps_x[k], runs[k, 0], runs[k, 1])
                    place += 1


@_kernel
def channels_last(x, out, first, last):
    """out[i, p, c] = x[i, c, p] for first <= i * places + p < last."""
    places = x.shape[2]
    start = first
    while start < last:
        i, p0 = start // places, start % places
        p1 = min(p0 + 16, places, p0 + last - start)
        to = out[i]
        for c in range(x.shape[1]):
            values = x[i, c]
            for p in range(p0, p1):
                to[p, c] = values[p]
        start += p1 - p0


@_kernel
def crop_rows(line, pitch, at, out):
    """out[y] = line[at + y * pitch :]"""
    for y in range(out.shape[0]):
        out[y, :] = line[at + y * pitch :][: out.shape[1]]


@_kernel
def fold_middle(x, sources, out, start, stop):
    """out[a, sources[m], start:stop] += x[a, m, start:stop] for all m in turn; an index of -1 is left out."""
    for a in range(out.shape[0]):
        out[a, :, start:stop] = 0
        for m in range(x.shape[1]):
            if sources[m] < 0:
                continue
            to, from_ = out[a, sources[m]][start:stop], x[a, m][start:stop]
            for i in range(to.size):
                to[i] += from_[i]


@_kernel
def separable_tile(
    x,
    tile,
    z0,
    y0,
    map_z,
    map_y,
    map_x,
    run_start,
    run_stop,
    taps_z,
    taps_y,
    taps_x,
    after_z,
    after_y,
    padded,
    partial,
):
    """tile[z, y, x] of the product of three filters: tap t of an axis reads place i + t of its map into
    `x`.
    """
    depth, height, width = tile.shape
    source_height, source_width = x.shape[1], x.shape[2]
    flat = x.reshape(-1)
    rows = height + taps_y.size - 1
    offsets_z = np.empty(taps_z.size, np.int64)
    weights_z = np.empty_like(taps_z)
    offsets_y = np.arange(taps_y.size) * source_width
    offsets_x = np.arange(taps_x.size)
    pitch = width + taps_x.size - 1

    # z: whole runs of rows at a time. The planes of a block share most of what they read.
    r = 0
    while r < rows:
        source_row = map_y[y0 + r]
        count = 1
        if source_row >= 0:
            while r + count < rows and map_y[y0 + r + count] == source_row + count:
                count += 1
        stop = (r + count) * source_width
        for start in range(r * source_width, stop, BLOCK):
            n = min(BLOCK, stop - start)
            for z in range(depth):
                acc = after_z[z][start:][:n]
                acc[:] = 0
                if source_row < 0:
                    continue
                valid = 0
                for t in range(taps_z.size):
                    if map_z[z0 + z + t] >= 0:
                        offsets_z[valid] = map_z[z0 + z + t] * source_height * source_width
                        weights_z[valid] = taps_z[t]
                        valid += 1
                at = source_row * source_width + start - r * source_width
                _accumulate(acc, flat, at, offsets_z, weights_z, 0, valid)
        r += count

    for z in range(depth):
        taps_along_line(after_y[: height * source_width], after_z[z], 0, offsets_y, taps_y, partial)
        for y in range(height):
            source = after_y[y * source_width :][:source_width]
            row = padded[y * pitch :][:pitch]
            for i in range(run_start):
                row[i] = source[map_x[i]] if map_x[i] >= 0 else 0
            if run_stop > run_start:
                row[run_start:run_stop] = source[map_x[run_start] :][: run_stop - run_start]
            for i in range(run_stop, pitch):
                row[i] = source[map_x[i]] if map_x[i] >= 0 else 0
        line = after_y[: (height - 1) * pitch + width]  # its values are in `padded` now
        taps_along_line(line, padded, 0, offsets_x, taps_x, partial)
        crop_rows(line, pitch, 0, tile[z])


@_kernel
def direct_tile(
    x, tile, z0, y0, map_z, map_y, map_x, run_start, run_stop, offsets, weights, source, line, partial
):
    """tile[z, y, i] = sum over the taps of weights[t] * source[z, y, i at an offset].

    `source` receives what the tile reads, continued by the PSF's reach: there each tap is a shift of one long
    line.
    """
    depth, height, width = tile.shape
    planes = map_z.size - z0 if map_z.size - z0 < source.shape[0] else source.shape[0]
    rows = map_y.size - y0 if map_y.size - y0 < source.shape[1] else source.shape[1]
    pitch = source.shape[2]
    gather(x, source[:planes, :rows], z0, map_z, map_y[y0 : y0 + rows], map_x, run_start, run_stop)
    flat = source.reshape(-1)
    values = line[: (height - 1) * pitch + width]
    for z in range(depth):
        taps_along_line(values, flat, z * source.shape[1] * pitch, offsets, weights, partial)
        crop_rows(values, pitch, 0, tile[z])


@_kernel
def multiply_spectrum(block, otf, start, conjugate):
    """block[k, j] *= otf[k, start + j], or its conjugate."""
    for k in range(block.shape[0]):
        row, factor = block[k], otf[k][start:][: block.shape[1]]
        if conjugate:
            for j in range(row.size):
                row[j] *= np.conj(factor[j])
        else:
            for j in range(row.size):
                row[j] *= factor[j]


# The formulas, in place on a private copy of the blurred values, so that no operand can be the same memory.
# An operand that is not given has no elements. A comparison with NaN is false: NaN stays, as in
# numpy.maximum.


@_kernel
def ratio(c, image, weights, background, eps):
    for i in range(c.size):
        divisor = c[i] + background
        c[i] = image[i] / (eps if divisor < eps else divisor)
    if weights.size:
        for i in range(c.size):
            c[i] *= weights[i]


@_kernel
def _divergences(image, model, out, quotient, bits, exponent):
    """out = model * (q log q - q + 1) with q = image / model, in float64; see `divergence` in formulas.hpp.

    Without a call of log: the loops are vectorised. `quotient` and `bits` are the same memory.
    """
    n = image.size
    for i in range(n):
        quotient[i] = np.float64(image[i]) / np.float64(model[i])
    for i in range(n):  # mantissa * 2^e, the mantissa in [sqrt(1/2), sqrt(2))
        e = (bits[i] - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
        exponent[i] = e
        bits[i] -= e << np.int64(52)
    for i in range(n):
        model_i = np.float64(model[i])
        q, m, e = np.float64(image[i]) / model_i, quotient[i], exponent[i]
        s = (m - 1.0) / (m + 1.0)
        s2 = s * s
        series = s2 * (1.0 / 21) + 1.0 / 19
        series = series * s2 + 1.0 / 17
        series = series * s2 + 1.0 / 15
        series = series * s2 + 1.0 / 13
        series = series * s2 + 1.0 / 11
        series = series * s2 + 1.0 / 9
        series = series * s2 + 1.0 / 7
        series = series * s2 + 1.0 / 5
        series = series * s2 + 1.0 / 3
        rest = s * s2 * series
        near = (m + 1.0) * (s2 + (1.0 + s) * rest)
        far = q * (e * 0.6931471805599453094 + (s + rest) * 2.0) - (q - 1.0)
        value = near if e == 0.0 else far
        out[i] = model_i * (value if q > 1e-37 else 1.0)


@_kernel
def ratio_with_sums(c, image, weights, damping, held_out, background, eps, held_out_scale, unit, sums):
    """`ratio` with damping, and the sums: I-divergence, squared residual, and that of the held-out image."""
    one = c.dtype.type(1)
    model = np.empty(BLOCK, c.dtype)
    misfit, quotient, exponent = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bits = quotient.view(np.int64)
    totals = np.zeros((3, BLOCK))
    for start in range(0, c.size, BLOCK):
        block, measured = c[start : start + BLOCK], image[start : start + BLOCK]
        n = block.size
        for i in range(n):
            divisor = block[i] + background
            model[i] = eps if divisor < eps else divisor
            block[i] = measured[i] / model[i]
        _divergences(measured, model[:n], misfit[:n], quotient[:n], bits[:n], exponent[:n])
        if damping.size:
            sharpness = damping[start : start + BLOCK]
            for i in range(n):
                u = misfit[i] * sharpness[i]
                u = 1.0 if u > 1.0 else u
                u4 = u * u * u * u
                block[i] = one + u4 * u4 * u * (10.0 - u * 9.0) * (block[i] - one)
        for i in range(n):
            difference = np.float64(measured[i] - model[i]) * unit
            quotient[i] = difference * difference
        if weights.size:
            weight = weights[start : start + BLOCK]
            for i in range(n):
                misfit[i] *= weight[i]
                quotient[i] *= weight[i]
                block[i] *= weight[i]
        for i in range(n):
            totals[0, i] += misfit[i]
            totals[1, i] += quotient[i]
        if held_out.size:
            kept = held_out[start : start + BLOCK]
            for i in range(n):
                difference = np.float64(kept[i] - model[i] * held_out_scale) * unit
                quotient[i] = difference * difference
            if weights.size:
                weight = weights[start : start + BLOCK]
                for i in range(n):
                    quotient[i] *= weight[i]
            for i in range(n):
                totals[2, i] += quotient[i]
    sums[0], sums[1], sums[2] = totals[0].sum() * unit, totals[1].sum(), totals[2].sum()


@_kernel
def multiply(c, estimate, gain, factor):
    zero = c.dtype.type(0)
    if factor.size:
        for i in range(c.size):
            c[i] *= factor[i]
    if gain.size:
        for i in range(c.size):
            updated = estimate[i] * (c[i] * gain[i])
            updated = zero if updated < zero else updated
            c[i] = updated if gain[i] > zero else estimate[i]
    else:
        for i in range(c.size):
            updated = estimate[i] * c[i]
            c[i] = zero if updated < zero else updated


@_kernel
def residual(c, image, weights, background):
    for i in range(c.size):
        c[i] = image[i] - (c[i] + background)
    if weights.size:
        for i in range(c.size):
            c[i] *= weights[i]


@_kernel
def residual_sums(c, image, weights, background, unit, sums):
    """Of the blurred values that `residual` has not seen yet: 0 and the squared residual."""
    totals = np.zeros(BLOCK)
    for start in range(0, c.size, BLOCK):
        block, measured = c[start : start + BLOCK], image[start : start + BLOCK]
        if weights.size:
            weight = weights[start : start + BLOCK]
            for i in range(block.size):
                difference = np.float64(measured[i] - (block[i] + background)) * unit
                totals[i] += difference * difference * weight[i]
        else:
            for i in range(block.size):
                difference = np.float64(measured[i] - (block[i] + background)) * unit
                totals[i] += difference * difference
    sums[0], sums[1], sums[2] = 0.0, totals.sum(), 0.0


@_kernel
def add(c, estimate, gain, factor, step, positive):
    zero = c.dtype.type(0)
    if factor.size:
        for i in range(c.size):
            c[i] *= factor[i]
    if gain.size:
        for i in range(c.size):
            c[i] *= gain[i]
    for i in range(c.size):
        c[i] = estimate[i] + step * c[i]
    if positive:
        for i in range(c.size):
            c[i] = zero if c[i] < zero else c[i]


@_kernel
def movement(c, origin, change, unit, sums):
    """Sums of a step from `origin` (none: not a step) to `c`: its square, the square of `c`, the product
    with the
    step before, which is in `change` and is replaced."""
    totals = np.zeros((3, BLOCK))
    for start in range(0, c.size, BLOCK):
        block = c[start : start + BLOCK]
        for i in range(block.size):
            value = np.float64(block[i]) * unit
            totals[1, i] += value * value
        if origin.size:
            before = origin[start : start + BLOCK]
            for i in range(block.size):
                moved = np.float64(block[i] - before[i]) * unit
                totals[0, i] += moved * moved
            if change.size:
                earlier = change[start : start + BLOCK]
                for i in range(block.size):
                    moved = block[i] - before[i]
                    totals[2, i] += (np.float64(moved) * unit) * (np.float64(earlier[i]) * unit)
                    earlier[i] = moved
    sums[0], sums[1], sums[2] = totals[0].sum(), totals[1].sum(), totals[2].sum()


@_kernel
def extrapolate(c, previous, alpha):
    zero = c.dtype.type(0)
    for i in range(c.size):
        ahead = c[i] + alpha * (c[i] - previous[i])
        c[i] = zero if ahead < zero else ahead


@_kernel
def gcv_sums(spectrum, h2, r2, counts, balances, sums):
    """For each balance b the sums of g^2 |Y|^2 and of g, g = b r2 / (h2 + b r2), in float64."""
    for b in range(balances.size):
        numerator, denominator = 0.0, 0.0
        for k in range(spectrum.shape[0]):
            for j in range(spectrum.shape[1]):
                divisor = np.float64(h2[k, j]) + balances[b] * np.float64(r2[k, j])
                if divisor > 0:
                    g = balances[b] * np.float64(r2[k, j]) / divisor
                    real, imag = np.float64(spectrum[k, j].real), np.float64(spectrum[k, j].imag)
                    numerator += counts[j] * g * g * (real * real + imag * imag)
                    denominator += counts[j] * g
        sums[b, 0], sums[b, 1] = numerator, denominator


@_kernel
def _accumulate_four(acc, n, source, at, offsets, weights, first, last):
    """acc[o * BLOCK + i] += sum over taps first <= t < last of weights[o, t] * source[at + offsets[t] + i].

    Four outputs at a time, in one buffer at constant distances: what is read serves all of them, and the
    compiler sees that they do not overlap.
    """
    w = weights
    t = first
    while t + 4 <= last:
        a0 = source[at + offsets[t] :][:n]
        a1 = source[at + offsets[t + 1] :][:n]
        a2 = source[at + offsets[t + 2] :][:n]
        a3 = source[at + offsets[t + 3] :][:n]
        w00, w01, w02, w03 = w[0, t], w[0, t + 1], w[0, t + 2], w[0, t + 3]
        w10, w11, w12, w13 = w[1, t], w[1, t + 1], w[1, t + 2], w[1, t + 3]
        w20, w21, w22, w23 = w[2, t], w[2, t + 1], w[2, t + 2], w[2, t + 3]
        w30, w31, w32, w33 = w[3, t], w[3, t + 1], w[3, t + 2], w[3, t + 3]
        for i in range(n):
            x0, x1, x2, x3 = a0[i], a1[i], a2[i], a3[i]
            acc[i] = acc[i] + w00 * x0 + w01 * x1 + w02 * x2 + w03 * x3
            acc[i + BLOCK] = acc[i + BLOCK] + w10 * x0 + w11 * x1 + w12 * x2 + w13 * x3
            acc[i + 2 * BLOCK] = acc[i + 2 * BLOCK] + w20 * x0 + w21 * x1 + w22 * x2 + w23 * x3
            acc[i + 3 * BLOCK] = acc[i + 3 * BLOCK] + w30 * x0 + w31 * x1 + w32 * x2 + w33 * x3
        t += 4
    while t < last:
        a0 = source[at + offsets[t] :][:n]
        w00, w10, w20, w30 = w[0, t], w[1, t], w[2, t], w[3, t]
        for i in range(n):
            x0 = a0[i]
            acc[i] = acc[i] + w00 * x0
            acc[i + BLOCK] = acc[i + BLOCK] + w10 * x0
            acc[i + 2 * BLOCK] = acc[i + 2 * BLOCK] + w20 * x0
            acc[i + 3 * BLOCK] = acc[i + 3 * BLOCK] + w30 * x0
        t += 1


@_kernel
def _four_lines(lines, length, source, at, offsets, weights, acc, partial):
    """lines[o, i] = sum over the taps of weights[o, t] * source[at + offsets[t] + i], for four outputs."""
    taps = offsets.size
    for start in range(0, length, BLOCK):
        n = min(BLOCK, length - start)
        acc[:] = 0
        if taps <= PARTIAL:
            _accumulate_four(acc, n, source, at + start, offsets, weights, 0, taps)
        else:
            for first in range(0, taps, PARTIAL):
                partial[:] = 0
                last = min(first + PARTIAL, taps)
                _accumulate_four(partial, n, source, at + start, offsets, weights, first, last)
                for i in range(acc.size):
                    acc[i] += partial[i]
        for o in range(4):
            lines[o, start : start + n] = acc[o * BLOCK :][:n]


@_kernel
def _lines_of(lines, length, source, at, offsets, weights, acc, partial):
    """lines[o, i] = sum over the taps of weights[o, t] * source[at + offsets[t] + i]; four outputs or one."""
    if weights.shape[0] == 4:
        _four_lines(lines, length, source, at, offsets, weights, acc, partial)
    else:
        taps_along_line(lines[0][:length], source, at, offsets, weights[0], partial[:BLOCK])


@_kernel
def conv_tile(
    source,
    at,
    pitch,
    rows,
    width,
    offsets,
    weights,
    bias,
    relu,
    out,
    channel,
    z,
    y,
    step_y,
    x,
    step_x,
    lines,
    acc,
    partial,
):
    """Rows of one plane of some outputs: every tap is a shift of one long line, which holds all rows.

    Row r of the line goes to row y + r * step_y of out[channel + o, z], value i to x + i * step_x, as far as
    they are inside.
    """
    zero = out.dtype.type(0)
    length = (rows - 1) * pitch + width
    first = max(0, -(x // step_x))
    last = min(width, (out.shape[3] - 1 - x) // step_x + 1)
    outputs = weights.shape[0]
    o = 0
    while o < outputs:
        count = 4 if o + 4 <= outputs else 1
        _lines_of(lines, length, source, at, offsets, weights[o : o + count], acc, partial)
        for j in range(count):
            b = bias[o + j] if bias.size else zero
            for r in range(rows):
                target = y + r * step_y
                if target < 0 or target >= out.shape[2] or last <= first:
                    continue
                values = lines[j][r * pitch + first :][: last - first]
                row = out[channel + o + j, z, target]
                if step_x == 1:
                    to = row[x + first :][: last - first]
                    for i in range(values.size):
                        to[i] = values[i] + b
                    if relu:
                        for i in range(values.size):
                            to[i] = zero if to[i] < zero else to[i]
                else:
                    for i in range(values.size):
                        v = values[i] + b
                        row[x + (first + i) * step_x] = zero if relu and v < zero else v
        o += count


@_kernel
def conv_tiles(
    source,
    tiles,
    pitch,
    width,
    offsets,
    weights,
    bias,
    relu,
    out,
    step_y,
    x,
    step_x,
    lines,
    acc,
    partial,
):
    """One `conv_tile` after the other: a call from Python takes longer than many of them.

    A tile: where its source begins, rows, group, first and last output of it, its first channel, that channel
    in `out`, z, y.
    """
    for i in range(tiles.shape[0]):
        first, last, channel = tiles[i, 3], tiles[i, 4], tiles[i, 5]
        conv_tile(
            source,
            tiles[i, 0],
            pitch,
            tiles[i, 1],
            width,
            offsets,
            weights[tiles[i, 2], first:last],
            bias[channel : channel + last - first],
            relu,
            out,
            tiles[i, 6],
            tiles[i, 7],
            tiles[i, 8],
            step_y,
            x,
            step_x,
            lines,
            acc,
            partial,
        )


@_kernel
def channel_products(
    grad, source, group, groups, positions, first, last, shifts, lengths, totals, lines, acc, partial
):
    """totals[o] += sum over n, first <= i < last of grad[n, o, i] * source[m, positions[i] + shifts[t] :].

    m is n * groups + group. Of each t in turn lengths[t] values. Channels lie next to one another, and taps
    that follow one another in x: vectors run along them, for four outputs at a time. At most SUMMED products
    are added in the dtype, then in float64.
    """
    outputs = totals.shape[0]
    for n in range(grad.shape[0]):
        values = source[n * groups + group]
        for start in range(first, last, SUMMED):
            stop = min(start + SUMMED, last)
            places = positions[start:stop]
            o = 0
            while o < outputs:
                count = 4 if o + 4 <= outputs else 1
                weights = grad[n, o : o + count, start:stop].copy()  # else compiled for gaps between rows too
                to = 0
                for t in range(shifts.size):
                    length = lengths[t]
                    _lines_of(lines, length, values, shifts[t], places, weights, acc, partial)
                    for j in range(count):
                        total, sums = totals[o + j][to : to + length], lines[j]
                        for i in range(length):
                            total[i] += sums[i]
                    to += length
                o += count


@_kernel
def weight_products(grad, source, at, plane, pitch, width, offsets, rows, first, last, totals, lanes):
    """totals[t] += sum over rows first <= r < last and i of grad[r, i] * source[line r + offsets[t] + i].

    Row r is row r % rows of plane r // rows. Summed in lanes of the dtype, a few hundred rows at a time, and
    then in float64.
    """
    size = lanes.shape[1]
    begin = first
    while begin < last:
        # Not beyond the plane: its rows are equally far from one another.
        end = min(begin + 256, last, (begin // rows + 1) * rows)
        line = at + (begin // rows) * plane + (begin % rows) * pitch
        lanes[:, :] = 0
        for start in range(0, width, size):
            n = min(size, width - start)
            r = begin
            while r < end:
                here = line + (r - begin) * pitch + start
                # Four rows per pass over the lanes.
                if r + 4 <= end:
                    g0, g1 = grad[r][start:][:n], grad[r + 1][start:][:n]
                    g2, g3 = grad[r + 2][start:][:n], grad[r + 3][start:][:n]
                    for t in range(offsets.size):
                        s0 = source[here + offsets[t] :][:n]
                        s1 = source[here + offsets[t] + pitch :][:n]
                        s2 = source[here + offsets[t] + 2 * pitch :][:n]
                        s3 = source[here + offsets[t] + 3 * pitch :][:n]
                        lane = lanes[t][:n]
                        for i in range(n):
                            lane[i] = lane[i] + g0[i] * s0[i] + g1[i] * s1[i] + g2[i] * s2[i] + g3[i] * s3[i]
                    r += 4
                else:
                    g = grad[r][start:][:n]
                    for t in range(offsets.size):
                        s = source[here + offsets[t] :][:n]
                        lane = lanes[t][:n]
                        for i in range(n):
                            lane[i] += g[i] * s[i]
                    r += 1
        for t in range(offsets.size):
            total = 0.0
            for i in range(size):
                total += lanes[t, i]
            totals[t] += total
        begin = end


@_kernel
def weight_products_of_channels(
    grad, source, at, plane, pitch, width, offsets, rows, first, last, totals, lanes
):
    """`weight_products` for every channel: offsets and totals are (channels, taps)."""
    for c in range(totals.shape[0]):
        weight_products(
            grad, source, at, plane, pitch, width, offsets[c], rows, first, last, totals[c], lanes
        )


@_kernel
def sum_lines(x, out):
    """out[c] = sum of x[n, c, i] over n and i, in float64."""
    lanes = np.zeros(BLOCK)
    for c in range(x.shape[1]):
        lanes[:] = 0
        for n in range(x.shape[0]):
            for start in range(0, x.shape[2], BLOCK):
                values = x[n, c][start : start + BLOCK]
                for i in range(values.size):
                    lanes[i] += values[i]
        out[c] = lanes.sum()


@_kernel
def bias_and_relu(x, bias, relu):
    """x[c] += bias[c], and what is negative becomes 0."""
    zero = x.dtype.type(0)
    for c in range(x.shape[0]):
        b = bias[c % bias.size] if bias.size else zero
        row = x[c]
        for i in range(row.size):
            v = row[i] + b
            row[i] = zero if relu and v < zero else v


@_kernel
def end_results(x, addend, relu, slope):
    """x += addend (empty: nothing), and what is negative becomes so many times itself."""
    zero = x.dtype.type(0)
    for i in range(x.size):
        v = x[i] + addend[i] if addend.size else x[i]
        if relu and v < zero:  # 0 times what is infinite is no number
            v = v * slope if slope > zero else zero
        x[i] = v


@_kernel
def _differences(a, following, steep, along, inverse):
    """Forward differences of one plane: to the `following` one, in its place, along y (`steep`) and along x.

    Beyond the array lies its edge.
    """
    height, width = a.shape
    for y in range(height):
        row, below = a[y], a[y + 1 if y + 1 < height else y]
        for i in range(width):
            steep[y, i] = (below[i] - row[i]) * inverse[1]
        for i in range(width - 1):
            along[y, i] = (row[i + 1] - row[i]) * inverse[2]
        along[y, width - 1] = 0
    for y in range(height):
        for i in range(width):
            following[y, i] = (following[y, i] - a[y, i]) * inverse[0]


@_kernel
def slopes(u, slope, first, last, inverse, total_variation, floor):
    """Of planes first <= z < last of `u` the divergence of the gradient, of which total_variation takes the
    direction only: divided by its length, with `floor` added to the square of that."""
    one = u.dtype.type(1)
    depth, height, width = u.shape
    across, earlier = np.zeros((height, width), u.dtype), np.zeros((height, width), u.dtype)
    steep, along = np.empty_like(across), np.empty_like(across)
    for z in range(max(first - 1, 0), last):
        across[:, :] = u[z + 1 if z + 1 < depth else z]
        _differences(u[z], across, steep, along, inverse)
        if total_variation:
            for y in range(height):
                for i in range(width):
                    a, b, c = across[y, i], steep[y, i], along[y, i]
                    scale = one / np.sqrt(a * a + b * b + c * c + floor)
                    across[y, i], steep[y, i], along[y, i] = a * scale, b * scale, c * scale
        if z >= first:
            for y in range(height):
                row = slope[z - first, y]
                for i in range(width):
                    row[i] = (across[y, i] - earlier[y, i]) * inverse[0] + steep[y, i] * inverse[1]
                if y > 0:
                    for i in range(width):
                        row[i] -= steep[y - 1, i] * inverse[1]
                row[0] += along[y, 0] * inverse[2]
                for i in range(1, width):
                    row[i] += (along[y, i] - along[y, i - 1]) * inverse[2]
        across, earlier = earlier, across


@_kernel
def denoise_values(z, ahead, places, weight, lowest, first, last, x):
    """Of slices first <= s < last: z plus the divergence of the weighted components, not below `lowest`.

    `places`: which component belongs to an axis, -1 for none.
    """
    height, width = z.shape[1:]
    for s in range(first, last):
        for y in range(height):
            row = x[s, y]
            for i in range(width):
                row[i] = z[s, y, i]
            if places[0] >= 0:
                flow = ahead[places[0]]
                for i in range(width):
                    row[i] += flow[s, y, i] * weight[0]
                if s > 0:
                    for i in range(width):
                        row[i] -= flow[s - 1, y, i] * weight[0]
            if places[1] >= 0:
                flow = ahead[places[1]]
                for i in range(width):
                    row[i] += flow[s, y, i] * weight[1]
                if y > 0:
                    for i in range(width):
                        row[i] -= flow[s, y - 1, i] * weight[1]
            if places[2] >= 0:
                flow = ahead[places[2]]
                row[0] += flow[s, y, 0] * weight[2]
                for i in range(1, width):
                    row[i] += (flow[s, y, i] - flow[s, y, i - 1]) * weight[2]
            for i in range(width):
                row[i] = max(row[i], lowest)


@_kernel
def denoise_ascend(x, ahead, dual, places, step, momentum, first, last):
    """Of slices first <= s < last: along the gradient of x, projected, and beyond."""
    one = x.dtype.type(1)
    depth, height, width = x.shape
    length = np.empty(width, x.dtype)
    for s in range(first, last):
        for y in range(height):
            length[:] = 0
            for axis in range(3):
                if places[axis] >= 0:
                    row, here, after = ahead[places[axis], s, y], x[s, y], x[s, y]
                    if axis == 0 and s + 1 < depth:
                        after = x[s + 1, y]
                    if axis == 1 and y + 1 < height:
                        after = x[s, y + 1]
                    if axis == 2:
                        for i in range(width - 1):
                            row[i] += (here[i + 1] - here[i]) * step[2]
                    else:
                        for i in range(width):
                            row[i] += (after[i] - here[i]) * step[axis]
                    for i in range(width):
                        length[i] += row[i] * row[i]
            for i in range(width):
                length[i] = one / max(np.sqrt(length[i]), one)
            for component in range(len(ahead)):
                row, before = ahead[component, s, y], dual[component, s, y]
                for i in range(width):
                    moved = row[i] * length[i]
                    row[i] = moved + (moved - before[i]) * momentum
                    before[i] = moved
