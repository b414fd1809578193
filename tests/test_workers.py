"""Threads beside other people's threads and processes: affinity, control groups, multiprocessing, dask, torch
DataLoaders, Numba. Everything runs in processes of its own: nothing here depends on what ran before."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

linux = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="counts the threads in /proc/self/task"
)
native = pytest.mark.skipif("cpp" not in mf.backends.available(), reason="looks at the C++ kernels' threads")


def needs(module, extra):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None,
        reason=f"SKIPPED: {module} is not installed (pip install 'medeconv-fast[{extra}]')",
    )


# What every script begins with. The pool's threads are called "medeconv", so they can be told from those of
# NumPy's BLAS and of the peers.
PREAMBLE = """
import os, sys, threading, time
import numpy as np
import medeconv_fast as mf

def tasks():
    # {thread id: (name, runnable)} of this process
    found = {}
    for tid in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{tid}/stat") as file:
                head, _, rest = file.read().rpartition(")")
        except FileNotFoundError:  # has just ended
            continue
        found[int(tid)] = head.partition("(")[2], rest.split()[0] == "R"
    return found

def workers():
    return {tid for tid, (name, _) in tasks().items() if name == "medeconv"}

class Watch:
    # Samples how many threads are runnable, on a processor or waiting for one, whatever the machine has.
    def __enter__(self):
        self.counts, self.over = [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        while not self.over:
            me = threading.get_native_id()
            self.counts.append(sum(runs for tid, (_, runs) in tasks().items() if tid != me))
            time.sleep(0.002)

    def __exit__(self, *_):
        self.over = True
        self.thread.join()

    @property
    def mean(self):
        return sum(self.counts) / len(self.counts)

def image(seed=0, side=96):
    return np.random.default_rng(seed).random((side, side, side), np.float32)

PSF = np.random.default_rng(1).random((5, 6, 7))
"""


@pytest.fixture
def script(tmp_path):
    """script(text, *arguments, **environment) -> what it prints; a file: spawned children import it."""

    def run(text, *arguments, timeout=120, **environment):
        path = tmp_path / "main.py"
        path.write_text(PREAMBLE + textwrap.dedent(text))
        clean = {k: v for k, v in os.environ.items() if k not in ("MEDECONV_NUM_THREADS", "OMP_NUM_THREADS")}
        done = subprocess.run(
            [sys.executable, str(path), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment},
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return run


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_affinity_of_the_process(script):
    out = script(
        """
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[:1])
        assert mf.get_num_threads() == 1
        mf.convolve(image(), PSF)
        assert not workers()
        os.sched_setaffinity(0, cpus)
        assert mf.get_num_threads() <= len(cpus)
        print("one")
        """
    )
    assert "one" in out


@linux
@native
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="SKIPPED: needs two processors")
def test_workers_follow_their_caller(script):
    """A worker that stayed where it was started would run outside a mask that was set later."""
    script(
        """
        x = image()
        mf.convolve(x, PSF, num_threads=3, backend="cpp")
        assert len(workers()) == 2
        for cpu in sorted(os.sched_getaffinity(0)):
            os.sched_setaffinity(0, {cpu})
            end = time.monotonic() + 20
            while True:  # a worker that found nothing left to do moves with the next call
                mf.convolve(x, PSF, num_threads=3, backend="cpp")
                where = [os.sched_getaffinity(tid) for tid in workers()]
                if all(mask == {cpu} for mask in where):
                    break
                assert time.monotonic() < end, where
        """
    )


def test_a_control_group_of_the_system(script):
    """A real group with a real quota, where this process may make one."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    root = Path("/sys/fs/cgroup") if v2 else Path("/sys/fs/cgroup/cpu")
    own = Path("/proc/self/cgroup")
    lines = [line.split(":", 2) for line in own.read_text().splitlines()] if own.is_file() else []
    mine = next((path for _, names, path in lines if ("" if v2 else "cpu") in names.split(",")), "/")
    group = root / mine.lstrip("/") / f"medeconv-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"SKIPPED: cannot make a control group here ({error})")
    try:
        files = (
            {"cpu.max": "130000 100000"}
            if v2
            else {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "130000"}
        )
        try:
            for name, text in files.items():
                (group / name).write_text(text)
        except OSError as error:
            pytest.skip(f"SKIPPED: cannot set a quota here ({error})")
        script(
            """
            with open(sys.argv[1] + "/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
            from medeconv_fast import _threads
            assert _threads.cgroup_quota() == 1.3, _threads.cgroup_quota()
            assert mf.get_num_threads() == min(2, len(os.sched_getaffinity(0)))
            """,
            group,
        )
    finally:
        group.rmdir()


@linux
@native
@pytest.mark.parametrize("num_callers", [1, 4, 6])
def test_callers_share_one_pool(script, num_callers):
    """n Python threads that ask for t threads each keep max(n, t) running, not n + t - 1 and not n t.

    A mean over samples: a worker finishes its unit before it makes room. Without making room it is 5.3 for 4
    callers and 7.1 for 6; with it, 4.2 and 5.9.
    """
    out = script(
        """
        from concurrent.futures import ThreadPoolExecutor
        callers, threads = int(sys.argv[1]), 4
        images = [image(seed, 128) for seed in range(callers)]
        expected = [mf.convolve(x, PSF, backend="cpp", num_threads=1) for x in images]

        def blur(i):
            while len(watch.counts) < 150:
                result = mf.convolve(images[i], PSF, backend="cpp", num_threads=threads)
                assert np.array_equal(result, expected[i])

        with ThreadPoolExecutor(callers) as pool, Watch() as watch:
            list(pool.map(blur, range(callers)))
        assert len(workers()) <= threads - 1, len(workers())
        print(watch.mean)
        """,
        num_callers,
    )
    assert float(out) <= max(num_callers, 4) + 0.8


@linux
@native
@needs("dask", "dask")
def test_dask_threads(script):
    """dask's threaded scheduler with as many threads as a call would use by itself."""
    out = script(
        """
        import dask
        x = image(0, 128)
        expected = mf.convolve(x, PSF, num_threads=1)

        def blur(i):
            while len(watch.counts) < 40 * i:
                assert np.array_equal(mf.convolve(x, PSF), expected)
        with Watch() as watch:
            dask.compute(*[dask.delayed(blur)(i // 4) for i in range(16)], scheduler="threads", num_workers=4)
        assert len(workers()) <= 3
        print(watch.mean)
        """,
        MEDECONV_NUM_THREADS="4",
        MEDECONV_BACKEND="cpp",
    )
    assert float(out) <= 4.1


@needs("distributed", "dask")
@pytest.mark.parametrize("processes", [True, False])
def test_dask_workers(script, processes):
    """Workers in processes know nothing of one another: each of their threads computes alone. In-process
    workers are threads like any others."""
    out = script(
        """
        import logging
        from distributed import Client, LocalCluster

        def work(seed):
            return mf.convolve(image(seed, 48), PSF), mf.get_num_threads(), os.getpid()

        def main():
            processes = sys.argv[1] == "True"
            cluster = LocalCluster(n_workers=2, threads_per_worker=2, processes=processes,
                                   dashboard_address=None, silence_logs=logging.ERROR)
            with cluster, Client(cluster) as client:
                results = client.gather(client.map(work, range(8)))
            for seed, (result, threads, pid) in enumerate(results):
                assert np.array_equal(result, mf.convolve(image(seed, 48), PSF))
                assert threads == (1 if processes else mf.get_num_threads()), threads
                assert (pid == os.getpid()) != processes
            print("right")

        if __name__ == "__main__":
            main()
        """,
        processes,
    )
    assert "right" in out


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children(script, method, backend):
    """The default does not multiply; what is said in the child or in the environment counts."""
    if (method, backend) == ("fork", "cuda"):
        pytest.skip("SKIPPED: CUDA does not survive a fork: test_threads.py looks at what is said")
    out = script(
        """
        import multiprocessing, warnings
        from concurrent.futures import ProcessPoolExecutor
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, on purpose

        def work(seed):
            x, default = image(seed, 40), mf.get_num_threads()
            results = [mf.convolve(x, PSF), mf.convolve(x, PSF, num_threads=3)]
            mf.set_num_threads(2)
            set_here = mf.get_num_threads()
            mf.set_num_threads(None)
            os.environ["MEDECONV_NUM_THREADS"] = "5"
            told = mf.get_num_threads()
            del os.environ["MEDECONV_NUM_THREADS"]
            return results, (default, set_here, told)

        def main():
            mf.set_num_threads(3)  # and makes a pool that a forked child does not have
            mf.convolve(image(), PSF)
            context = multiprocessing.get_context(sys.argv[1])
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                for seed, (results, numbers) in enumerate(pool.map(work, range(4))):
                    expected = mf.convolve(image(seed, 40), PSF)
                    assert all(np.array_equal(r, expected) for r in results)
                    assert numbers == (1, 2, 5), numbers
            assert mf.get_num_threads() == 3
            print("right")

        if __name__ == "__main__":
            main()
        """,
        method,
        MEDECONV_BACKEND=backend,
    )
    assert "right" in out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_plain_fork_keeps_the_setting(script):
    """Not a worker of anything: a daemon that forks once goes on as it was told."""
    script(
        """
        mf.set_num_threads(3)
        child = os.fork()
        if child == 0:
            os._exit(0 if mf.get_num_threads() == 3 else 1)
        assert os.waitpid(child, 0)[1] == 0
        """
    )


@pytest.mark.peers
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("persistent", [False, True])
def test_torch_data_loader(script, method, persistent):
    pytest.importorskip("torch")
    out = script(
        """
        import torch
        from torch.utils.data import DataLoader, Dataset

        class Blurred(Dataset):
            def __len__(self):
                return 12

            def __getitem__(self, seed):
                blurred = mf.convolve(image(seed, 40), PSF)
                used = len(workers()) if os.path.isdir("/proc/self/task") else 0
                return blurred, mf.get_num_threads(), used, torch.get_num_threads(), os.getpid()

        def main():
            mf.set_num_threads(2)
            mf.convolve(image(), PSF)  # a pool in the parent, which a forked child does not have
            torch.ones(500, 500) @ torch.ones(500, 500)
            loader = DataLoader(Blurred(), batch_size=3, num_workers=3, multiprocessing_context=sys.argv[1],
                                persistent_workers=sys.argv[2] == "True", timeout=60)
            for _ in range(2):
                seeds = iter(range(12))
                for images, threads, used, torch_threads, pids in loader:
                    assert (threads == 1).all() and (torch_threads == 1).all(), (threads, torch_threads)
                    assert (used == 0).all(), used
                    assert os.getpid() not in pids.tolist()
                    for blurred in images.numpy():
                        assert np.array_equal(blurred, mf.convolve(image(next(seeds), 40), PSF))
            print("right")

        if __name__ == "__main__":
            main()
        """,
        method,
        persistent,
    )
    assert "right" in out


@linux
@native
@needs("numba", "numba")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("ours", ["cpp", "numba"])
def test_numba_parallel_regions(script, layer, ours):
    """Called from the threads of a parallel region, and beside one: right, no deadlock, one pool."""
    code = """
        import numba
        numba.config.THREADING_LAYER = sys.argv[1]
        numba.set_num_threads(min(4, numba.config.NUMBA_NUM_THREADS))
        x = image(0, 64)
        expected = mf.convolve(x, PSF, num_threads=1)
        right = np.zeros(16, np.bool_)

        def blur(i):
            right[i] = np.array_equal(mf.convolve(x, PSF, num_threads=4), expected)

        @numba.njit(parallel=True)
        def region(n):
            for i in numba.prange(n):
                with numba.objmode():
                    blur(i)

        @numba.njit(parallel=True, nogil=True)
        def busy(n):
            total = 0.0
            for i in numba.prange(n):
                total += np.sin(float(i))
            return total

        try:
            region(2)
        except ValueError as error:
            if "No threading layer could be loaded" not in str(error):
                raise
            print("no layer")
            sys.exit()
        right[:] = False
        with Watch() as watch:
            while len(watch.counts) < 100:
                region(16)
        assert right.all()
        assert len(workers()) <= 3
        # Our kernels in this thread while Numba's threads are at work in another one.
        beside = threading.Thread(target=lambda: [busy(2_000_000) for _ in range(20)])
        beside.start()
        for _ in range(10):
            assert np.array_equal(mf.convolve(x, PSF, num_threads=4), expected)
        beside.join()
        assert numba.threading_layer() == sys.argv[1]
        print(watch.mean)
        """
    limit = 4.7 if ours == "cpp" else 5.2  # longer units: a helper is slower to make room
    means: list[float] = []
    while len(means) < 3 and min(means, default=9.0) > limit:  # what else runs on the machine only adds
        out = script(
            code,
            layer,
            MEDECONV_BACKEND=ours,
            NUMBA_NUM_THREADS="4",
            OMP_WAIT_POLICY="PASSIVE",  # else libgomp's threads spin while they wait, and count
        )
        if out.strip() == "no layer":
            pytest.skip(f"SKIPPED: Numba has no {layer} layer here")
        means.append(float(out))
    assert min(means) <= limit, means


def test_numbers_of_threads_are_only_speed(backend):
    """The default, whatever it is here, computes what one thread computes."""
    rng = np.random.default_rng(7)
    image, psf = rng.random((20, 33, 41), np.float32), rng.random((5, 4, 3))
    assert np.array_equal(
        mf.convolve(image, psf, backend=backend), mf.convolve(image, psf, backend=backend, num_threads=1)
    )
