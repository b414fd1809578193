#include <cstdlib>
#include <stdexcept>
#include <string>

#include "isa.hpp"

namespace medeconv {
namespace baseline { extern const IsaKernels kernels; }
#ifdef MEDECONV_HAS_AVX2
namespace avx2 { extern const IsaKernels kernels; }
#endif
#ifdef MEDECONV_HAS_AVX512
namespace avx512 { extern const IsaKernels kernels; }
#endif

namespace {

struct Supported {
    const char* names[3];
    const IsaKernels* kernels[3];
    int count = 0;
    void add(const char* name, const IsaKernels& k) { names[count] = name, kernels[count++] = &k; }
    Supported() {
        add("baseline", baseline::kernels);
#ifdef MEDECONV_HAS_AVX2
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add("avx2", avx2::kernels);
#endif
#ifdef MEDECONV_HAS_AVX512
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
            add("avx512", avx512::kernels);
#endif
    }
};
const Supported& supported() {
    static const Supported s;
    return s;
}

int choose() {
    const Supported& s = supported();
    const char* wanted = std::getenv("MEDECONV_ISA");
    if (!wanted || !*wanted || std::string(wanted) == "auto") return s.count - 1;
    for (int i = 0; i < s.count; ++i)
        if (std::string(wanted) == s.names[i]) return i;
    std::string known;
    for (int i = 0; i < s.count; ++i) known += (i ? ", " : "") + std::string(s.names[i]);
    throw std::invalid_argument("MEDECONV_ISA: got '" + std::string(wanted) + "', this machine and build have: " + known);
}
int active() {
    static const int index = choose();
    return index;
}

}  // namespace

int supported_isas(const char* const** names) {
    *names = supported().names;
    return supported().count;
}
const IsaKernels& active_kernels() { return *supported().kernels[active()]; }
const char* active_isa() { return supported().names[active()]; }

template <>
const SpectralKernels<float>& spectral_kernels<float>() { return active_kernels().spectral_f32; }
template <>
const SpectralKernels<double>& spectral_kernels<double>() { return active_kernels().spectral_f64; }
template <>
const SeparableKernels<float>& separable_kernels<float>() { return active_kernels().separable_f32; }
template <>
const SeparableKernels<double>& separable_kernels<double>() { return active_kernels().separable_f64; }
template <>
const DirectKernels<float>& direct_kernels<float>() { return active_kernels().direct_f32; }
template <>
const DirectKernels<double>& direct_kernels<double>() { return active_kernels().direct_f64; }
template <>
const OverlapKernels<float>& overlap_kernels<float>() { return active_kernels().overlap_f32; }
template <>
const OverlapKernels<double>& overlap_kernels<double>() { return active_kernels().overlap_f64; }

}  // namespace medeconv
