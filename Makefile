# make demo and make test are all that a user needs; the rest is what .ci/run calls.
# Everything lives in .venv; nothing outside this directory is touched.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Rebuilding is pip's business; these stamps only avoid asking it twice.
SOURCES := pyproject.toml CMakeLists.txt $(wildcard cpp/* cpp/shared/* cuda/*) $(shell find python -name '*.py' -o -name '*.pyi' -o -name py.typed -o -name '*.safetensors')

.PHONY: demo test test-isa test-sanitize test-emulator nvcc-check test-peers bench bench-large lint pure-wheel stubs clean

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "medeconv-fast needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade "pip>=24"
	touch $@

$(VENV)/installed: $(VENV)/created $(SOURCES)
	$(PY) -m pip install --quiet ".[io,report]"
	touch $@

# What the extra `test` lists, without building the package again.
$(VENV)/installed-test: $(VENV)/installed
	$(PY) -c 'import tomllib; print(*[r for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"] \
	    if not r.startswith("medeconv-fast")], sep="\n")' > $(VENV)/test-requirements
	$(PY) -m pip install --quiet -r $(VENV)/test-requirements
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/medeconv demo --out demo_output

test: $(VENV)/installed-test
	$(PY) -m pytest -q -m "not peers" -n 2 --dist worksteal --durations=8

# Every test of the backend cpp once per ISA that this machine runs but the fastest; a missing one is named.
test-isa: $(VENV)/installed-test
	$(PY) tests/run_isas.py

test-peers: $(VENV)/installed-test
	$(PY) -m pip install --quiet "SimpleITK>=2.3" torch==2.13.0 "ome-zarr>=0.18" "ngff-zarr>=0.50"
	$(PY) -m pytest -q -m peers

build/sanitize/test_kernels: $(wildcard cpp/* cpp/shared/* tests/cpp/*) CMakeLists.txt $(VENV)/installed
	$(PY) -m pip install --quiet "cmake>=3.24" ninja
	isas=$$($(PY) tests/run_isas.py --list) && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S . -B build/sanitize -G Ninja \
	    -DCMAKE_BUILD_TYPE=Release -DMEDECONV_PYTHON=OFF -DMEDECONV_TESTS=ON -DMEDECONV_SANITIZE=address,undefined \
	    -DMEDECONV_ISAS="$$(echo $$isas | tr ' ' ';')" > /dev/null
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/sanitize

test-sanitize: build/sanitize/test_kernels
	isas=$$($(PY) tests/run_isas.py --list) && test -n "$$isas" && \
	    for isa in $$isas; do MEDECONV_ISA=$$isa build/sanitize/test_kernels || exit 1; done

# The CUDA kernels on the emulator: the module _cuda_emu, and the launchers' own tests under each sanitizer.
EMULATOR := build/emulator
build/emulator/built: $(wildcard cuda/* cpp/*.hpp cpp/shared/* tests/cuda/*) CMakeLists.txt $(VENV)/installed-test
	$(PY) -m pip install --quiet "cmake>=3.24" ninja "pybind11>=3.0,<4"
	export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" && set -e && \
	cmake -S . -B $(EMULATOR)/module -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEDECONV_CUDA=OFF -DMEDECONV_EMULATOR=ON \
	    -DPython_EXECUTABLE="$(CURDIR)/$(PY)" -Dpybind11_DIR="$$(python -m pybind11 --cmakedir)" > /dev/null && \
	cmake --build $(EMULATOR)/module --target _cuda_emu && \
	for sanitizer in address,undefined thread; do \
	    cmake -S . -B $(EMULATOR)/$$sanitizer -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEDECONV_PYTHON=OFF -DMEDECONV_TESTS=ON \
	        -DMEDECONV_EMULATOR=ON -DMEDECONV_ISAS=baseline -DMEDECONV_SANITIZE=$$sanitizer > /dev/null && \
	    cmake --build $(EMULATOR)/$$sanitizer --target test_launchers; done
	touch $@

# Sums of a run are the same in any order: one is enough for ThreadSanitizer, which looks at what orders two accesses.
test-emulator: build/emulator/built
	export ASAN_OPTIONS=detect_leaks=0 && asan=$(EMULATOR)/address,undefined/test_launchers && \
	{ { $$asan --broken && $$asan forward reverse random:1 && $(EMULATOR)/thread/test_launchers forward; } & } && \
	$(PY) tests/run_emulator.py $(EMULATOR)/module && wait $$!

# Compiles every .cu with nvcc, where it is, and refuses spills in hot kernels.
nvcc-check: $(VENV)/created
	$(PY) -m pip install --quiet "cmake>=3.24" ninja "pybind11>=3.0,<4"
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) tests/check_ptxas.py

$(VENV)/installed-bench: $(VENV)/installed-test
	$(PY) -m pip install --quiet ".[bench]" "SimpleITK>=2.3" torch==2.13.0
	touch $@

# Writes benchmarks/results and benchmarks/RESULTS.md; needs a machine that does nothing else for 20 to 30 minutes.
bench: $(VENV)/installed-bench
	$(PY) benchmarks/run.py

# 512 cubed and the like: 16 GB of memory.
bench-large: $(VENV)/installed-bench
	$(PY) benchmarks/run.py --only large

lint: $(VENV)/created
	$(PY) -m pip install --quiet "ruff>=0.6" "mypy>=1.11" "numpy>=1.26" ninja
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

stubs: $(VENV)/installed-test
	$(PY) -m pip install --quiet "ruff>=0.6"
	$(PY) -m pybind11_stubgen medeconv_fast._cpp -o build/stubs
	cp build/stubs/medeconv_fast/_cpp.pyi python/medeconv_fast/_cpp.pyi
	$(PY) -m ruff check --quiet --fix python/medeconv_fast/_cpp.pyi
	$(PY) -m ruff format --quiet python/medeconv_fast/_cpp.pyi

# Without a compiler: builds the pure wheel, installs it alone, imports it and restores a small image; then with Numba.
pure-wheel: $(VENV)/created
	rm -rf build/pure && mkdir -p build/pure
	CC=/bin/false CXX=/bin/false MEDECONV_NATIVE=OFF $(PY) -m pip wheel --quiet --no-deps -w build/pure .
	ls build/pure/medeconv_fast-*-py3-none-any.whl
	$(PYTHON) -m venv build/pure/venv
	build/pure/venv/bin/python -m pip install --quiet build/pure/medeconv_fast-*.whl
	build/pure/venv/bin/python tests/check_pure_wheel.py
	build/pure/venv/bin/python -m pip install --quiet "$$(ls build/pure/medeconv_fast-*.whl)[numba]"
	build/pure/venv/bin/python tests/check_pure_wheel.py numba

clean:
	rm -rf build dist $(VENV) demo_output
