"""compat: signatures, counts, and `patched`, which swaps our stand-ins into the peers and back."""

import contextlib
import importlib
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.compat import _calls, _patch

MODULES = ["skimage.restoration", "scipy.signal", "scipy.ndimage"]


def ours(module):
    return importlib.import_module(f"medeconv_fast.compat.{module}")


FUNCTIONS = [(module, name) for module in MODULES for name in ours(module).__all__]
ids = [f"{module}.{name}" for module, name in FUNCTIONS]


def everything():
    """Every name of a callable in every loaded module of the peers, with the object that it holds."""
    return {
        (module, key): value
        for module, loaded in list(sys.modules.items())
        if module.partition(".")[0] in ("scipy", "skimage") and loaded is not None
        for key, value in vars(loaded).items()
        if callable(value)
    }


def same(before, after):
    return before.keys() <= after.keys() and all(after[key] is before[key] for key in before)


@pytest.fixture
def counted():
    mf.compat.calls(reset=True)
    yield mf.compat.calls
    mf.compat.calls(reset=True)


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=ids)
def test_signature_is_the_peers(module, name):
    peer = pytest.importorskip(module, reason=f"SKIPPED: {module} is not installed")
    stand_in = getattr(ours(module), name)
    assert inspect.signature(stand_in) == inspect.signature(getattr(peer, name))
    assert stand_in.__name__ == name
    assert stand_in.__doc__.startswith(f"Stand in for ``{module}.{name}``")


def test_reached_by_attributes_and_import_brings_in_no_peer():
    code = (
        "import sys, medeconv_fast as mf\n"
        "mf.compat.skimage.restoration, mf.compat.scipy.signal, mf.compat.scipy.ndimage\n"
        "print([m for m in ('scipy', 'skimage') if m in sys.modules])\n"
        "import numpy as np\n"
        "mf.compat.scipy.signal.convolve(np.ones(5), np.ones(3))\n"
        "print([m for m in ('scipy', 'skimage') if m in sys.modules])"
    )
    environment = {**os.environ, "MEDECONV_BACKEND": "reference"}  # Numba's needs scipy.fft itself
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize(
    ("call", "root", "package"),
    [
        ("mf.compat.scipy.signal.convolve([1, 2], [3])", "scipy", "scipy"),
        ("mf.compat.skimage.restoration.wiener([[1]], [[1]], 1)", "skimage", "scikit-image"),
        ("mf.compat.patched('skimage').__enter__()", "skimage", "scikit-image"),
    ],
)
def test_missing_peer_is_named_with_what_to_install(call, root, package):
    code = (
        f"import sys; sys.modules[{root!r}] = None\n"
        f"import medeconv_fast as mf\ntry:\n    {call}\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install {package}" in done.stdout


def test_unknown_submodule():
    with pytest.raises(AttributeError, match="no attribute 'cupy'"):
        _ = mf.compat.cupy
    assert {"skimage", "scipy", "patched", "calls", "DELEGATED"} <= set(dir(mf.compat))


def test_calls_counts_own_and_delegated(counted):
    pytest.importorskip("scipy", reason="SKIPPED: scipy is not installed")
    signal = mf.compat.scipy.signal
    signal.convolve(np.ones(9), np.ones(3))
    signal.convolve(np.ones(9), [1, 2, 1])
    signal.convolve([1, 2], [3, 4])
    signal.convolve(np.ones(9) * 1j, np.ones(3))
    with pytest.raises(ValueError, match="Acceptable mode flags"):
        signal.convolve(np.ones(9), np.ones(3), mode="nothing")
    expected = mf.compat.Calls(own=2, delegated={"integer": 1, "complex": 1, "arguments": 1})
    assert counted() == {"scipy.signal.convolve": expected}
    assert counted(reset=True) == {"scipy.signal.convolve": expected}
    assert counted() == {}
    with pytest.raises(TypeError, match="reset: got 1"):
        mf.compat.calls(reset=1)


def test_delegated_list_is_complete():
    """Every reason that is raised is in the list, and every entry of the list is raised somewhere."""
    source = "".join(
        inspect.getsource(importlib.import_module(f"medeconv_fast.compat.{name}"))
        for name in ("_kernels", *MODULES)
    )
    for reason in mf.compat.DELEGATED:
        assert f'"{reason}"' in source
    with pytest.raises(AssertionError):
        _calls.HandBack("a reason of its own")


def test_calls_counts_every_thread(counted):
    def work():
        for _ in range(50):
            mf.compat.scipy.signal.convolve(np.ones(9), np.ones(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted()["scipy.signal.convolve"].own == 200


class TestPatched:
    @pytest.fixture(autouse=True)
    def peers(self, counted):
        self.signal = pytest.importorskip("scipy.signal", reason="SKIPPED: scipy is not installed")
        self.ndimage = importlib.import_module("scipy.ndimage")
        self.restoration = pytest.importorskip(
            "skimage.restoration", reason="SKIPPED: scikit-image is not installed"
        )
        for name in ours("skimage.restoration").__all__:
            getattr(self.restoration, name)  # scikit-image loads its functions at first use
        before = everything()
        yield
        assert same(before, everything())
        assert not _patch._replaced
        assert not any(_patch._depth.values())

    def test_swaps_every_function_everywhere(self):
        originals = {(m, n): getattr(importlib.import_module(m), n) for m, n in FUNCTIONS}
        with mf.compat.patched("skimage", "scipy"):
            for (module, name), original in originals.items():
                now = getattr(importlib.import_module(module), name)
                assert now is not original
                assert now.__name__ == name
                assert inspect.signature(now) == inspect.signature(original)
            held = everything().values()
            assert not {id(v) for v in originals.values()} & {id(v) for v in held}

    def test_results_are_ours_inside_and_the_peers_outside(self, counted):
        image = np.random.default_rng(0).random((12, 13))
        outside = self.ndimage.gaussian_filter(image, 1.0)
        assert counted() == {}
        with mf.compat.patched("scipy"):
            inside = self.ndimage.gaussian_filter(image, 1.0)
        assert counted()["scipy.ndimage.gaussian_filter"].own == 1
        np.testing.assert_allclose(inside, outside, rtol=1e-12)

    def test_the_peers_own_functions_use_ours(self, counted):
        with mf.compat.patched("scipy"):
            self.ndimage.sobel(np.ones((5, 5)))
        assert counted()["scipy.ndimage.correlate1d"].own == 2

    def test_only_the_peers_that_were_named(self):
        before = self.restoration.richardson_lucy
        with mf.compat.patched("scipy"):
            assert self.restoration.richardson_lucy is before

    def test_what_is_handed_back_counts_once(self, counted):
        with mf.compat.patched("scipy", "skimage"):
            self.signal.correlate([1, 2, 3], [1, 2])  # calls scipy.signal.convolve in its turn
            self.restoration.unsupervised_wiener(np.ones((8, 8)), np.ones((3, 3)) / 9)
        assert set(counted()) == {"scipy.signal.correlate", "skimage.restoration.unsupervised_wiener"}
        assert counted()["scipy.signal.correlate"] == mf.compat.Calls(0, {"integer": 1})

    def test_nests(self):
        before = self.signal.convolve
        with mf.compat.patched("scipy"):
            inside = self.signal.convolve
            with mf.compat.patched("skimage", "scipy"):
                assert self.signal.convolve is inside
            assert self.signal.convolve is inside
        assert self.signal.convolve is before

    def test_one_block_is_entered_again_and_within_itself(self):
        before = self.signal.convolve
        block = mf.compat.patched("scipy")
        for _ in range(2):
            with block:
                inside = self.signal.convolve
                with block:
                    assert self.signal.convolve is inside
                assert self.signal.convolve is inside is not before
            assert self.signal.convolve is before
        with pytest.raises(RuntimeError, match="left more often than entered"):
            block.__exit__(None, None, None)

    def test_one_block_serves_several_threads(self):
        block, failures = mf.compat.patched("scipy"), []

        def work():
            for _ in range(20):
                with block:
                    if not hasattr(self.signal.convolve, "_medeconv_original"):
                        failures.append("restored under a block that had not ended")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_survives_exceptions(self):
        with pytest.raises(RuntimeError, match="inside"), mf.compat.patched("scipy", "skimage"):
            raise RuntimeError("inside")

    def test_nothing_is_swapped_when_a_peer_is_missing(self, monkeypatch):
        monkeypatch.setitem(_patch.PEERS, "skimage", ("skimage.no_such_module",))
        block = mf.compat.patched("scipy", "skimage")
        with pytest.raises(ImportError, match="pip install scikit-image"):
            block.__enter__()

    def test_blocks_of_threads_may_end_in_any_order(self):
        first, second, failures = threading.Event(), threading.Event(), []

        def outlives():
            with mf.compat.patched("scipy"):
                first.set()
                second.wait(10)
                if not hasattr(self.signal.convolve, "_medeconv_original"):
                    failures.append("restored under a block that had not ended")

        with mf.compat.patched("scipy"):
            thread = threading.Thread(target=outlives)
            thread.start()
            assert first.wait(10)
        assert hasattr(self.signal.convolve, "_medeconv_original")
        second.set()
        thread.join()
        assert not failures

    def test_many_threads_enter_and_leave(self):
        def work():
            for _ in range(20):
                with mf.compat.patched("scipy"):
                    self.signal.convolve(np.ones(9), np.ones(3))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def test_threads_started_inside_compute_with_ours(self, counted):
        with mf.compat.patched("scipy"):
            thread = threading.Thread(target=lambda: self.signal.convolve(np.ones(9), np.ones(3)))
            thread.start()
            thread.join()
        assert counted()["scipy.signal.convolve"].own == 1

    def test_functions_held_beyond_the_block_are_the_peers_again(self, counted):
        with mf.compat.patched("scipy"):
            from scipy.signal import convolve
        np.testing.assert_array_equal(convolve([1, 2], [3, 4]), [3, 10, 8])
        assert counted() == {}

    def test_pickles_by_name_inside(self):
        with mf.compat.patched("scipy"):
            assert pickle.loads(pickle.dumps(self.signal.convolve)) is self.signal.convolve
            held = pickle.dumps(self.signal.convolve)
        before = self.signal.convolve
        assert pickle.loads(held) is before
        with mf.compat.patched("scipy"), pytest.raises(pickle.PicklingError, match="not the same object"):
            pickle.dumps(before)

    @pytest.mark.parametrize(("method", "own"), [("fork", 1), ("spawn", 0)])
    def test_processes_compute_with_ours_where_they_are_forked(self, method, own, tmp_path):
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"SKIPPED: no {method} here")
        code = (
            "import multiprocessing, sys, numpy as np, scipy.signal, medeconv_fast as mf\n"
            "def work(_):\n"
            "    scipy.signal.convolve(np.ones(9), np.ones(3))\n"
            "    return sum(c.own for c in mf.compat.calls().values())\n"
            "if __name__ == '__main__':\n"
            "    with mf.compat.patched('scipy'), multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:\n"
            "        print(pool.map(work, [0]))\n"
        )
        path = tmp_path / "work.py"
        path.write_text(code)
        done = subprocess.run(
            [sys.executable, str(path), method], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip() == f"[{own}]"

    def test_is_a_decorator_too(self, counted):
        @mf.compat.patched("scipy")
        def work():
            return self.signal.convolve(np.ones(9), np.ones(3))

        work()
        work()
        assert counted()["scipy.signal.convolve"].own == 2

    @pytest.mark.parametrize("names", [(), ("cupy",), ("scipy", 3)])
    def test_unknown_peers_are_refused(self, names):
        with pytest.raises(ValueError, match="peers: got"), mf.compat.patched(*names):
            pass

    def test_stand_ins_called_directly_inside_count_as_well(self, counted):
        with mf.compat.patched("scipy"), contextlib.suppress(ValueError):
            mf.compat.scipy.signal.convolve([1, 2], [3])
        assert counted()["scipy.signal.convolve"].delegated == {"integer": 1}
