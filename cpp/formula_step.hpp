// A sweep's formula on one value or vector, with all that a sweep may ask of it; for engines and whole arrays alike.
#pragma once
#include "operands.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class V>
struct Numbers {
    V background, eps, step, alpha, held_out_scale, unit;
    template <class T, class Splat>
    MEDECONV_INLINE Numbers(const Operands<T>& o, Splat splat)
        : background(splat(o.background)), eps(splat(o.eps)), step(splat(o.step)), alpha(splat(o.alpha)),
          held_out_scale(splat(o.held_out_scale)), unit(splat(o.unit)) {}
};

// `get` and `put` reach the operands where the value lies. All is read before anything is written: operands may be
// destinations. plain: see Operands. Returns what the next sweep gets.
template <Formula formula, bool plain, class V, class T, class Load, class Store>
MEDECONV_INLINE V formula_step(const Operands<T>& o, V c, const Numbers<V>& number, Load get, Store put, V* sums) {
    constexpr bool of_image = formula == Formula::ratio || formula == Formula::residual;
    constexpr bool of_estimate = formula == Formula::multiply || formula == Formula::add;
    const V one = (number.eps - number.eps) + T(1);
    V change = one - one;
    if constexpr (!plain)
        if (o.partial) c = c + get(o.partial);
    if constexpr (of_image) {
        const V image = get(o.image), weight = o.weights ? get(o.weights) : one, blurred = c;
        c = formula == Formula::ratio ? ratio<V>(c, image, number.background, number.eps) : residual<V>(c, image, number.background);
        if constexpr (!plain) {
            const V model = formula == Formula::ratio ? larger_of<V>(blurred + number.background, number.eps) : blurred + number.background;
            if constexpr (formula == Formula::ratio) {
                const V misfit = model * divergence<V>(c);
                if (o.damping) c = damped<V>(c, misfit, get(o.damping));
                sums[0] += weight * (misfit * number.unit);
                if (o.held_out) {
                    const V surprise = (get(o.held_out) - model * number.held_out_scale) * number.unit;
                    sums[2] += weight * surprise * surprise;
                }
            }
            const V difference = (image - model) * number.unit;
            sums[1] += weight * difference * difference;
        }
        if (o.weights) c = c * weight;
    }
    if constexpr (of_estimate) {
        const V estimate = get(o.estimate), gain = o.gain ? get(o.gain) : one;
        if constexpr (!plain)
            if (o.factor) c = c * get(o.factor);
        c = formula == Formula::multiply ? multiply<V>(c, estimate, gain) : add<V>(c, estimate, gain, number.step, o.positive);
        change = c - estimate;
    }
    V next = c;
    if constexpr (!plain) {
        if (o.previous) {
            const V previous = get(o.previous);
            next = extrapolate<V>(c, previous, number.alpha);
            if (!of_estimate) change = c - previous;
        }
        if constexpr (of_estimate) {
            if (o.change) {
                sums[2] += (change * number.unit) * (get(o.change) * number.unit);
                put(o.change, change);
            }
        }
        if constexpr (!of_image) {
            const V moved = change * number.unit, value = c * number.unit;
            sums[0] += moved * moved;
            sums[1] += value * value;
        }
    }
    if (o.out) put(o.out, c);
    if constexpr (!plain)
        if (o.extrapolated) put(o.extrapolated, next);
    return next;
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
