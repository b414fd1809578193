"""What the CUDA backend keeps of a PSF for the next call with it: found, bounded, freed, not mixed up."""

import os
import sys
import threading

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _device
from medeconv_fast.backends import cuda

pytestmark = pytest.mark.skipif(
    not cuda.is_available(), reason="SKIPPED: no GPU, and MEDECONV_TEST_EMULATOR names no emulator"
)
on_emulator = pytest.mark.skipif(
    not os.environ.get("MEDECONV_TEST_EMULATOR"), reason="SKIPPED: needs a GPU with little memory"
)
TAPS = np.array([[1.0, 2, 1], [2, 5, 3], [1, 2, 1]])
PRODUCT = np.multiply.outer([1, 2, 1], [1, 3, 1.0])
LINE = np.array([1.0, 4, 2])
# Engine -> PSF, and what the second call with it may not do again.
RUNS = {"spectral": TAPS, "separable": PRODUCT, "direct": TAPS, "spectral, line": LINE}


@pytest.fixture(autouse=True)
def nothing_from_before():
    mf.release_memory()
    assert _device.lasting_bytes(0) == 0


@pytest.fixture
def image(rng):
    return rng.poisson(40.0, (20, 27)).astype(np.float32)


@pytest.fixture
def made(monkeypatch):
    """What is allocated to last, copied to the device and made into transfer functions from now on."""
    native, counted = _device.native(), []

    def count(owner, name, counts=lambda *a: True):
        original = getattr(owner, name)

        def counting(*arguments):
            counted.extend([name] * counts(*arguments))
            return original(*arguments)

        monkeypatch.setattr(owner, name, counting)

    count(native, "Buffer", lambda place, nbytes, lasting: lasting)
    count(native.Place, "upload")
    count(native.SpectralPlanF32, "transfer")
    count(native.SpectralPlanF32, "wiener_transfer")
    count(native, "overlap_transfer_F32")
    return counted


@pytest.mark.parametrize("boundary", ["wrap", "reflect"])
@pytest.mark.parametrize("name", RUNS)
def test_a_second_call_makes_nothing(name, boundary, image, made):
    image = image if RUNS[name].ndim == 2 else image.ravel()
    run = dict(boundary=boundary, engine=name.partition(",")[0])
    resident = _device.own_memory().uploaded(image)
    first = mf.richardson_lucy(resident, RUNS[name], 3, **run)
    assert "Buffer" in made and "upload" in made
    made.clear()
    second = mf.richardson_lucy(resident, RUNS[name].copy(), 3, **run)
    assert made == []
    assert np.array_equal(first.numpy(), second.numpy())
    assert 0 < _device.lasting_bytes(0) <= cuda.describe()["cached_bytes"]


def test_filters_find_theirs(image, made):
    resident = _device.own_memory().uploaded(image)
    first = mf.wiener(resident, TAPS, 0.1, boundary="wrap")
    made.clear()
    assert np.array_equal(mf.wiener(resident, TAPS, 0.1, boundary="wrap").numpy(), first.numpy())
    assert made == []
    other = mf.wiener(resident, TAPS, 0.2, boundary="wrap")
    assert made == ["Buffer", "wiener_transfer"]
    mf.release_memory()
    assert np.array_equal(mf.wiener(resident, TAPS, 0.2, boundary="wrap").numpy(), other.numpy())


def variants(rng):
    """(arguments of a plan, psf, centre): each differs from the first in one thing that its values show."""
    taps = np.ascontiguousarray(rng.random((3, 3)) + 0.1)
    even = taps + taps[::-1, ::-1]
    whole = ((0, 8), (0, 12))
    yield ((8, 12), whole, whole, "float32"), taps.astype("float32"), (1, 1)
    yield ((8, 12), whole, whole, "float32"), taps.astype("float32"), (1, 0)
    yield ((8, 12), whole, whole, "float64"), taps, (1, 1)
    yield ((12, 8), whole[::-1], whole[::-1], "float32"), taps.astype("float32"), (1, 1)
    yield ((8, 12), whole, whole, "float32"), even.astype("float32"), (1, 1)
    yield ((8, 12), whole, whole, "float32", (), True), even.astype("float32"), (1, 1)
    yield ((8, 12), whole, whole, "float32"), np.ascontiguousarray(taps[:1]).astype("float32"), (0, 1)
    yield ((8, 12), whole, whole, "float32"), taps[:1].T.copy().astype("float32"), (1, 0)
    changed = taps.astype("float32")
    changed[2, 2] = np.nextafter(changed[2, 2], np.float32(2))
    yield ((8, 12), whole, whole, "float32"), changed, (1, 1)


def test_what_differs_is_not_mixed_up(rng):
    memory = _device.own_memory()

    def taken(plan, psf, centre):
        return cuda.SpectralPlan(*plan).transfer(psf, centre).on(memory)

    given = list(variants(rng))
    kept = [taken(*each) for each in given]
    assert len({array.pointer for array in kept}) == len(given)
    assert [taken(*each).pointer for each in given] == [array.pointer for array in kept]

    def blurred(plan, psf, centre):  # the transfer's own bytes hold gaps that nothing writes
        made = cuda.SpectralPlan(*plan)
        chain, (estimate, image) = made.chain(), ([b - a for a, b in box] for box in plan[1:3])
        out = np.empty(image, plan[3])
        chain.load(np.arange(np.prod(estimate), dtype=plan[3]).reshape(estimate))
        chain.sweep(made.transfer(psf, centre), "copy", keep=False, out=out)
        return out

    found = [blurred(*each) for each in given]
    for each, expected in zip(given, found, strict=True):
        mf.release_memory()
        np.testing.assert_array_equal(blurred(*each), expected)
    boxes = [((0, 8), (0, 12)), ((0, 3), (0, 12)), ((0, 8), (0, 2))]  # they decide about the order of axes
    apart = {taken(((8, 12), a, b, "float32"), given[0][1], (1, 1)).pointer for a in boxes for b in boxes}
    assert len(apart) == 9


def test_filters_of_other_shapes_and_directions_are_not_mixed_up(rng):
    """The taps are the same numbers in the same order."""
    image = rng.random((9, 11)).astype(np.float32)
    psf = rng.random((2, 6)).astype(np.float32)
    for shape in ((2, 6), (6, 2), (3, 4), (4, 3)):
        turned = psf.reshape(shape)
        for engine in ("direct", "spectral"):
            blur = mf.Blur(turned, image.shape, boundary="zero", engine=engine, backend="cuda")
            expected = mf.Blur(turned, image.shape, boundary="zero", engine=engine, backend="reference")
            for _ in range(2):
                np.testing.assert_allclose(blur.forward(image), expected.forward(image), rtol=1e-5)
                np.testing.assert_allclose(blur.adjoint(image), expected.adjoint(image), rtol=1e-5)


def an_array(key, nbytes=1000):
    return _device.lasting(0, key, lambda memory: memory.empty((nbytes,), np.uint8, lasting=True))


def test_the_least_recently_asked_for_go_first(monkeypatch):
    monkeypatch.setattr(_device, "MOST_LASTING_BYTES", 3000)
    first = [an_array(name).pointer for name in "abc"]
    assert an_array("a").pointer == first[0]
    an_array("d")
    assert list(_device._lasting[0]) == ["c", "a", "d"] and _device.lasting_bytes(0) == 3000
    an_array("e", 2500)
    assert list(_device._lasting[0]) == ["e"]
    monkeypatch.setattr(_device, "MOST_LASTING", 2)
    for name in "fgh":
        an_array(name, 10)
    assert list(_device._lasting[0]) == ["g", "h"]


def test_large_ones_are_not_kept(monkeypatch, image):
    monkeypatch.setattr(_device, "MOST_LASTING_BYTES_EACH", 1000)
    an_array("small", 1000)
    assert an_array("large", 1001).nbytes == 1001
    assert list(_device._lasting[0]) == ["small"]
    first = mf.richardson_lucy(image, TAPS, 2, engine="spectral", backend="cuda")
    assert list(_device._lasting[0]) == ["small"]
    assert np.array_equal(mf.richardson_lucy(image, TAPS, 2, engine="spectral", backend="cuda"), first)


def test_what_is_given_back_is_what_nobody_uses(image):
    blur = mf.Blur(TAPS, image.shape, boundary="wrap", engine="spectral", backend="cuda")
    expected = blur.forward(image)
    mf.release_memory()
    assert _device.lasting_bytes(0) == 0 == cuda.describe()["cached_bytes"]
    an_array("another")  # where a transfer function that is in use does not lie
    assert np.array_equal(blur.forward(image), expected)


@pytest.mark.parametrize("streams", ["eager", "lazy"])
def test_threads_find_what_is_complete(image, streams, monkeypatch):
    """On streams of their own, none of which waits for another's."""
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
    psfs = [TAPS + i for i in range(4)]
    expected = [mf.richardson_lucy(image, p, 3, engine="spectral", backend="cuda") for p in psfs]
    mf.release_memory()
    interval = sys.getswitchinterval()
    results, start = {}, threading.Barrier(8)

    def run(thread):
        start.wait()
        for turn in range(8):
            number = (turn + thread // 2) % 4  # two threads ask for the same at once
            got = mf.richardson_lucy(image, psfs[number], 3, engine="spectral", backend="cuda")
            results[thread, turn] = np.array_equal(got, expected[number])
            if turn == 4 and thread == 0:
                mf.release_memory()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == 64 and all(results.values())
    assert len(_device._lasting[0]) <= 4


@pytest.mark.parametrize("name", RUNS)
def test_what_a_thread_has_made_is_complete_for_others(name, image, made, monkeypatch):
    """Though that thread waits for nothing else, and its stream has work only then."""
    image = image if RUNS[name].ndim == 2 else image.ravel()
    options = dict(boundary="wrap", engine=name.partition(",")[0], backend="cuda", dtype="float32")
    expected = mf.Blur(RUNS[name], image.shape, **options).forward(image)
    mf.release_memory()
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", "lazy")

    def make():
        mf.Blur(RUNS[name], image.shape, **options).operator(image.dtype).transfer.on(_device.own_memory())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made.clear()
    got = mf.Blur(RUNS[name], image.shape, **options).forward(image)
    assert made == ["upload"]  # the image
    assert np.array_equal(got, expected)


@on_emulator
def test_what_is_kept_is_no_reason_to_run_out(monkeypatch):
    free, total = _device.native().memory(0)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(total - free + 5000))
    for name in "abcd":
        an_array(name)
    memory = _device.own_memory()
    assert memory.empty((1000,), np.float32).nbytes == 4000  # the pool keeps it
    mf.release_memory()
    with pytest.raises(MemoryError, match="GPU memory: 1 MB more are needed"):
        memory.empty((5001,), np.uint8)


def test_devices_have_their_own(monkeypatch):
    if os.environ.get("MEDECONV_TEST_EMULATOR"):
        monkeypatch.setenv("MEDECONV_EMULATOR_DEVICES", "2")
    if _device.native().devices()["count"] < 2:
        pytest.skip("SKIPPED: needs two GPUs")
    for device in (0, 1):
        made = _device.lasting(device, "a", lambda memory: memory.empty((10,), np.uint8, lasting=True))
        assert made.memory.place.device == device
    assert _device.forget_lasting(1) and not _device.forget_lasting(1)
    assert (_device.lasting_bytes(0), _device.lasting_bytes(1)) == (10, 0)


def test_a_forked_process_finds_nothing(monkeypatch):
    an_array("a")
    monkeypatch.setattr(_device, "_forked", True)
    with _device._lasting_busy, pytest.raises(ImportError, match="forked"):
        an_array("a")
