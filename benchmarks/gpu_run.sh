#!/usr/bin/env bash
# Everything that wants a GPU, in one call of under ten minutes: builds with CUDA, runs the tests marked gpu, times the
# backend beside CuPy + cuFFT, torch and cuCIM, then lets compute-sanitizer and ncu look, where they are.
#
#   benchmarks/gpu_run.sh OUT       leaves OUT/gpu.json, OUT/gpu_networks.json, tables (.md) and a log of every stage
#
# The machine: CUDA 13 with nvcc, Python 3.12 with NumPy, CuPy and torch, no network. Wheels that are not there are carried in
# GPU_WHEELS (default: wheels/ in the repository), fetched beforehand where there is a network:
#   pip download --only-binary=:all: --python-version 3.12 -d wheels scikit-build-core pybind11 pytest scipy scikit-image hypothesis
#   pip download --only-binary=:all: --python-version 3.12 --no-deps -d wheels cucim-cu13      (a peer; without it: "absent")
#
# Every stage has its own limit, and what it wrote until then stays. Only a missing GPU or a failed build end the run.
set -u
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?usage: gpu_run.sh OUT}" && cd "$1" && pwd)
wheels=${GPU_WHEELS:-wheels}
python=${PYTHON:-python3}
site=$out/site
failed=()
export PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH MEDECONV_CUDA=ON PYTHONDONTWRITEBYTECODE=1

stage() {  # name, limit in seconds, command...
    local name=$1 limit=$2 begun
    shift 2
    begun=$(date +%s)
    echo "=== $name (at most $limit s)"
    if timeout --signal=INT --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1; then
        echo "    done in $(($(date +%s) - begun)) s"
        return 0
    fi
    failed+=("$name")
    echo "    FAILED after $(($(date +%s) - begun)) s; the end of $out/$name.log:"
    tail -n 15 "$out/$name.log" | sed 's/^/    /'
    return 1
}

tools() {
    mkdir -p "$site"
    for package in scikit-build-core pybind11 pytest scipy scikit-image hypothesis cucim-cu13; do
        "$python" -m pip install --quiet --no-index --find-links "$wheels" --target "$site" "$package" ||
            echo "not carried: $package"
    done
}
build() { "$python" -m pip install --no-index --no-build-isolation --no-deps --upgrade --target "$site" .; }
describe() {
    nvidia-smi && nvcc --version && "$python" -c "import cupy, torch; print(cupy.__version__, torch.__version__)"
}
export -f tools build describe
export python wheels site
export PYTHONPATH=$site

stage machine 30 bash -c describe || { echo "no GPU with CUDA, CuPy and torch here: nothing was run"; exit 1; }
stage tools 45 bash -c tools
stage build 150 bash -c build || { echo "not built: nothing was run"; exit 1; }
stage tests 120 "$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_cuda.py tests/test_cuda_conv.py tests/test_conv.py \
    tests/test_direct.py tests/test_separable.py tests/test_penalty.py tests/test_formulas.py tests/test_spectral.py tests/test_blur.py \
    tests/test_richardson_lucy.py
stage benchmark 120 "$python" benchmarks/gpu.py "$out/gpu.json"
stage networks 60 "$python" benchmarks/gpu_networks.py -o "$out/gpu_networks.json" --budget 45
# From here on whatever the machine has: these may fail.
stage memcheck 35 compute-sanitizer --tool memcheck "$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_cuda.py -k arithmetic
stage ncu 30 ncu --set basic --launch-skip 20 --launch-count 12 "$python" -c "
import numpy, medeconv_fast as mf
image, psf = numpy.ones((256, 256, 256), numpy.float32), numpy.random.default_rng(0).random((33, 33, 33))
mf.richardson_lucy(image, psf, 4, boundary='wrap', backend='cuda', engine='spectral', callback=lambda i, x: None)"
echo
for table in "$out/gpu.md" "$out/gpu_networks.md"; do [ -f "$table" ] && cat "$table"; done
echo "failed: ${failed[*]:-none}"
[[ " ${failed[*]:-} " != *" tests "* && " ${failed[*]:-} " != *" benchmark "* ]]
