"""The house's rules: what may import what, names, and that every backend has the whole interface."""

import ast
import importlib
import inspect
import operator
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import medeconv_fast as mf
from medeconv_fast.backends import cpp, cuda, numba, reference

PACKAGE = Path(mf.__file__).parent
# From the bottom up; a module imports from its own layer's package or from below. Private command-line
# modules and the demo stand on top.
LAYERS = [
    {"_validate", "_extras", "_record", "_binomial", "__version__"},
    {"_arrays", "_device", "_threads"},
    {"psf", "preprocess", "io", "metrics"},
    {"backends"},
    {"_costs", "_calibration"},
    {"_taps"},
    {"_blur", "_convolution"},
    {"_planner", "_grid", "_simulate"},
    {"stop"},
    {"algorithms", "ops"},
    {"volumes", "nn", "compat"},
]
LEAVES = {"psf", "preprocess", "io", "metrics"}
# A PSF's file is an image file with a PSF's checks: psf.save and psf.load stand on io, in this one file.
BETWEEN_LEAVES = {("psf/_storage.py", "io")}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(name):
    for height, names in enumerate(LAYERS):
        if name in names:
            return height
    return len(LAYERS)


def imports(file):
    """Names of the package's own modules that a file imports, as paths below the package."""
    here = (*file.relative_to(PACKAGE).parent.parts,)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            path = (*base, *(node.module or "").split(".")) if node.module else base
            if node.module:
                yield path
            else:
                for alias in node.names:
                    yield (*path, alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medeconv_fast":
            path = tuple(node.module.split(".")[1:])
            yield from [path] if path else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "medeconv_fast":
                    yield tuple(parts[1:]) or ("__init__",)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for path in imports(file):
        if not path or path[0] == own:
            continue
        assert layer(path[0]) <= layer(own), f"{own} imports {path[0]}, which stands above it"
        if own in LEAVES and (file.relative_to(PACKAGE).as_posix(), path[0]) not in BETWEEN_LEAVES:
            assert path[0] not in LEAVES, f"the leaf {own} imports the leaf {path[0]}"


def test_import_rule_sees_a_violation(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "backends").mkdir()
    bad = tmp_path / "backends" / "bad.py"
    bad.write_text(
        "from .. import _blur\nfrom ..algorithms import wiener\nimport medeconv_fast.nn\nfrom . import cpp\n"
    )
    assert set(imports(bad)) == {("_blur",), ("algorithms",), ("nn",), ("backends", "cpp")}
    with pytest.raises(AssertionError, match="stands above"):
        test_imports_run_one_way(bad)


@pytest.mark.parametrize("module", [cpp, cuda, numba, reference], ids=lambda m: m.NAME)
def test_backends_do_not_import_one_another(module):
    others = {"cpp", "reference", "numba", "cuda"} - {module.NAME}
    for path in imports(Path(module.__file__)):
        assert not (path[0] == "backends" and len(path) > 1 and path[1] in others)
    # Nor anything of the package but what says how many threads there are, its arrays, and its own files.
    own = {("backends", path.stem) for path in Path(module.__file__).parent.glob(f"_{module.NAME}_*.py")}
    for file in [Path(module.__file__), *Path(module.__file__).parent.glob(f"_{module.NAME}_*.py")]:
        used = {path[:2] for path in imports(file)} - own
        assert {path[0] for path in used} <= {"_device" if module is cuda else "_cpp", "_threads"}


REPOSITORY = Path(__file__).parents[1]


def test_cuda_files_are_twins_of_the_cpus():
    """cpp/<stem>.cpp beside cuda/<stem>.cu with its <stem>.hpp; only the runtime has no twin.

    spectral_double.cu is spectral.cu's other dtype, compiled by itself for its time.
    """
    cu = {path.stem for path in REPOSITORY.glob("cuda/*.cu")} - {"runtime", "spectral_double"}
    assert {"elementwise", "direct", "penalty", "separable"} <= cu
    assert cu <= {path.stem for path in REPOSITORY.glob("cpp/*.cpp")}
    assert cu <= {path.stem for path in REPOSITORY.glob("cuda/*.hpp")}


def test_cuda_includes():
    """CUDA's headers come through gpu.hpp alone, and pybind11 stays in the bindings."""
    for path in (*REPOSITORY.glob("cuda/*.cu*"), *REPOSITORY.glob("cuda/*pp")):
        included = set(re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text()))
        assert ("cuda_runtime.h" in included) == (path.name == "gpu.hpp"), path
        assert path.name.startswith("bindings") or not any("pybind11" in name for name in included), path
        if path.suffix == ".hpp" and path.name not in ("gpu.hpp", "emulator.hpp"):
            assert not included & {"gpu.hpp", "emulator.hpp", "formula.cuh"}, f"{path} is for plain C++"


def public(module):
    """What __all__ lists; without one, what the module itself defines under a public name."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            n
            for n, v in vars(module).items()
            if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
        ]
    return {name: getattr(module, name) for name in listed}


def test_no_public_function_shares_a_modules_name():
    modules = {
        info.name.rpartition(".")[2]
        for info in pkgutil.walk_packages([str(PACKAGE)], "medeconv_fast.")
        if not any(part.startswith("_") for part in info.name.split(".")[:-1])
    }
    assert {"backends", "_blur", "reference"} <= modules
    compat = (mf.compat, mf.compat.skimage.restoration, mf.compat.scipy.signal, mf.compat.scipy.ndimage)
    own = (mf, mf.psf, mf.preprocess, mf.io, mf.metrics, mf.report, mf.backends, mf.ops, mf.nn)
    for module in (*own, *compat):
        for name, value in public(module).items():
            if callable(value):
                assert name not in modules, f"{module.__name__}.{name}"


COMPAT = (".compat", ".compat.skimage.restoration", ".compat.scipy.signal", ".compat.scipy.ndimage")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".psf", ".preprocess", ".io", ".report", ".backends", ".algorithms", ".ops", ".nn", ".volumes"),
        *COMPAT,
    ],
)
def test_all_is_correct(name):
    module = importlib.import_module("medeconv_fast" + name)
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for entry in module.__all__:
        assert getattr(module, entry) is not None


def test_public_names_are_what_all_says():
    shown = {n for n in dir(mf) if not n.startswith("_") and not inspect.ismodule(getattr(mf, n))}
    assert shown == {n for n in mf.__all__ if not n.startswith("_") and not inspect.ismodule(getattr(mf, n))}


CONTRACT = {
    "richardson_lucy": "image psf num_iter=None * boundary='extended' background=0.0 weights=None "
    "readout_variance=None damping=None regularizer=None acceleration=None back_projector='matched' "
    "stop=None initial='flat' negative='raise' voxel_size=None psf_voxel_size=None normalize_psf=True "
    "callback=None return_info=False backend='auto' engine='auto' num_threads=None",
    "restore": "image psf method='auto' **options",
    "restore_volume": "source destination psf * method='auto'",
    "wiener": "image psf balance='auto' * regularizer='laplacian' boundary='reflect'",
    "tikhonov": "image psf weight='auto' * regularizer=0 prior=0.0 boundary='reflect'",
    "inverse_filter": "image psf threshold=0.1 * below='zero' boundary='reflect'",
    "unsupervised_wiener": "image psf * regularizer='laplacian' boundary='reflect'",
    "landweber": "image psf num_iter=None * step='auto' non_negative=False boundary='extended' "
    "background=0.0 weights=None stop=None initial='flat'",
    "fista": "image psf weight num_iter=None * inner_iter=5 non_negative=True boundary='extended' "
    "background=0.0 weights=None stop=None initial='flat'",
    "van_cittert": "image psf num_iter=None * relaxation=1.0 non_negative=False bounds=None "
    "boundary='reflect' background=0.0 weights=None stop=None initial='image'",
    "convolve": "a b mode='full' boundary='zero' method='auto'",
    "correlate": "a b mode='full' boundary='zero' method='auto'",
    "nn.DeconvNet": "scale=1 filters=64 ndim=2 channels=1 residual=True seed=0",
    "nn.Model.compile": "self optimizer='adam' loss='mse'",
    "nn.Model.fit": "self x y=None epochs=10 batch_size=32 validation_data=None",
    "ops.conv": "x w bias=None stride=1 padding=0 dilation=1 groups=1 * padding_mode='zeros'",
    "ops.conv_transpose": "x w bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1 * "
    "padding_mode='zeros'",
    "ops.conv_input_grad": "grad w input_shape stride=1 padding=0 dilation=1 groups=1 * padding_mode='zeros'",
    "ops.conv_weight_grad": "grad x weight_shape stride=1 padding=0 dilation=1 groups=1 * "
    "padding_mode='zeros'",
    "ops.conv_transpose_input_grad": "grad w input_shape stride=1 padding=0 output_padding=0 groups=1 "
    "dilation=1 * padding_mode='zeros'",
    "ops.conv_transpose_weight_grad": "grad x weight_shape stride=1 padding=0 output_padding=0 groups=1 "
    "dilation=1 * padding_mode='zeros'",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_signature_is_the_contracts(name):
    words, star = [], False
    for parameter in inspect.signature(operator.attrgetter(name)(mf)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            words.append("*")
            star = True
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        words.append(prefix + parameter.name + default)
    expected = CONTRACT[name].split()
    assert words[: len(expected)] == expected
    if name in ("richardson_lucy", "restore"):
        assert words == expected


DOCUMENTED = [n for n in mf.__all__ if callable(getattr(mf, n))] + [f"ops.{n}" for n in mf.ops.__all__]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_functions_are_documented(name):
    text = inspect.getdoc(operator.attrgetter(name)(mf)) or ""
    assert len(text) > 60
    if name not in ("get_num_threads", "release_memory"):
        assert "Parameters\n----------" in text
        assert "Raises\n------" in text


@pytest.mark.parametrize(
    "name",
    [
        f"{m.__name__}:{n}"
        for m in (mf.psf, mf.preprocess, mf.metrics, mf.report)
        for n in m.__all__
        if n[0].islower()
    ],
)
def test_leaves_functions_are_documented(name):
    module, _, function = name.partition(":")
    value = getattr(importlib.import_module(module), function)
    text = inspect.getdoc(value) or ""
    signature = inspect.signature(value)
    for heading in ["Parameters", "Raises"] + ["Returns"] * (
        signature.return_annotation not in (None, "None")
    ):
        assert f"{heading}\n{'-' * len(heading)}" in text, heading
    for parameter in signature.parameters:
        assert re.search(rf"^(\w+, )*{parameter}(, \w+)*( :|$)", text, re.MULTILINE), parameter


INTERFACE = [
    "is_available",
    "unavailable_reason",
    "describe",
    "release_memory",
    "good_size",
    "smallest_divisor",
    "SpectralPlan",
    "SeparablePlan",
    "DirectPlan",
    "OverlapPlan",
    "ConvPlan",
    "sum_channels",
    "empty",
    "resident",
    "pad",
    "fold",
    "apply_formula",
    "penalty",
    "denoised",
    "denoise_step",
]


@pytest.mark.parametrize("module", [cpp, cuda, numba], ids=lambda m: m.NAME)
@pytest.mark.parametrize("name", INTERFACE)
def test_backends_have_the_same_interface(name, module):
    ours, theirs = getattr(reference, name), getattr(module, name)
    if inspect.isclass(ours):
        members = [n for n in dir(theirs) if not n.startswith("_")]  # inherited ones too
        assert members
        for member in members:
            assert hasattr(ours, member), member
            if inspect.isfunction(getattr(theirs, member)):
                one, other = (inspect.signature(getattr(c, member)).parameters for c in (ours, theirs))
                assert [(p.name, p.kind, p.default) for p in one.values()] == [
                    (p.name, p.kind, p.default) for p in other.values()
                ]
    else:
        one, other = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
        assert [(p.name, p.kind, p.default) for p in one.values()] == [
            (p.name, p.kind, p.default) for p in other.values()
        ]


def test_chains_have_the_same_interface(backend):
    kernels = mf.backends.resolve(backend)
    chain = kernels.SpectralPlan((4,), ((0, 4),), ((0, 4),), "float64").chain()
    assert {n for n in dir(chain) if not n.startswith("_")} == {"load", "sweep"}


def test_smallest_divisor_is_the_same_everywhere(backend):
    kernels = mf.backends.resolve(backend)
    for dtype in ("float32", "float64"):
        assert kernels.smallest_divisor(123.0, dtype) == pytest.approx(
            reference.smallest_divisor(123.0, dtype), rel=1e-12
        )


def test_good_sizes(backend):
    kernels = mf.backends.resolve(backend)
    for n in (1, 2, 3, 11, 97, 128, 257, 1009):
        for even, last in ((False, False), (True, False), (False, True), (True, True)):
            size = kernels.good_size(n, even=even, last=last)
            assert size >= n
            assert not even or size % 2 == 0
            rest = size
            for prime in (2, 3, 5, 7):
                while rest % prime == 0:
                    rest //= prime
            assert rest == 1


def test_import_is_cheap():
    """Importing the package brings in NumPy and nothing else that is heavy."""
    code = (
        "import sys, medeconv_fast; print([m for m in ('scipy', 'skimage', 'torch', 'nibabel', 'tifffile', "
        "'matplotlib', 'numba', 'zarr', 'safetensors', 'onnx', 'dask', 'pydicom', 'SimpleITK') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_few_programs_need_is_loaded_when_it_is_asked_for():
    later = ("compat", "io", "nn", "preprocess", "report", "volumes")
    code = (
        "import sys, medeconv_fast as mf\n"
        f"later = {later}\n"
        "print([n for n in later if f'medeconv_fast.{n}' in sys.modules])\n"
        "print([n for n in mf.__all__ if n not in dir(mf) or not hasattr(mf, n)])\n"
        "print(hasattr(mf, 'richardson_lucid'), mf.nn is sys.modules['medeconv_fast.nn'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "[]", "False True"]


@pytest.mark.parametrize("later", ["nn", "report", "volumes"])
@pytest.mark.parametrize("package", ["io", "preprocess"])
def test_threads_may_load_what_is_loaded_later(package, later):
    """One begins with a package of which the other, meanwhile, needs parts."""
    code = (
        "import importlib, importlib.machinery, sys, threading, time\n"
        "import medeconv_fast\n"
        "package, later = ('medeconv_fast.' + name for name in sys.argv[1:])\n"
        "begun, errors = threading.Event(), []\n"
        "def create(self, spec):\n"
        "    if spec.name == package and threading.current_thread() is one:\n"
        "        begun.set()\n"
        "        time.sleep(1)\n"
        "importlib.machinery.SourceFileLoader.create_module = create\n"
        "def load(name):\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        errors.append(repr(error))\n"
        "one, other = (threading.Thread(target=load, args=(name,)) for name in (package, later))\n"
        "one.start()\n"
        "begun.wait(60)\n"
        "other.start()\n"
        "one.join()\n"
        "other.join()\n"
        "print(errors)"
    )
    command = [sys.executable, "-c", code, package, later]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
