// The kernels without Python: every case against a direct sum in double. Built with sanitizers by `make test-sanitize`;
// MEDECONV_ISA chooses the ISA. Exit status 0 when all cases agree.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "kernels.hpp"

using namespace medeconv;

namespace {

int cases = 0, failures = 0;
void expect(bool ok, const char* what, double value = 0) {
    ++cases;
    if (ok) return;
    ++failures;
    std::printf("FAILED: %s (%g)\n", what, value);
}

struct Case {
    Shape image, psf;
    enum Boundary { wrap, zero, extended } boundary;
};

int64_t size(const Shape& s) { return s[0] * s[1] * s[2]; }

// The plain sums are most of what this program does, and not what it tests: checked, each would take four times as long.
#define PLAIN_SUM __attribute__((noinline, no_sanitize("address", "undefined")))

// y[i] += sum_j h[j] x[i + offset - (j - c)], x zero outside its shape, or periodic.
PLAIN_SUM void direct(const double* x, const int64_t* xs, const double* h, const int64_t* hs, const int64_t* offset, const int64_t* ys,
                      bool periodic, bool adjoint, double* y) {
    for (int64_t a = 0; a < ys[0]; ++a) for (int64_t b = 0; b < ys[1]; ++b) for (int64_t c = 0; c < ys[2]; ++c)
        for (int64_t p = 0; p < hs[0]; ++p) for (int64_t q = 0; q < hs[1]; ++q) for (int64_t r = 0; r < hs[2]; ++r) {
            int64_t at[3] = {a + offset[0] - (p - hs[0] / 2), b + offset[1] - (q - hs[1] / 2), c + offset[2] - (r - hs[2] / 2)};
            bool inside = true;
            for (int d = 0; d < 3; ++d) {
                if (periodic) at[d] = ((at[d] % xs[d]) + xs[d]) % xs[d];
                inside = inside && at[d] >= 0 && at[d] < xs[d];
            }
            if (!inside) continue;
            const int64_t to = (a * ys[1] + b) * ys[2] + c, from = (at[0] * xs[1] + at[1]) * xs[2] + at[2];
            const double weight = h[(p * hs[1] + q) * hs[2] + r];
            if (adjoint) y[from] += weight * x[to];
            else y[to] += weight * x[from];
        }
}
std::vector<double> direct(const std::vector<double>& x, const Shape& xs, const std::vector<double>& h, const Shape& hs,
                           const Shape& offset, const Shape& ys, bool periodic, bool adjoint) {
    std::vector<double> y(size_t(size(adjoint ? xs : ys)), 0.0);
    direct(x.data(), xs.data(), h.data(), hs.data(), offset.data(), ys.data(), periodic, adjoint, y.data());
    return y;
}

template <class T>
void compare(const char* what, const std::vector<T>& got, const std::vector<double>& wanted, double tolerance) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        difference += (got[i] - wanted[i]) * (got[i] - wanted[i]);
        norm += wanted[i] * wanted[i];
    }
    const double error = std::sqrt(difference / (norm > 0 ? norm : 1));
    expect(error < tolerance, what, error);
}

// All that a sweep may be asked for at once: every operand of exactly its size, so that a sanitizer sees a step too far;
// sums of the same bits for any number of threads. run(adjoint, formula, operands, threads) starts from the same source.
template <class T, class Run>
void everything(const char* engine, int64_t image, int64_t estimate, std::mt19937& random, Run run) {
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    for (Formula formula : {Formula::ratio, Formula::residual, Formula::multiply, Formula::add}) {
        const bool adjoint = formula == Formula::multiply || formula == Formula::add;
        const size_t n = size_t(adjoint ? estimate : image);
        std::array<std::vector<T>, 8> drawn;
        for (auto& v : drawn)
            for (size_t i = 0; i < n; ++i) v.push_back(T(uniform(random)));
        std::array<double, sums_of_a_sweep> first{};
        for (int threads : {1, 3}) {
            auto a = drawn;
            std::vector<T> out(n), extrapolated(n);
            std::array<double, sums_of_a_sweep> sums{};
            Operands<T> o;
            o.image = a[0].data(), o.weights = a[1].data(), o.damping = a[2].data(), o.held_out = a[3].data();
            o.estimate = a[0].data(), o.gain = a[1].data(), o.factor = a[2].data(), o.change = a[4].data();
            o.previous = a[5].data(), o.alpha = T(0.5), o.out = out.data(), o.extrapolated = extrapolated.data();
            o.background = T(0.25), o.eps = T(1e-6), o.sums = sums.data();
            run(adjoint, formula, o, threads);
            for (size_t i = 0; i < n; ++i) {
                const T ahead = std::max(out[i] + o.alpha * (out[i] - a[5][i]), T(0));
                if (std::fabs(ahead - extrapolated[i]) > T(1e-5) * (std::fabs(ahead) + 1)) {
                    expect(false, engine, double(i));
                    break;
                }
            }
            expect(sums[1] > 0 && std::isfinite(sums[0] + sums[2]), engine, sums[1]);
            if (threads == 1) first = sums;
            else expect(first == sums, engine, sums[0]);
        }
    }
}

// symmetric: a psf that is symmetric about its centre, where it can be. continued: a periodic case in a longer grid.
template <class T>
void spectral(const Case& c, bool symmetric, bool continued, std::mt19937& random) {
    for (size_t d = 0; d < 3; ++d) symmetric = symmetric && c.psf[d] % 2 == 1;
    continued = continued && c.boundary == Case::wrap;
    const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    auto draw = [&](int64_t n) {
        std::vector<double> v(static_cast<size_t>(n));
        for (double& x : v) x = T(uniform(random));
        return v;
    };
    Shape offset{0, 0, 0}, centre{}, estimate = c.image, grid = c.image;
    Box estimate_box, image_box;
    for (size_t d = 0; d < 3; ++d) {
        centre[d] = c.psf[d] / 2;
        if (c.boundary == Case::extended) {
            offset[d] = c.psf[d] - 1 - centre[d];
            estimate[d] = grid[d] = c.image[d] + c.psf[d] - 1;
        } else if (c.boundary == Case::zero) {
            grid[d] = c.image[d] + c.psf[d] / 2;
        }
        const size_t real = size(c.image) > 1 && c.image[0] > 1 && c.image[1] > 1 && c.image[2] > 1 ? 1 : 2;
        if (c.boundary != Case::wrap) grid[d] = good_size(grid[d], d == real && grid[d] > 1);
        if (continued && c.image[d] > 1) grid[d] = good_size(c.image[d] + c.psf[d] - 1, d == real);
        estimate_box[d] = {0, estimate[d]};
        image_box[d] = {offset[d], offset[d] + c.image[d]};
    }
    const bool periodic = c.boundary == Case::wrap;
    const auto x = draw(size(estimate)), y = draw(size(c.image)), w = draw(size(c.image)), gain = draw(size(estimate));
    auto h = draw(size(c.psf));
    if (symmetric)
        for (size_t i = 0; i < h.size(); ++i) h[h.size() - 1 - i] = h[i];
    typename SpectralPlan<T>::Reach reach;
    for (size_t d = 0; d < 3; ++d)
        if (continued && c.image[d] > 1) reach[d] = {c.psf[d] - 1 - centre[d], centre[d]};
    auto cast = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
    const auto xt = cast(x), yt = cast(y), ht = cast(h), wt = cast(w), gt = cast(gain);
    SpectralPlan<T> plan(grid, estimate_box, image_box, reach);
    auto transfer = plan.transfer(ht.data(), c.psf, centre, symmetric, 2);
    const auto hx = direct(x, estimate, h, c.psf, offset, c.image, periodic, false);
    std::vector<double> ratio(hx.size());
    for (size_t i = 0; i < hx.size(); ++i) ratio[i] = w[i] * y[i] / (hx[i] + 0.25);
    auto updated = direct(ratio, estimate, h, c.psf, offset, c.image, periodic, true);
    for (size_t i = 0; i < updated.size(); ++i) updated[i] = x[i] * updated[i] * gain[i];

    std::vector<T> first;
    for (int threads : {1, 3}) {
        Buffer<T> spectrum = plan.new_spectrum();
        std::vector<T> blurred(yt.size()), result(xt);
        Operands<T> o;
        o.out = blurred.data();
        plan.load(spectrum.get(), xt.data(), false, {}, threads, {});
        plan.sweep(spectrum.get(), *transfer, false, Formula::copy, o, false, threads, {});
        compare("forward", blurred, hx, tolerance);

        plan.load(spectrum.get(), xt.data(), false, {}, threads, {});
        Operands<T> r;
        r.image = yt.data(), r.weights = wt.data(), r.background = T(0.25), r.eps = T(1e-6);
        plan.sweep(spectrum.get(), *transfer, false, Formula::ratio, r, true, threads, {});
        Operands<T> m;
        m.estimate = m.out = result.data(), m.gain = gt.data();
        plan.sweep(spectrum.get(), *transfer, true, Formula::multiply, m, true, threads, {});
        compare("ratio, multiply", result, updated, tolerance);

        // the kept spectrum is that of the result
        plan.sweep(spectrum.get(), *transfer, false, Formula::copy, o, false, threads, {});
        compare("kept", blurred, direct(updated, estimate, h, c.psf, offset, c.image, periodic, false), tolerance);
        if (threads == 1) first = result;
        else expect(std::memcmp(first.data(), result.data(), first.size() * sizeof(T)) == 0, "same bits with 3 threads");
    }
    everything<T>("spectral: everything", size(c.image), size(estimate), random, [&](bool adjoint, Formula f, const Operands<T>& o, int threads) {
        Buffer<T> spectrum = plan.new_spectrum();
        plan.load(spectrum.get(), adjoint ? yt.data() : xt.data(), adjoint, {}, threads, {});
        plan.sweep(spectrum.get(), *transfer, adjoint, f, o, true, threads, {});
    });
}

// The line engine: forward, its transpose, and formulas; in as many segments as the psf asks for.
// An image that goes on as its mirror image, and a psf of odd lengths that is symmetric along every axis.
template <class T>
void mirrored(const Shape& image, const Shape& psf, std::mt19937& random) {
    const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    std::vector<double> x, h(size_t(size(psf)));
    for (int64_t i = 0; i < size(image); ++i) x.push_back(T(uniform(random)));
    for (int64_t a = 0; a < psf[0]; ++a) for (int64_t b = 0; b < psf[1]; ++b) for (int64_t c = 0; c < psf[2]; ++c) {
        const int64_t p = std::min(a, psf[0] - 1 - a), q = std::min(b, psf[1] - 1 - b), r = std::min(c, psf[2] - 1 - c);
        h[size_t((a * psf[1] + b) * psf[2] + c)] = T(1.0 / double(size(psf)) * (1 + double(p) + 0.5 * double(q * r)));
    }
    auto folded = [](int64_t i, int64_t n) {
        i = ((i % (2 * n)) + 2 * n) % (2 * n);
        return i < n ? i : 2 * n - 1 - i;
    };
    std::vector<double> wanted(x.size(), 0.0);
    for (int64_t a = 0; a < image[0]; ++a) for (int64_t b = 0; b < image[1]; ++b) for (int64_t c = 0; c < image[2]; ++c)
        for (int64_t p = 0; p < psf[0]; ++p) for (int64_t q = 0; q < psf[1]; ++q) for (int64_t r = 0; r < psf[2]; ++r) {
            const int64_t z = folded(a - p + psf[0] / 2, image[0]), y = folded(b - q + psf[1] / 2, image[1]), at = folded(c - r + psf[2] / 2, image[2]);
            wanted[size_t((a * image[1] + b) * image[2] + c)] += h[size_t((p * psf[1] + q) * psf[2] + r)] * x[size_t((z * image[1] + y) * image[2] + at)];
        }
    const std::vector<T> source(x.begin(), x.end()), taps(h.begin(), h.end());
    const CosinePlan<T> plan(image);
    const auto transfer = plan.transfer(taps.data(), psf, 2);
    const auto spectrum = plan.new_spectrum();
    for (int threads : {1, 3}) {
        std::vector<T> out(x.size());
        Operands<T> o;
        o.out = out.data();
        plan.load(spectrum.get(), source.data(), false, {}, threads, {});
        plan.sweep(spectrum.get(), *transfer, false, Formula::copy, o, true, threads, {});
        compare("mirrored", out, wanted, tolerance);
    }
    everything<T>("mirrored", size(image), size(image), random, [&](bool adjoint, Formula formula, const Operands<T>& o, int threads) {
        plan.load(spectrum.get(), source.data(), adjoint, {}, threads, {});
        plan.sweep(spectrum.get(), *transfer, adjoint, formula, o, true, threads, {});
    });
}

template <class T>
void line(int64_t n, int64_t k, Case::Boundary boundary, std::mt19937& random) {
    const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    auto draw = [&](int64_t count) {
        std::vector<double> v(static_cast<size_t>(count));
        for (double& value : v) value = T(uniform(random));
        return v;
    };
    const int64_t centre = k / 2, before = boundary == Case::extended ? k - 1 - centre : 0;
    const Shape image{1, 1, n}, psf{1, 1, k}, offset{0, 0, before}, estimate{1, 1, boundary == Case::extended ? n + k - 1 : n};
    const Box estimate_box{Range{0, 1}, Range{0, 1}, Range{0, estimate[2]}}, image_box{Range{0, 1}, Range{0, 1}, Range{before, before + n}};
    const bool periodic = boundary == Case::wrap;
    const auto x = draw(estimate[2]), y = draw(n), h = draw(k);
    auto cast = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
    const auto xt = cast(x), yt = cast(y), ht = cast(h);
    const OverlapPlan<T> plan(estimate_box, image_box, periodic);
    const auto filters = plan.filters(ht.data(), k, centre);
    const auto hx = direct(x, estimate, h, psf, offset, image, periodic, false);
    std::vector<double> ratio(hx.size());
    for (size_t i = 0; i < hx.size(); ++i) ratio[i] = y[i] / (hx[i] + 0.25);
    auto updated = direct(ratio, estimate, h, psf, offset, image, periodic, true);
    for (size_t i = 0; i < updated.size(); ++i) updated[i] *= x[i];
    std::vector<T> first;
    for (int threads : {1, 3}) {
        std::vector<T> blurred(static_cast<size_t>(n)), quotient(static_cast<size_t>(n)), result(xt);
        Operands<T> o;
        o.out = blurred.data();
        plan.sweep(xt.data(), nullptr, *filters, false, Formula::copy, o, threads, {});
        compare("line: forward", blurred, hx, tolerance);
        Operands<T> r;
        r.image = yt.data(), r.background = T(0.25), r.eps = T(1e-6);
        plan.sweep(xt.data(), quotient.data(), *filters, false, Formula::ratio, r, threads, {});
        Operands<T> m;
        m.estimate = m.out = result.data();
        plan.sweep(quotient.data(), nullptr, *filters, true, Formula::multiply, m, threads, {});
        compare("line: ratio, multiply", result, updated, tolerance);
        if (threads == 1) first = result;
        else expect(std::memcmp(first.data(), result.data(), first.size() * sizeof(T)) == 0, "line: same bits with 3 threads");
    }
    everything<T>("line: everything", n, estimate[2], random, [&](bool adjoint, Formula f, const Operands<T>& o, int threads) {
        std::vector<T> kept(size_t(std::max(n, estimate[2])));
        plan.sweep(adjoint ? yt.data() : xt.data(), kept.data(), *filters, adjoint, f, o, threads, {});
    });
}

// The direct engine: forward, the two sweeps of an iteration, and the kept result; `symmetric`: bits for z and x.
template <class T>
void taps(const Case& c, int symmetric, std::mt19937& random) {
    const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    auto draw = [&](int64_t n) {
        std::vector<double> v(static_cast<size_t>(n));
        for (double& x : v) x = T(uniform(random));
        return v;
    };
    Shape offset{0, 0, 0}, centre{}, estimate = c.image;
    Box estimate_box, image_box;
    for (size_t d = 0; d < 3; ++d) {
        centre[d] = c.psf[d] / 2;
        if (c.boundary == Case::extended) {
            offset[d] = c.psf[d] - 1 - centre[d];
            estimate[d] = c.image[d] + c.psf[d] - 1;
        }
        estimate_box[d] = {0, estimate[d]};
        image_box[d] = {offset[d], offset[d] + c.image[d]};
    }
    const bool periodic = c.boundary == Case::wrap;
    const auto x = draw(size(estimate)), y = draw(size(c.image)), w = draw(size(c.image)), gain = draw(size(estimate));
    auto h = draw(size(c.psf));
    auto at = [&](int64_t p, int64_t q, int64_t r) -> double& { return h[size_t((p * c.psf[1] + q) * c.psf[2] + r)]; };
    for (int64_t p = 0; p < c.psf[0]; ++p) for (int64_t q = 0; q < c.psf[1]; ++q) for (int64_t r = 0; r < c.psf[2]; ++r) {
        const int64_t z = symmetric & 1 ? std::min(p, c.psf[0] - 1 - p) : p;
        at(p, q, r) = at(z, q, symmetric & 2 ? std::min(r, c.psf[2] - 1 - r) : r);
    }
    auto cast = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
    const auto xt = cast(x), yt = cast(y), ht = cast(h), wt = cast(w), gt = cast(gain);
    DirectPlan<T> plan(estimate_box, image_box, periodic);
    const auto filters = plan.filters(ht.data(), c.psf, centre);
    expect(filters.folded_z >= (symmetric & 1 && c.psf[0] > 1) && filters.folded_x >= (symmetric & 2 && c.psf[2] > 1), "symmetry is seen");
    const auto hx = direct(x, estimate, h, c.psf, offset, c.image, periodic, false);
    std::vector<double> ratio(hx.size());
    for (size_t i = 0; i < hx.size(); ++i) ratio[i] = w[i] * y[i] / (hx[i] + 0.25);
    auto updated = direct(ratio, estimate, h, c.psf, offset, c.image, periodic, true);
    for (size_t i = 0; i < updated.size(); ++i) updated[i] = x[i] * updated[i] * gain[i];

    std::vector<T> first;
    for (int threads : {1, 3}) {
        std::vector<T> blurred(yt.size()), kept_ratio(yt.size()), result(xt);
        Operands<T> o;
        o.out = blurred.data();
        plan.sweep(xt.data(), nullptr, filters, false, Formula::copy, o, threads, {});
        compare("direct forward", blurred, hx, tolerance);
        Operands<T> r;
        r.image = yt.data(), r.weights = wt.data(), r.background = T(0.25), r.eps = T(1e-6);
        plan.sweep(xt.data(), kept_ratio.data(), filters, false, Formula::ratio, r, threads, {});
        compare("direct ratio, kept", kept_ratio, ratio, tolerance);
        Operands<T> m;
        m.estimate = m.out = result.data(), m.gain = gt.data();
        plan.sweep(kept_ratio.data(), nullptr, filters, true, Formula::multiply, m, threads, {});
        compare("direct multiply", result, updated, tolerance);
        if (threads == 1) first = result;
        else expect(std::memcmp(first.data(), result.data(), first.size() * sizeof(T)) == 0, "direct: same bits with 3 threads");
    }
    everything<T>("direct: everything", size(c.image), size(estimate), random, [&](bool adjoint, Formula f, const Operands<T>& o, int threads) {
        std::vector<T> kept(size_t(std::max(size(c.image), size(estimate))));
        plan.sweep(adjoint ? yt.data() : xt.data(), kept.data(), filters, adjoint, f, o, threads, {});
    });
}

// The separable engine, the same way.
template <class T>
void products(const Case& c, bool symmetric, std::mt19937& random) {
    const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    auto draw = [&](int64_t n) {
        std::vector<T> v(static_cast<size_t>(n));
        for (T& x : v) x = T(uniform(random));
        return v;
    };
    Shape offset{0, 0, 0}, centre{}, estimate = c.image;
    Box estimate_box, image_box;
    std::array<std::vector<T>, 3> lines;
    for (size_t d = 0; d < 3; ++d) {
        centre[d] = c.psf[d] / 2;
        if (c.boundary == Case::extended) {
            offset[d] = c.psf[d] - 1 - centre[d];
            estimate[d] = c.image[d] + c.psf[d] - 1;
        }
        estimate_box[d] = {0, estimate[d]};
        image_box[d] = {offset[d], offset[d] + c.image[d]};
        lines[d] = draw(c.psf[d]);
        for (size_t i = 0; symmetric && 2 * i < lines[d].size(); ++i) lines[d][lines[d].size() - 1 - i] = lines[d][i];
    }
    std::vector<double> h;
    for (T z : lines[0]) for (T y : lines[1]) for (T x : lines[2]) h.push_back(double(z) * double(y) * double(x));
    const bool periodic = c.boundary == Case::wrap;
    const auto x = draw(size(estimate)), y = draw(size(c.image));
    auto wide = [](const std::vector<T>& v) { return std::vector<double>(v.begin(), v.end()); };
    const auto hx = direct(wide(x), estimate, h, c.psf, offset, c.image, periodic, false);
    std::vector<double> ratio(hx.size());
    for (size_t i = 0; i < hx.size(); ++i) ratio[i] = double(y[i]) / (hx[i] + 0.25);
    auto updated = direct(ratio, estimate, h, c.psf, offset, c.image, periodic, true);
    for (size_t i = 0; i < updated.size(); ++i) updated[i] *= double(x[i]);

    SeparablePlan<T> plan(estimate_box, image_box, periodic ? Boundary::wrap : Boundary::zero, estimate_box);
    const auto filters = plan.filters({lines}, centre);
    std::vector<T> first;
    for (int threads : {1, 3}) {
        std::vector<T> blurred(y.size()), kept(y.size()), kept_ratio(y.size()), result(x);
        Operands<T> o;
        o.out = blurred.data();
        plan.sweep(x.data(), nullptr, filters, false, Formula::copy, o, threads, {});
        compare("separable forward", blurred, hx, tolerance);
        plan.sweep(x.data(), kept.data(), filters, false, Formula::copy, Operands<T>{}, threads, {});
        compare("separable, kept", kept, hx, tolerance);
        Operands<T> r;
        r.image = y.data(), r.background = T(0.25), r.eps = T(1e-6);
        plan.sweep(x.data(), kept_ratio.data(), filters, false, Formula::ratio, r, threads, {});
        compare("separable ratio, kept", kept_ratio, ratio, tolerance);
        Operands<T> m;
        m.estimate = m.out = result.data();
        plan.sweep(kept_ratio.data(), nullptr, filters, true, Formula::multiply, m, threads, {});
        compare("separable multiply", result, updated, tolerance);
        if (threads == 1) first = result;
        else expect(std::memcmp(first.data(), result.data(), first.size() * sizeof(T)) == 0, "separable: same bits with 3 threads");
    }
    everything<T>("separable: everything", size(c.image), size(estimate), random, [&](bool adjoint, Formula f, const Operands<T>& o, int threads) {
        std::vector<T> kept(size_t(std::max(size(c.image), size(estimate))));
        plan.sweep(adjoint ? y.data() : x.data(), kept.data(), filters, adjoint, f, o, threads, {});
    });
}

// What the separable engine reads beyond an image, against padding it first; and the adjoint, before it is folded.
template <class T>
void separable_boundary(Shape image, Shape psf, Shape centre, Boundary boundary, std::mt19937& random) {
    const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;
    std::uniform_real_distribution<double> uniform(0.5, 1.5);
    auto draw = [&](int64_t n) {
        std::vector<T> v(static_cast<size_t>(n));
        for (T& value : v) value = T(uniform(random));
        return v;
    };
    Shape low, high, padded;
    Box image_box, padded_box;
    std::array<std::vector<T>, 3> lines;
    for (size_t d = 0; d < 3; ++d) {
        low[d] = psf[d] - 1 - centre[d], high[d] = centre[d], padded[d] = image[d] + psf[d] - 1;
        image_box[d] = {low[d], low[d] + image[d]};
        padded_box[d] = {0, padded[d]};
        lines[d] = draw(psf[d]);
    }
    const auto x = draw(size(image));
    std::vector<T> continued(static_cast<size_t>(size(padded))), there(x.size()), expected(x.size());
    std::vector<T> back(continued.size()), expected_back(continued.size());
    pad(x.data(), image, low, high, boundary, continued.data(), 2);
    const SeparablePlan<T> plan(image_box, image_box, boundary, padded_box), plain(padded_box, image_box, Boundary::zero, padded_box);
    const auto filters = plan.filters({lines}, centre);
    auto run = [&](const SeparablePlan<T>& by, const std::vector<T>& input, std::vector<T>& out, bool adjoint) {
        Operands<T> o;
        o.out = out.data();
        by.sweep(input.data(), nullptr, filters, adjoint, Formula::copy, o, 3, {});
    };
    run(plan, x, there, false), run(plain, continued, expected, false);
    run(plan, x, back, true), run(plain, x, expected_back, true);
    auto wide = [](const std::vector<T>& v) { return std::vector<double>(v.begin(), v.end()); };
    compare("separable: boundary", there, wide(expected), tolerance);
    compare("separable: before it is folded", back, wide(expected_back), tolerance);
}

void padding(std::mt19937& random) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (Boundary b : {Boundary::reflect, Boundary::nearest, Boundary::mirror, Boundary::wrap})
        for (Shape shape : {Shape{3, 4, 5}, Shape{1, 1, 2}, Shape{2, 1, 7}}) {
            const Shape low{2, 0, 9}, high{5, 1, 3};
            const Shape outer{shape[0] + 7, shape[1] + 1, shape[2] + 12};
            std::vector<double> x(static_cast<size_t>(size(shape))), y(static_cast<size_t>(size(outer))), px(y.size()), fy(x.size());
            for (double& v : x) v = uniform(random);
            for (double& v : y) v = uniform(random);
            pad(x.data(), shape, low, high, b, px.data(), 2);
            fold(y.data(), shape, low, high, b, fy.data(), 2);
            double left = 0, right = 0;
            for (size_t i = 0; i < y.size(); ++i) left += px[i] * y[i];
            for (size_t i = 0; i < x.size(); ++i) right += x[i] * fy[i];
            expect(std::fabs(left - right) < 1e-12, "fold is the transpose of pad", left - right);
        }
}

// y and the gradients dx, dw, db; each starts from zero.
template <class T>
PLAIN_SUM void convolution_sums(const ConvShape* c, const int64_t* out, const int64_t* const* source, const T* x, const T* w, const T* g,
                                const T* bias, double* y, double* dx, double* dw, double* db) {
    const int64_t *size = &c->input[0], *taps = &c->kernel[0], kernel = taps[0] * taps[1] * taps[2];
    const int64_t cs = c->sources / c->groups, os = c->destinations / c->groups;
    for (int64_t n = 0; n < c->batch; ++n) for (int64_t o = 0; o < c->destinations; ++o)
        for (int64_t p = 0; p < out[0]; ++p) for (int64_t q = 0; q < out[1]; ++q) for (int64_t r = 0; r < out[2]; ++r) {
            const int64_t to = (((n * c->destinations + o) * out[0] + p) * out[1] + q) * out[2] + r;
            y[to] += double(bias[o]), db[o] += double(g[to]);
            for (int64_t i = 0; i < cs; ++i) for (int64_t k = 0; k < kernel; ++k) {
                const int64_t iz = source[0][p * taps[0] + k / (taps[1] * taps[2])], iy = source[1][q * taps[1] + k / taps[2] % taps[1]];
                const int64_t ix = source[2][r * taps[2] + k % taps[2]];
                if (iz < 0 || iy < 0 || ix < 0) continue;
                const int64_t from = (((n * c->sources + o / os * cs + i) * size[0] + iz) * size[1] + iy) * size[2] + ix;
                const int64_t at = (o * cs + i) * kernel + k;
                y[to] += double(w[at]) * double(x[from]);
                dx[from] += double(w[at]) * double(g[to]);
                dw[at] += double(x[from]) * double(g[to]);
            }
        }
}

// Network convolution against the plain sum, and its two transposes; every array as long as it must be and no longer.
template <class T>
void convolution(const ConvShape& c, bool integers, std::mt19937& random) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::uniform_int_distribution<int> whole(-3, 3);
    auto draw = [&](int64_t n) {
        std::vector<T> v(static_cast<size_t>(n));
        for (T& x : v) x = integers ? T(whole(random)) : T(uniform(random));
        return v;
    };
    const ConvPlan<T> plan(c);
    std::array<int64_t, 3> out{};
    for (size_t a = 0; a < 3; ++a) out[a] = (c.input[a] + c.low[a] + c.high[a] - (c.kernel[a] - 1) * c.dilation[a] - 1) / c.stride[a] + 1;
    auto volume = [](const std::array<int64_t, 3>& v) { return v[0] * v[1] * v[2]; };
    const int64_t cs = c.sources / c.groups, kernel = volume(c.kernel);
    const auto x = draw(c.batch * c.sources * volume(c.input)), w = draw(c.destinations * cs * kernel);
    const auto g = draw(c.batch * c.destinations * volume(out)), bias = draw(c.destinations), source_bias = draw(c.sources);
    std::vector<double> y(g.size()), dx(x.size()), dw(w.size()), db(bias.size());
    const Boundary boundary = c.padding == ConvPadding::reflect     ? Boundary::mirror
                              : c.padding == ConvPadding::replicate ? Boundary::nearest
                                                                    : Boundary::wrap;
    std::vector<int64_t> source[3];   // [index · kernel + tap]
    for (size_t a = 0; a < 3; ++a) for (int64_t p = 0; p < out[a]; ++p) for (int64_t k = 0; k < c.kernel[a]; ++k) {
        const int64_t i = p * c.stride[a] + k * c.dilation[a] - c.low[a];
        source[a].push_back(c.padding != ConvPadding::zeros ? scalar::source_index(i, c.input[a], boundary)
                            : i >= 0 && i < c.input[a]      ? i
                                                            : -1);
    }
    const int64_t* const sources[3] = {source[0].data(), source[1].data(), source[2].data()};
    convolution_sums(&c, out.data(), sources, x.data(), w.data(), g.data(), bias.data(), y.data(), dx.data(), dw.data(), db.data());
    std::vector<double> transposed(dx);   // with bias and ReLU: the transposed convolution
    for (size_t i = 0; i < dx.size(); ++i)
        transposed[i] = std::max(0.0, dx[i] + double(source_bias[i / size_t(volume(c.input)) % size_t(c.sources)]));
    const bool exact = integers && c.exact;
    const double tolerance = exact ? 1e-300 : sizeof(T) == 8 ? 1e-13 : c.exact ? 1e-6 : 1e-5;
    std::vector<T> first;
    for (int threads : {1, 3}) {
        std::vector<T> y1(y.size()), dx1(dx.size()), dx2(dx.size()), dw1(dw.size()), db1(db.size());
        plan.forward(x.data(), w.data(), bias.data(), y1.data(), {}, threads, {});
        plan.input_grad(g.data(), w.data(), nullptr, dx1.data(), {}, threads, {});
        plan.input_grad(g.data(), w.data(), source_bias.data(), dx2.data(), {nullptr, true, T(0)}, threads, {});
        std::vector<T> y3(y.size()), dx3(dx.size());   // what is done at the end, in the same pass and afterwards
        plan.forward(x.data(), w.data(), bias.data(), y3.data(), {g.data(), true, T(0.25)}, threads, {});
        plan.input_grad(g.data(), w.data(), nullptr, dx3.data(), {x.data(), false, T(0)}, threads, {});
        bool same = true;
        for (size_t i = 0; i < y3.size(); ++i) {
            const T sum = y1[i] + g[i];
            same = same && y3[i] == (sum < T(0) ? T(0.25) * sum : sum);
        }
        for (size_t i = 0; i < dx3.size(); ++i) same = same && dx3[i] == dx1[i] + x[i];
        expect(same, "convolution: an addend and a slope, in the same pass");
        plan.weight_grad(g.data(), x.data(), dw1.data(), threads, {});
        sum_channels(g.data(), c.batch, c.destinations, volume(out), db1.data(), threads, {});
        compare("convolution", y1, y, tolerance);
        compare("convolution, input gradient", dx1, dx, tolerance);
        compare("convolution, transposed", dx2, transposed, tolerance);
        compare("convolution, weight gradient", dw1, dw, tolerance);
        compare("convolution, bias gradient", db1, db, sizeof(T) == 4 ? 1e-6 : 1e-13);
        std::vector<T> all;
        for (const auto* part : {&y1, &dx1, &dx2, &dw1, &db1}) all.insert(all.end(), part->begin(), part->end());
        if (threads == 1) first = all;
        else expect(std::memcmp(first.data(), all.data(), all.size() * sizeof(T)) == 0, "convolution: same bits with 3 threads");
    }
}

void convolutions(std::mt19937& random) {
    using enum ConvPadding;
    const ConvShape list[] = {
        // batch, channels in, out, groups; input, kernel, stride, dilation, low, high; padding, exact
        {2, 3, 5, 1, {1, 9, 21}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},
        {1, 1, 8, 1, {1, 1, 130}, {1, 1, 9}, {1, 1, 1}, {1, 1, 1}, {0, 0, 4}, {0, 0, 4}, zeros, true},
        {1, 2, 12, 2, {6, 7, 40}, {3, 2, 3}, {1, 2, 1}, {1, 1, 2}, {1, 0, 2}, {0, 1, 1}, zeros, true},
        {2, 6, 6, 6, {1, 40, 50}, {1, 7, 5}, {1, 1, 1}, {1, 1, 1}, {0, 3, 2}, {0, 3, 2}, zeros, true},        // depthwise
        {1, 2, 2, 2, {1, 90, 150}, {1, 3, 5}, {1, 1, 1}, {1, 1, 1}, {0, 1, 2}, {0, 1, 2}, zeros, true},       // too large for a frame
        {2, 19, 19, 19, {1, 14, 14}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},
        {2, 17, 17, 17, {3, 9, 35}, {1, 5, 2}, {1, 1, 1}, {1, 1, 1}, {0, 0, 3}, {0, 4, 0}, replicate, true},
        {1, 18, 18, 18, {1, 17, 41}, {1, 3, 7}, {1, 2, 2}, {1, 1, 1}, {0, 1, 3}, {0, 0, 2}, zeros, true},
        {2, 3, 3, 3, {1, 8, 33}, {1, 7, 4}, {1, 2, 2}, {1, 1, 1}, {0, 3, 2}, {0, 2, 3}, circular, true},
        {2, 32, 32, 32, {1, 7, 7}, {1, 7, 7}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},       // and one position
        {3, 19, 19, 19, {1, 6, 8}, {1, 5, 7}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},
        {1, 9, 1, 1, {5, 20, 70}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 0, 1}, {1, 2, 1}, zeros, true},        // one channel out
        {1, 20, 17, 1, {1, 15, 33}, {1, 4, 4}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},      // two phases
        {1, 3, 1, 1, {4, 9, 31}, {2, 3, 3}, {2, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 0, 1}, zeros, true},         // phases merged
        {1, 2, 3, 1, {1, 17, 25}, {1, 5, 2}, {1, 3, 4}, {1, 2, 1}, {0, 2, 0}, {0, 1, 1}, zeros, true},        // three and four
        {3, 40, 36, 1, {1, 7, 7}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},        // flat
        {1, 33, 70, 1, {3, 11, 13}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},      // 1 × 1
        {1, 33, 70, 1, {1, 11, 13}, {1, 1, 1}, {1, 2, 2}, {1, 1, 1}, {0, 0, 1}, {0, 0, 0}, zeros, true},
        {1, 40, 24, 1, {1, 9, 33}, {1, 1, 1}, {1, 1, 3}, {1, 1, 1}, {0, 1, 4}, {0, 0, 2}, zeros, true},       // every third
        {2, 160, 96, 1, {1, 5, 6}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},       // columns
        {1, 136, 80, 1, {4, 9, 9}, {2, 3, 1}, {2, 2, 2}, {1, 1, 1}, {1, 1, 0}, {0, 0, 1}, replicate, true},
        {1, 192, 400, 2, {1, 1, 75}, {1, 1, 3}, {1, 1, 1}, {1, 1, 2}, {0, 0, 0}, {0, 0, 2}, zeros, true},     // and parts of them
        {1, 2, 2, 1, {3, 1, 4}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 1, 0}, {0, 0, 0}, zeros, true},          // axes merged or not
        {2, 3, 4, 1, {4, 1, 5}, {1, 2, 1}, {1, 1, 1}, {1, 1, 1}, {0, 2, 0}, {0, 2, 0}, replicate, true},
        {4, 40, 112, 1, {1, 5, 5}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},       // dots
        {5, 150, 35, 1, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},
        {2, 70, 74, 2, {3, 6, 5}, {2, 3, 2}, {1, 2, 2}, {2, 1, 1}, {0, 1, 0}, {0, 1, 1}, reflect, true},
        {1, 33, 41, 1, {1, 9, 4}, {1, 3, 3}, {1, 2, 1}, {1, 1, 2}, {0, 2, 2}, {0, 0, 2}, circular, true},
        {2, 17, 50, 1, {1, 1, 70}, {1, 1, 20}, {1, 1, 25}, {1, 1, 1}, {0, 0, 3}, {0, 0, 0}, zeros, true},
        {1, 260, 33, 1, {1, 2, 2}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, replicate, false},  // in parts
        {1, 4, 3, 1, {4, 6, 9}, {3, 3, 3}, {1, 2, 1}, {1, 1, 2}, {2, 3, 4}, {1, 2, 3}, reflect, true},
        {1, 4, 3, 1, {4, 6, 9}, {3, 3, 3}, {2, 1, 1}, {1, 1, 1}, {3, 3, 2}, {1, 2, 5}, replicate, true},
        {1, 4, 3, 1, {1, 6, 9}, {1, 3, 3}, {1, 1, 2}, {1, 2, 1}, {0, 4, 2}, {0, 2, 5}, circular, true},
        {2, 5, 3, 1, {2, 8, 16}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},         // read where it lies
        {2, 5, 3, 1, {2, 8, 16}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 2, 3}, {0, 1, 2}, zeros, true},         // but for a padding
        {1, 6, 20, 2, {1, 4, 32}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},
        {1, 7, 40, 1, {1, 9, 16}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},
        {1, 3, 4, 1, {1, 9, 32}, {1, 2, 1}, {1, 3, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},
        {2, 5, 19, 1, {5, 7, 65}, {2, 2, 2}, {2, 2, 2}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},        // in pairs
        {2, 4, 44, 2, {1, 6, 32}, {1, 1, 2}, {1, 1, 2}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, circular, true},
        {1, 16, 16, 1, {1, 22, 75}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, false},     // Winograd
        {2, 19, 70, 1, {1, 13, 14}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 2, 0}, {0, 1, 1}, zeros, false},
        {1, 17, 18, 1, {7, 13, 21}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 0}, zeros, false},
        {1, 24, 40, 1, {1, 37, 70}, {1, 3, 3}, {1, 1, 1}, {1, 2, 2}, {0, 2, 1}, {0, 2, 3}, zeros, false},     // its phases
        {2, 72, 70, 1, {3, 13, 14}, {2, 3, 3}, {1, 1, 1}, {1, 2, 3}, {0, 0, 3}, {0, 1, 3}, reflect, false},
        {4, 24, 33, 1, {1, 1, 363}, {1, 1, 3}, {1, 1, 1}, {1, 1, 1}, {0, 0, 1}, {0, 0, 1}, zeros, false},     // lines
        {1, 17, 40, 1, {1, 9, 61}, {1, 1, 5}, {1, 1, 1}, {1, 1, 2}, {0, 1, 4}, {0, 0, 3}, circular, false},
        {2, 80, 72, 1, {3, 2, 19}, {2, 1, 5}, {1, 1, 1}, {1, 1, 1}, {1, 0, 2}, {0, 0, 2}, zeros, false},
        {2, 64, 128, 2, {1, 8, 9}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, circular, false},
        {1, 32, 32, 1, {1, 198, 5}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, false},    // weight gradient:
        {2, 128, 136, 8, {1, 16, 32}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, false},  // units that are
        {2, 16, 17, 1, {1, 1, 1921}, {1, 1, 3}, {1, 1, 1}, {1, 1, 1}, {0, 0, 1}, {0, 0, 1}, zeros, false},   // elements, bands
        {1, 32, 32, 2, {1, 3, 1500}, {1, 1, 5}, {1, 1, 1}, {1, 1, 2}, {0, 0, 4}, {0, 0, 4}, reflect, false},
    };
    for (const ConvShape& c : list)
        for (bool integers : {false, true}) {
            convolution<float>(c, integers, random);
            convolution<double>(c, integers, random);
        }
    ConvShape empty = list[0];
    empty.batch = 0;
    convolution<float>(empty, false, random);
}

int64_t sum_with_pool() {
    std::atomic<int64_t> sum{0};
    parallel_for(1000, 4, [&](int64_t unit, int) {
        parallel_for(3, 4, [&](int64_t inner, int) { sum += unit + inner; });  // nested: must neither hang nor miss
    });
    return sum;
}

void pool() {
    const int64_t wanted = 3 * 999 * 1000 / 2 + 1000 * 3;
    expect(sum_with_pool() == wanted, "nested run");
    std::vector<std::thread> callers;
    std::atomic<int> right{0};
    for (int i = 0; i < 8; ++i) callers.emplace_back([&] { right += sum_with_pool() == wanted; });
    for (auto& t : callers) t.join();
    expect(right == 8, "eight callers at once", right);
    bool thrown = false;
    try {
        parallel_for(100, 4, [](int64_t unit, int) { if (unit == 50) throw std::runtime_error("x"); });
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    expect(thrown, "an exception reaches the caller");
    bool interrupted = false;
    try {
        parallel_for(1000, 2, [](int64_t, int) { usleep(1000); }, [] { return true; });
    } catch (const Interrupted&) {
        interrupted = true;
    }
    expect(interrupted, "poll stops a run");
#if !defined(__SANITIZE_THREAD__)
    const pid_t child = fork();
    if (child == 0) _exit(sum_with_pool() == wanted ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "pool in a forked child");
#endif
}

// One step of total variation's dual and the image that it stands for, as denoise.hpp writes them.
template <class T>
void denoising(const Shape& s, std::mt19937& random) {
    const int64_t n = size(s), stride[3] = {s[1] * s[2], s[2], 1};
    std::uniform_real_distribution<double> values(-1, 1);
    auto filled = [&](int64_t count) {
        std::vector<T> made(size_t(count), T(0));
        for (T& v : made) v = T(values(random));
        return made;
    };
    auto last = [&](int64_t i, int a) { return i / stride[a] % s[size_t(a)] == s[size_t(a)] - 1; };
    const std::vector<T> z = filled(n);
    std::vector<T> ahead[3], dual[3];
    DenoisePass<T> pass{s[0], s[1], s[2], z.data(), {}, {}, {T(0.3), T(0.2), T(0.5)}, {T(0.4), T(0.9), T(0.6)}, T(0.4), T(-0.8)};
    for (size_t a = 0; a < 3; ++a)
        if (s[a] > 1) {
            ahead[a] = filled(n), dual[a] = filled(n);
            for (int64_t i = 0; i < n; ++i)
                if (last(i, int(a))) ahead[a][size_t(i)] = dual[a][size_t(i)] = 0;
        }
    auto value = [&](const std::vector<T>* q, int64_t i) {
        double v = z[size_t(i)];
        for (int a = 0; a < 3; ++a)
            if (s[size_t(a)] > 1) {
                const bool first = i / stride[a] % s[size_t(a)] == 0;
                v += double(pass.weight[size_t(a)]) * (double(q[a][size_t(i)]) - (first ? 0 : double(q[a][size_t(i - stride[a])])));
            }
        return std::max(v, double(pass.lowest));
    };
    std::vector<double> wanted[2][3];
    for (int64_t i = 0; i < n; ++i) {
        double moved[3] = {}, square = 0;
        for (int a = 0; a < 3; ++a)
            if (s[size_t(a)] > 1) {
                const double change = last(i, a) ? 0 : value(ahead, i + stride[a]) - value(ahead, i);
                moved[a] = double(ahead[a][size_t(i)]) + double(pass.step[size_t(a)]) * change;
                square += moved[a] * moved[a];
            }
        for (int a = 0; a < 3; ++a)
            if (s[size_t(a)] > 1) {
                const double now = moved[a] / std::max(1.0, std::sqrt(square));
                wanted[0][a].push_back(now);
                wanted[1][a].push_back(now + double(pass.momentum) * (now - double(dual[a][size_t(i)])));
            }
    }
    for (size_t a = 0; a < 3; ++a)
        if (s[a] > 1) pass.ahead[a] = ahead[a].data(), pass.dual[a] = dual[a].data();
    denoise_step(pass, 3);
    std::vector<T> x(size_t(n), T(0));
    denoised(pass, x.data(), 3);
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) {
        for (size_t a = 0; a < 3; ++a)
            if (s[a] > 1) {
                worst = std::max(worst, std::abs(double(dual[a][size_t(i)]) - wanted[0][a][size_t(i)]));
                worst = std::max(worst, std::abs(double(ahead[a][size_t(i)]) - wanted[1][a][size_t(i)]));
            }
        worst = std::max(worst, std::abs(double(x[size_t(i)]) - value(ahead, i)));
    }
    expect(worst < (sizeof(T) == 4 ? 1e-5 : 1e-13), "denoising", worst);
}

}  // namespace

int main() {
    std::mt19937 random(7);
    std::printf("isa %s\n", active_isa());
    const Case list[] = {
        {{8, 8, 8}, {3, 3, 3}, Case::wrap},      {{7, 9, 11}, {3, 2, 5}, Case::wrap},    {{13, 37, 6}, {4, 3, 2}, Case::wrap},
        {{1, 30, 64}, {1, 4, 5}, Case::wrap},    {{1, 1, 97}, {1, 1, 7}, Case::wrap},    {{1, 1, 1}, {1, 1, 1}, Case::wrap},
        {{5, 1, 12}, {2, 1, 3}, Case::wrap},     {{4, 5, 1}, {2, 2, 1}, Case::wrap},     {{2, 3, 2}, {2, 3, 2}, Case::wrap},
        {{1, 53, 2}, {1, 3, 1}, Case::wrap},     {{41, 2, 43}, {3, 1, 3}, Case::wrap},   {{16, 20, 24}, {3, 3, 3}, Case::zero},
        {{5, 6, 7}, {4, 3, 6}, Case::zero},      {{1, 33, 17}, {1, 5, 8}, Case::zero},   {{1, 1, 50}, {1, 1, 9}, Case::zero},
        {{12, 10, 14}, {5, 4, 3}, Case::extended}, {{3, 4, 5}, {7, 6, 5}, Case::extended}, {{1, 20, 31}, {1, 6, 7}, Case::extended},
        {{1, 1, 10}, {1, 1, 15}, Case::extended}, {{6, 1, 9}, {3, 1, 4}, Case::extended}, {{1, 1, 1}, {1, 1, 1}, Case::extended},
    };
    for (const Case& c : list) {
        for (int variant = 0; variant < 4; ++variant) {
            if (variant & 2 && c.boundary != Case::wrap) continue;
            spectral<float>(c, variant & 1, variant & 2, random);
            spectral<double>(c, variant & 1, variant & 2, random);
        }
    }
    const std::pair<Shape, Shape> mirrors[] = {
        {{8, 8, 8}, {3, 3, 3}},    {{7, 33, 11}, {3, 5, 7}}, {{13, 37, 6}, {5, 3, 3}},  {{3, 16, 40}, {7, 5, 3}}, {{4, 70, 17}, {1, 3, 9}},
        {{1, 30, 64}, {1, 5, 5}},  {{1, 53, 2}, {1, 3, 5}},  {{1, 9, 70}, {1, 3, 21}},  {{5, 1, 12}, {3, 1, 3}},  {{4, 5, 1}, {3, 3, 1}},
        {{1, 1, 50}, {1, 1, 9}},   {{1, 1, 1}, {1, 1, 1}},   {{2, 3, 2}, {3, 3, 3}},    {{41, 2, 43}, {3, 1, 3}},
    };
    for (const auto& [image, psf] : mirrors) {
        mirrored<float>(image, psf, random);
        mirrored<double>(image, psf, random);
    }
    const std::pair<int64_t, int64_t> lines[] = {{2, 1}, {7, 3}, {50, 9}, {97, 96}, {1000, 33}, {3000, 6}, {40, 40}};
    for (auto [n, k] : lines)
        for (auto boundary : {Case::wrap, Case::zero, Case::extended}) {
            line<float>(n, k, boundary, random);
            line<double>(n, k, boundary, random);
        }
    // For the direct engine also: all that a tile can be left with, blocks of columns, of rows and of slices.
    const Case more[] = {
        {{9, 8, 40}, {3, 3, 3}, Case::wrap},     {{2, 15, 130}, {2, 7, 5}, Case::wrap},  {{3, 3, 1100}, {3, 2, 9}, Case::wrap},
        {{70, 4, 20}, {3, 1, 2}, Case::zero},    {{3, 70, 50}, {2, 4, 9}, Case::extended}, {{1, 1, 3000}, {1, 1, 33}, Case::extended},
    };
    auto both = [&](const Case& c) {
        for (int symmetric = 0; symmetric < 4; ++symmetric) {
            taps<float>(c, symmetric, random);
            taps<double>(c, symmetric, random);
        }
        for (bool symmetric : {false, true}) {
            products<float>(c, symmetric, random);
            products<double>(c, symmetric, random);
        }
    };
    for (const Case& c : list) both(c);
    for (const Case& c : more) both(c);
    for (Boundary b : {Boundary::reflect, Boundary::nearest, Boundary::mirror, Boundary::wrap})
        for (const auto& [image, psf] : {std::pair{Shape{9, 21, 37}, Shape{5, 4, 7}}, std::pair{Shape{3, 2, 50}, Shape{8, 9, 1}},
                                         std::pair{Shape{1, 40, 5}, Shape{1, 3, 23}}, std::pair{Shape{1, 1, 1}, Shape{4, 3, 6}}}) {
            separable_boundary<float>(image, psf, {psf[0] / 2, psf[1] / 2, psf[2] / 2}, b, random);
            separable_boundary<double>(image, psf, {psf[0] - 1, 0, psf[2] - 1}, b, random);
        }
    for (const Shape& s : {Shape{19, 5, 37}, {3, 4, 5}, {2, 1, 16}, {5, 6, 1}, {1, 40, 33}, {1, 1, 70}, {9, 1, 1}, {1, 1, 1}}) {
        denoising<float>(s, random);
        denoising<double>(s, random);
    }
    padding(random);
    convolutions(random);
    pool();
    release_cached();
    expect(cached_bytes() == 0, "release_memory");
    std::printf("%d cases, %d failed\n", cases, failures);
    return failures ? 1 : 0;
}
