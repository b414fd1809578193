// What the cases of test_launchers.cpp are made of: arrays on the (emulated) device, and the list of cases.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime.hpp"

// One launcher on one input. Returns all that it wrote; the same in any order of threads and blocks, and no NaN.
struct Case {
    std::string name;
    std::function<std::vector<double>()> run;
};

template <class T>
class DeviceValues {
public:
    explicit DeviceValues(int64_t size) : size_(size), data_(static_cast<T*>(medeconv::cuda::allocate(size_t(size) * sizeof(T), nullptr))) {}
    DeviceValues(int64_t size, uint64_t seed) : DeviceValues(size) {  // values in [0.5, 1.5)
        std::vector<T> values;
        for (int64_t i = 0; i < size; ++i) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            values.push_back(T(0.5 + double(seed >> 40) / double(1 << 24)));
        }
        medeconv::cuda::copy_to_device(data_, values.data(), size_t(size) * sizeof(T), nullptr);
    }
    ~DeviceValues() { medeconv::cuda::release(data_, nullptr); }
    DeviceValues(const DeviceValues&) = delete;
    operator T*() const { return data_; }
    void append_to(std::vector<double>& all, int64_t count = -1) const {
        std::vector<T> values(size_t(count < 0 ? size_ : count));
        medeconv::cuda::copy_to_host(values.data(), data_, values.size() * sizeof(T), nullptr);
        medeconv::cuda::synchronize(nullptr);
        all.insert(all.end(), values.begin(), values.end());
    }

private:
    int64_t size_;
    T* data_;
};

// One of these per file of cases; test_launchers.cpp runs them all.
void add_array_cases(std::vector<Case>& cases);
void add_conv_cases(std::vector<Case>& cases);
void add_spectral_cases(std::vector<Case>& cases);
