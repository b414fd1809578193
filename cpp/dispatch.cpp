#include <cstdlib>
#include <stdexcept>
#include <string>

#include "isa.hpp"

namespace medeconv {
#define DECLARE(isa) \
    namespace isa { extern const IsaKernels<float> kernels_f32; extern const IsaKernels<double> kernels_f64; }
DECLARE(baseline)
#ifdef MEDECONV_HAS_AVX2
DECLARE(avx2)
#endif
#ifdef MEDECONV_HAS_AVX512
DECLARE(avx512)
#endif

namespace {

struct Supported {
    const char* names[3];
    const IsaKernels<float>* kernels_f32[3];
    const IsaKernels<double>* kernels_f64[3];
    int count = 0;
    void add(const char* name, const IsaKernels<float>& f32, const IsaKernels<double>& f64) {
        names[count] = name, kernels_f32[count] = &f32, kernels_f64[count++] = &f64;
    }
    Supported() {
        add("baseline", baseline::kernels_f32, baseline::kernels_f64);
#ifdef MEDECONV_HAS_AVX2
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add("avx2", avx2::kernels_f32, avx2::kernels_f64);
#endif
#ifdef MEDECONV_HAS_AVX512
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
            add("avx512", avx512::kernels_f32, avx512::kernels_f64);
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
const char* active_isa() { return supported().names[active()]; }
template <>
const IsaKernels<float>& active_kernels<float>() { return *supported().kernels_f32[active()]; }
template <>
const IsaKernels<double>& active_kernels<double>() { return *supported().kernels_f64[active()]; }

#define EACH_DTYPE(T)                                                                                 \
    template <>                                                                                       \
    const SpectralKernels<T>& spectral_kernels<T>() { return active_kernels<T>().spectral; }          \
    template <>                                                                                       \
    const CosineKernels<T>& cosine_kernels<T>() { return active_kernels<T>().cosine; }                \
    template <>                                                                                       \
    const SeparableKernels<T>& separable_kernels<T>() { return active_kernels<T>().separable; }       \
    template <>                                                                                       \
    const DirectKernels<T>& direct_kernels<T>() { return active_kernels<T>().direct; }                \
    template <>                                                                                       \
    const OverlapKernels<T>& overlap_kernels<T>() { return active_kernels<T>().overlap; }             \
    template <>                                                                                       \
    const PenaltyKernels<T>& penalty_kernels<T>() { return active_kernels<T>().penalty; }             \
    template <>                                                                                       \
    const DenoiseKernels<T>* denoise_kernels<T>() { return active_kernels<T>().denoise; }             \
    template <>                                                                                       \
    const ElementwiseKernels<T>& elementwise_kernels<T>() { return active_kernels<T>().elementwise; } \
    template <>                                                                                       \
    const ConvKernels<T>& conv_kernels<T>() { return active_kernels<T>().conv; }
EACH_DTYPE(float)
EACH_DTYPE(double)

}  // namespace medeconv
