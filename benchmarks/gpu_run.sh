#!/usr/bin/env bash
# Builds, tests and measures the CUDA backend in one call, in under ten minutes, on a machine without a network.
#
#   benchmarks/gpu_run.sh [OUT]       OUT (default: $OUT or build/gpu): logs of every stage, gpu.json, gpu.md
#   STAGES="build tests" benchmarks/gpu_run.sh    some of: build tests bench sanitize profile
#   benchmarks/gpu_run.sh --wheels    on a machine with a network: what is to be carried, into benchmarks/wheels
#
# The machine: a GPU of compute capability 8.0 or more with a driver for CUDA 13, nvcc 13, g++, Python 3.12 (or 3.11) with
# NumPy, torch built for CUDA 13 and pytest (with pytest-xdist: several processes); CuPy (cupy-cuda13x) for its columns. Carried as
# wheels in benchmarks/wheels (or $WHEELS) is what it does not have of: scikit-build-core, pybind11, cmake, ninja (to build);
# scipy, hypothesis, onnx (tests that need them are skipped without); cucim-cu13 with lazy-loader, scikit-image, click (its column
# is marked absent without).
#
# Every stage has a time limit of its own and a log; one that fails or hangs loses nothing of the others. The exit status is
# that of build, tests and benchmark; compute-sanitizer and ncu are extras: they may be missing or not allowed.
set -u
cd "$(dirname "$0")/.."
wheels=${WHEELS:-benchmarks/wheels}
if [ "${1:-}" = --wheels ]; then
  exec python3 -m pip download --only-binary :all: --no-deps --python-version 3.12 --platform manylinux_2_28_x86_64 \
    --platform manylinux2014_x86_64 --platform any -d "$wheels" \
    scikit-build-core pathspec packaging pybind11 cmake ninja hypothesis sortedcontainers cucim-cu13 lazy-loader click
fi
out=${1:-${OUT:-build/gpu}}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
env_dir=$PWD/build/gpu-venv
status=0
summary=$out/summary.txt
: > "$summary"

# stage NAME SECONDS needed|extra COMMAND...
stage() {
  local name=$1 limit=$2 kind=$3 started=$SECONDS code=0
  shift 3
  case " ${STAGES:-$name} " in *" $name "*) ;; *) return 0 ;; esac
  echo "--- $name (at most $limit s)"
  timeout --kill-after=3 "$limit" "$@" > "$out/$name.log" 2>&1 || code=$?
  case $code in
    0) echo "$name: done in $((SECONDS - started)) s" ;;
    124 | 137) echo "$name: STOPPED after $limit s" ;;
    *) echo "$name: FAILED ($code) after $((SECONDS - started)) s" ;;
  esac | tee -a "$summary"
  tail -n 3 "$out/$name.log"
  if [ $code -ne 0 ] && [ "$kind" = needed ]; then status=1; fi
  return 0
}

build() {
  set -e
  "$python" -m venv --system-site-packages "$env_dir"
  # A virtual environment of a virtual environment sees the outer one's packages only through a path file.
  "$python" -c 'import site; print(*site.getsitepackages(), sep="\n")' > \
    "$("$env_dir/bin/python" -c 'import site; print(site.getsitepackages()[0])')/outer.pth"
  if ls "$wheels"/*.whl > /dev/null 2>&1; then
    # What is there already stays; a wheel that does not fit must not stop the others.
    for wheel in "$wheels"/*.whl; do
      "$env_dir/bin/python" -m pip install --quiet --no-index --no-deps "$wheel" || echo "not installed: $wheel"
    done
  fi
  PATH="$env_dir/bin:$PATH" "$env_dir/bin/python" -m pip install --no-index --no-deps --no-build-isolation \
    --config-settings=cmake.define.MEDECONV_CUDA=ON --config-settings=cmake.define.MEDECONV_ISAS=avx2 .
  cd "$out"
  "$env_dir/bin/python" -c 'import medeconv_fast as mf; print(mf.backends.available()); mf.backends.resolve("cuda")'
}
# Of a few processes: each has a context on the GPU, and what their NumPy does must not take all cores.
tests() {
  local processes=""
  if "$env_dir/bin/python" -c "import xdist" 2> /dev/null; then processes="-n $(($(nproc) < 12 ? $(nproc) : 12))"; fi
  OPENBLAS_NUM_THREADS=2 OMP_NUM_THREADS=2 "$env_dir/bin/python" -m pytest -q -p no:cacheprovider $processes -m gpu \
    -k "not large_kernels" --continue-on-collection-errors --maxfail=60 tests
}
bench() { "$env_dir/bin/python" benchmarks/gpu.py -o "$out/gpu.json" --budget 150; }
# Small, for it slows kernels a hundred times.
small() {
  cat << 'PYTHON'
import numpy, torch
import medeconv_fast as mf
image = torch.rand(24, 40, 36, device="cuda") + 1
mf.richardson_lucy(image, numpy.ones((3, 5, 3)), 3)
x = torch.rand(1, 5, 40, 44, device="cuda")
for w, options in ((torch.rand(20, 5, 3, 3), {"padding": 1}), (torch.rand(1, 5, 7, 7), {"padding": 3})):
    y = mf.ops.conv(x, w.cuda(), **options)
    mf.ops.conv_input_grad(y, w.cuda(), tuple(x.shape), **options)
    mf.ops.conv_weight_grad(y, x, tuple(w.shape), **options)
    mf.ops.conv_transpose(y, w.cuda(), stride=2)
torch.cuda.synchronize()
PYTHON
}
sanitize() {
  small > "$out/small.py"
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$env_dir/bin/python" "$out/small.py" || return 1
  done
}
profile() {
  small > "$out/small.py"
  ncu --clock-control none --set basic --kernel-name regex:"conv_|spectral|lines|columns|planes" -c 20 -o "$out/kernels" -f \
    "$env_dir/bin/python" "$out/small.py"
}
export -f build tests bench small sanitize profile
export python env_dir wheels out

nvidia-smi > "$out/machine.log" 2>&1 || true
stage build 200 needed bash -c build
stage tests 130 needed bash -c tests
stage bench 185 needed bash -c bench
stage sanitize 30 extra bash -c sanitize
stage profile 30 extra bash -c profile
cat "$summary" "$out/gpu.md" 2> /dev/null
exit $status
