"""Threads: how many are used, that results do not depend on it; forks and Ctrl-C leave the process usable."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _threads


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.delenv("MEDECONV_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(_threads, "_chosen", None)
    return monkeypatch


def test_order_of_settings(clean):
    assert mf.get_num_threads() == _threads.default_num_threads()
    clean.setenv("MEDECONV_NUM_THREADS", "5")
    assert mf.get_num_threads() == 5
    mf.set_num_threads(3)
    assert mf.get_num_threads() == 3
    assert _threads.resolve_num_threads(7) == 7
    mf.set_num_threads(None)
    assert mf.get_num_threads() == 5


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5", "²", "1000000000000"])
def test_bad_environment_variable(clean, text):
    clean.setenv("MEDECONV_NUM_THREADS", text)
    with pytest.raises(
        ValueError, match=f"MEDECONV_NUM_THREADS: got '{text}', expected an integer of at least 1"
    ):
        mf.get_num_threads()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**12, ValueError),
        (2.0, TypeError),
        ("2", TypeError),
        (True, TypeError),
    ],
)
def test_bad_set_num_threads(clean, value, error):
    with pytest.raises(error, match="num_threads: got"):
        mf.set_num_threads(value)


def test_affinity_bounds_the_default(clean):
    clean.setattr(_threads, "_own_quota", lambda: None)
    clean.setattr(os, "sched_getaffinity", lambda pid: {0, 4, 9}, raising=False)
    assert _threads.default_num_threads() == 3


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cgroup_v2(tmp_path):
    write(tmp_path / "cgroup", "0::/user.slice/job\n")
    mount = tmp_path / "mount"
    write(mount / "user.slice/job/cpu.max", "max 100000\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", mount) is None
    write(mount / "user.slice/job/cpu.max", "250000 100000\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", mount) == 2.5
    # An ancestor may be narrower.
    write(mount / "user.slice/cpu.max", "150000 100000\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", mount) == 1.5


def test_cgroup_v2_in_a_container(tmp_path):
    """The group's path is the host's; what the container sees is the mount's root."""
    write(tmp_path / "cgroup", "0::/../../docker/abc\n")
    write(tmp_path / "mount/cpu.max", "300000 100000\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", tmp_path / "mount") == 3


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_cgroup_v1(tmp_path, folder):
    write(tmp_path / "cgroup", "5:memory:/x\n4:cpu,cpuacct:/job\n1:name=systemd:/\n")
    mount = tmp_path / "mount"
    write(mount / folder / "job/cpu.cfs_period_us", "100000\n")
    write(mount / folder / "job/cpu.cfs_quota_us", "-1\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", mount) is None
    write(mount / folder / "job/cpu.cfs_quota_us", "50000\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", mount) == 0.5


def test_cgroup_absent_or_unreadable(tmp_path):
    assert _threads.cgroup_quota(tmp_path / "nothing", tmp_path) is None
    write(tmp_path / "cgroup", "0::/\ngarbage\n")
    write(tmp_path / "mount/cpu.max", "lots of it\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", tmp_path / "mount") is None


def test_cgroup_v1_nested(tmp_path):
    """The narrowest of the levels counts; -1 on one of them means nothing for the others."""
    write(tmp_path / "cgroup", "3:cpuset:/a/b/c\n2:cpu,cpuacct:/a/b/c\n")
    mount = tmp_path / "mount/cpu,cpuacct"
    for group, quota in (("", -1), ("a", 400000), ("a/b", 150000), ("a/b/c", -1)):
        write(mount / group / "cpu.cfs_period_us", "100000\n")
        write(mount / group / "cpu.cfs_quota_us", f"{quota}\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", tmp_path / "mount") == 1.5


def test_cgroup_hybrid(tmp_path):
    """v1 controllers beside a v2 tree that has none of them (systemd's hybrid mode)."""
    write(tmp_path / "cgroup", "1:cpu,cpuacct:/job\n0::/user.slice\n")
    mount = tmp_path / "mount"
    write(mount / "unified/user.slice/cgroup.procs", "1\n")
    write(mount / "cpu,cpuacct/job/cpu.cfs_period_us", "50000\n")
    write(mount / "cpu,cpuacct/job/cpu.cfs_quota_us", "125000\n")
    assert _threads.cgroup_quota(tmp_path / "cgroup", mount) == 2.5


@pytest.mark.parametrize("text", ["", "max", "max 100000", "100000 0", "0 100000", "-1 100000", "1e5 1e5"])
def test_cgroup_without_a_usable_limit(tmp_path, text):
    write(tmp_path / "cgroup", "0::/job\n")
    write(tmp_path / "mount/job/cpu.max", text)
    assert _threads.cgroup_quota(tmp_path / "cgroup", tmp_path / "mount") is None


@pytest.mark.parametrize(
    ("text", "expected"), [("2", 2), ("1,4", 1), ("64", 8), ("", 8), ("none", 8), ("0", 8)]
)
def test_openmp_share_bounds_the_default(clean, text, expected):
    """How dask's nanny, joblib, torchrun and batch systems tell a process what its share is."""
    clean.setenv("OMP_NUM_THREADS", text)
    assert _threads.default_num_threads(affinity=8, quota=16.0) == expected
    clean.setenv("MEDECONV_NUM_THREADS", "5")
    assert mf.get_num_threads() == 5


def test_quota_bounds_the_default(clean):
    assert _threads.default_num_threads(affinity=8, quota=2.5) == 3
    assert _threads.default_num_threads(affinity=8, quota=0.5) == 1
    assert _threads.default_num_threads(affinity=2, quota=16.0) == 2


def data(seed=0, shape=(23, 40, 37)):
    rng = np.random.default_rng(seed)
    return rng.random(shape, np.float32) + 0.1, rng.random((5, 4, 7))


RUNS = {
    **{
        boundary: lambda image, psf, b=boundary, **o: mf.richardson_lucy(image, psf, 3, boundary=b, **o)
        for boundary in ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
    },
    "float64": lambda image, psf, **o: mf.richardson_lucy(image.astype(float), psf, 3, **o),
    "image": lambda image, psf, **o: mf.richardson_lucy(image[3], psf[2], 3, **o),
    "line": lambda image, psf, **o: mf.richardson_lucy(image.ravel(), psf.ravel(), 3, **o),
    **{
        f"separable-{boundary}": lambda image, psf, b=boundary, **o: mf.richardson_lucy(
            image, np.ones(psf.shape), 3, boundary=b, engine="separable", **o
        )
        for boundary in ("extended", "wrap", "reflect")
    },
    **{
        f"direct-{boundary}": lambda image, psf, b=boundary, **o: mf.richardson_lucy(
            image, psf, 3, boundary=b, engine="direct", **o
        )
        for boundary in ("extended", "wrap", "reflect")
    },
    "wiener": lambda image, psf, **o: mf.wiener(image, psf, **o),
    "convolve": lambda image, psf, **o: mf.convolve(image, psf, **o),
}


@pytest.mark.parametrize("run", RUNS)
def test_bit_identical_for_any_number_of_threads(run, backend):
    image, psf = data()
    results = [RUNS[run](image, psf, backend=backend, num_threads=n) for n in (1, 2, 3, 7)]
    for other in results[1:]:
        assert np.array_equal(results[0], other)


def test_from_eight_python_threads_at_once(backend):
    inputs = [data(seed, (16, 24 + seed, 20)) for seed in range(8)]

    def run(pair):
        estimate = pair[0]
        for _ in range(3):
            estimate = mf.richardson_lucy(*pair, 4, backend=backend, num_threads=3)
        return estimate

    expected = [run(pair) for pair in inputs]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, inputs))
    for got, wanted in zip(results, expected, strict=True):
        assert np.array_equal(got, wanted)


def test_one_blur_from_eight_python_threads(backend):
    image, psf = data()
    blur = mf.Blur(psf, image.shape, boundary="wrap", backend=backend, num_threads=2)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: blur.forward(image * np.float32(2.0**i)), range(8)))
    # Powers of two: exact in every bit.
    for i, got in enumerate(results):
        assert np.array_equal(got, results[0] * np.float32(2.0**i))


def script(text, *arguments, timeout=60):
    """Run Python text in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_child_after_a_call_in_the_parent(backend):
    if backend == "cuda":
        pytest.skip("SKIPPED: CUDA does not survive a fork: test_forked_child_learns_that_cuda_is_gone")
    done = script(
        """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy as np
        import medeconv_fast as mf

        image = np.random.default_rng(0).random((20, 40, 40)).astype(np.float32)
        run = lambda: mf.richardson_lucy(image, np.ones((3, 5, 5)), 3, backend=sys.argv[1], num_threads=3)
        expected = run()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                same = np.array_equal(run(), expected)
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if np.array_equal(run(), expected) else 1)
                _, status = os.waitpid(grandchild, 0)
                os._exit(0 if same and status == 0 else 1)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            assert np.array_equal(run(), expected)
        print("all equal")
        """,
        backend,
    )
    assert done.returncode == 0, done.stderr
    assert "all equal" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.skipif(
    "cuda" not in mf.backends.available(), reason="SKIPPED: backend 'cuda' is not available here"
)
def test_forked_child_learns_that_cuda_is_gone():
    """By name, and what to do; other backends go on, and so does the parent."""
    done = script(
        """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import emulated, numpy as np
        import medeconv_fast as mf

        image = np.random.default_rng(0).random((20, 40)).astype(np.float32)
        run = lambda backend: mf.richardson_lucy(image, np.ones((3, 5)), 3, backend=backend)
        expected = run("cuda")
        child = os.fork()
        if child == 0:
            try:
                run("cuda")
            except Exception as error:
                said = str(error)
            fine = "forked" in said and "spawn" in said and "cuda" not in mf.backends.available()
            os._exit(0 if fine and np.isfinite(run("reference")).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert np.array_equal(run("cuda"), expected)
        print("told")
        """
    )
    assert done.returncode == 0, done.stderr
    assert "told" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("num_threads", ["1", "2"])
def test_interrupt_stops_a_long_run(backend, num_threads):
    # A NumPy transform cannot be interrupted: the reference backend gets volumes that take it far less than a
    # second.
    side = "176" if backend == "cpp" else "48"
    done = script(
        """
        import os, signal, sys, threading, time
        import numpy as np
        import medeconv_fast as mf

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        backend, threads, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        image, psf = np.ones((side,) * 3, np.float32), np.ones((3, 3, 3))
        sent = []

        def interrupt():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        for boundary in ("extended", "reflect"):
            # The clock starts with the first finished iteration, so that a slow start does not matter.
            timer = threading.Timer(0.3, interrupt)
            begin = lambda i, e: timer.start() if i == 1 else None
            try:
                mf.richardson_lucy(image, psf, 10**6, boundary=boundary, backend=backend, num_threads=threads,
                callback=begin)
            except KeyboardInterrupt:
                delay = time.perf_counter() - sent[-1]
            else:
                sys.exit("was not interrupted")
            assert delay < 1, delay
            after = mf.richardson_lucy(image[:9, :9, :9], psf, 5, backend=backend, num_threads=threads)
            assert np.allclose(after, 1, atol=1e-4)
        print("usable")
        """,
        backend,
        num_threads,
        side,
    )
    assert done.returncode == 0, done.stderr
    assert "usable" in done.stdout
