"""compat.scipy.signal and compat.scipy.ndimage give scipy's numbers, on our kernels."""

import importlib.util
import itertools
import warnings

import numpy as np
import pytest

import medeconv_fast as mf

signal = pytest.importorskip("scipy.signal", reason="SKIPPED: scipy is not installed")
ndimage = pytest.importorskip("scipy.ndimage", reason="SKIPPED: scipy is not installed")
ours_signal, ours_ndimage = mf.compat.scipy.signal, mf.compat.scipy.ndimage

PAIRS = [
    ((17,), (5,)),
    ((5,), (17,)),
    ((8,), (8,)),
    ((1,), (6,)),
    ((300,), (64,)),
    ((9, 12), (4, 3)),
    ((4, 3), (9, 12)),
    ((9, 3), (4, 12)),
    ((1, 12), (5, 1)),
    ((60, 50), (21, 20)),
    ((6, 7, 8), (3, 2, 5)),
    ((2, 7, 4), (3, 8, 5)),
    ((20, 21, 22), (9, 8, 7)),
]
MODES = ["full", "same", "valid"]
EDGES = ["reflect", "mirror", "nearest", "wrap", "constant", "grid-mirror", "grid-wrap", "grid-constant"]


@pytest.fixture(autouse=True)
def counted():
    mf.compat.calls(reset=True)
    yield mf.compat.calls
    mf.compat.calls(reset=True)


@pytest.fixture
def agree(tol):
    """agree(name, arguments, options): ours and scipy's, result or error; True if there is a result."""

    def check(name, *arguments, scale=None, **options):
        module, _, function = name.partition(".")
        ours, theirs = (ours_signal, signal) if module == "signal" else (ours_ndimage, ndimage)
        before = mf.compat.calls().get(f"scipy.{name}", mf.compat.Calls(0, {}))
        try:
            expected = getattr(theirs, function)(*arguments, **options)
        except Exception as error:
            with pytest.raises(type(error)) as caught:
                getattr(ours, function)(*arguments, **options)
            assert str(caught.value) == str(error)
            return False
        got = getattr(ours, function)(*arguments, **options)
        after = mf.compat.calls()[f"scipy.{name}"]
        assert after == before._replace(own=before.own + 1), (name, options)
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        largest = max(float(np.abs(expected).max(initial=0)), scale or 0.0)
        # scipy's transforms keep each operand's precision: float32 beside float64 gives no exact float64.
        floats = [a.dtype for a in arguments if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        dtype = expected.dtype
        if function in ("convolve", "correlate", "fftconvolve", "oaconvolve") and module == "signal":
            dtype = min([dtype, *floats], key=lambda d: d.itemsize)
        bound = tol("compat", np.float32 if dtype.itemsize < 8 else np.float64) * largest
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound, err_msg=f"{name} {options}")
        return True

    return check


def pair(rng, shapes, dtype):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", ["convolve", "correlate"])
def test_convolve_and_correlate(rng, dtype, shapes, mode, function, agree):
    a, b = pair(rng, shapes, dtype)
    for method in ("auto", "direct", "fft"):
        agree(f"signal.{function}", a, b, mode, method)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", ["fftconvolve", "oaconvolve"])
def test_convolutions_along_axes(rng, dtype, shapes, mode, function, agree):
    a, b = pair(rng, shapes, dtype)
    ndim = a.ndim
    agree(f"signal.{function}", a, b, mode)
    for number in range(1, ndim + 1):
        for axes in itertools.combinations(range(-1, ndim - 1), number):
            # Along the other axes arrays are multiplied: equal lengths, or one of 1.
            others = [axis for axis in range(ndim) if axis not in [x % ndim for x in axes]]
            for length in (None, 1):
                shape = [
                    (a.shape[axis] if length is None else length) if axis in others else b.shape[axis]
                    for axis in range(ndim)
                ]
                agree(f"signal.{function}", a, rng.standard_normal(shape).astype(dtype), mode, axes=axes)
            agree(f"signal.{function}", a, b, mode, axes=axes[0] if number == 1 else list(axes))


@pytest.mark.parametrize("axes", [(), (3,), (0, 0), (0, -2), "x", 1.5, (0, 1.5), (None,)], ids=str)
def test_refused_axes(rng, axes, agree):
    a, b = pair(rng, [(4, 5), (2, 3)], np.float64)
    for function in ("fftconvolve", "oaconvolve"):
        assert not agree(f"signal.{function}", a, b, axes=axes)


@pytest.mark.parametrize("shapes", [p for p in PAIRS if len(p[0]) == 2], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boundary", ["fill", "pad", "wrap", "circular", "symm", "symmetric"])
@pytest.mark.parametrize("function", ["convolve2d", "correlate2d"])
def test_in_the_plane(rng, dtype, shapes, mode, boundary, function, agree):
    a, b = pair(rng, shapes, dtype)
    for fill in (0, 2.5, np.float32(-1)):
        agree(f"signal.{function}", a, b, mode, boundary, fill)


def test_whole_numbers_stay_exact(rng):
    """As where scipy sums; where it transforms, ours may be the more exact."""
    for shapes in (((30, 31), (5, 5)), ((200,), (12,)), ((9, 9, 9), (3, 3, 3))):
        a, b = (rng.integers(-9, 10, shape) for shape in shapes)
        for function in ("convolve", "correlate"):
            for theirs, ours in ((signal, ours_signal), (ndimage, ours_ndimage)):
                expected = getattr(theirs, function)(a, b)
                np.testing.assert_array_equal(getattr(ours, function)(a * 1.0, b * 1.0), expected)


MIXED = ["float32", "float64", "int64", "int8", "uint16", "bool", "float16", ">f4", ">f8"]


@pytest.mark.parametrize("first", ["float32", "float64", ">f4"])
@pytest.mark.parametrize("second", MIXED)
def test_dtypes_of_two_operands(rng, first, second, agree):
    """Whatever is real computes here as soon as one operand is of float32 or float64."""
    a, b = (rng.random((9, 8)) * 5).astype(first), (rng.random((3, 4)) * 5).astype(second)
    for function in ("convolve", "correlate", "fftconvolve", "oaconvolve", "convolve2d", "correlate2d"):
        agree(f"signal.{function}", a, b)
        agree(f"signal.{function}", b, a)


def test_lists_and_numbers(agree):
    assert agree("signal.convolve", [1.0, 2, 3], [1, 1])
    assert agree("signal.fftconvolve", np.arange(4.0), [1, 2])
    assert agree("ndimage.convolve1d", [1.0, 2, 3], [1, 1])
    assert agree("ndimage.gaussian_filter", [[1.0, 2], [3, 4]], 1)


def fortran(array):
    return np.asfortranarray(array)[::2, ::-1]


def test_layouts_and_inputs_left_alone(rng, agree):
    a, b = pair(rng, [(20, 21), (6, 5)], np.float64)
    kept = a.copy(), b.copy()
    a.flags.writeable = b.flags.writeable = False
    for name in ("signal.convolve", "signal.correlate2d", "signal.oaconvolve", "ndimage.correlate"):
        assert agree(name, fortran(a), fortran(b))
    assert agree("ndimage.gaussian_filter", fortran(a), 1.5)
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


NDIMAGE_SHAPES = [(1,), (14,), (90,), (7, 9), (2, 13), (5, 6, 7), (1, 4, 9)]


@pytest.mark.parametrize("shape", NDIMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("mode", EDGES)
@pytest.mark.parametrize("cval", [0.0, 3.5])
def test_filters_of_all_axes(rng, dtype, shape, mode, cval, agree):
    ndim = len(shape)
    a = rng.standard_normal(shape).astype(dtype)
    for sizes in ((3,) * ndim, (4, 1, 5)[:ndim], (2, 6, 3)[:ndim], (17, 3, 2)[:ndim]):
        if mode in ("reflect", "grid-mirror") and any(
            k > 4 * n > 4 for n, k in zip(shape, sizes, strict=True)
        ):
            continue  # scipy 1.17 reads beyond its array there: other numbers at each call
        w = rng.standard_normal(sizes)
        for function in ("convolve", "correlate"):
            agree(f"ndimage.{function}", a, w, mode=mode, cval=cval, scale=5.0)
            origin = [int(rng.integers(-(k // 2) - 1, (k - 1) // 2 + 2)) for k in sizes]  # some are refused
            agree(f"ndimage.{function}", a, w, mode=mode, cval=cval, origin=origin, scale=5.0)


@pytest.mark.parametrize("shape", NDIMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("mode", EDGES)
@pytest.mark.parametrize("cval", [0.0, 3.5])
def test_filters_of_one_axis(rng, dtype, shape, mode, cval, agree):
    a = rng.standard_normal(shape).astype(dtype)
    for axis in range(-len(shape), len(shape)):
        options = {"mode": mode, "cval": cval, "scale": 4.0}
        w = rng.standard_normal(int(rng.integers(1, 9)))
        origin = int(rng.integers(-(len(w) // 2), (len(w) - 1) // 2 + 1))
        for function in ("convolve1d", "correlate1d"):
            agree(f"ndimage.{function}", a, w, axis, **options)
            agree(f"ndimage.{function}", a, w, axis, origin=origin, **options)
        sigma = float(rng.uniform(0.3, 4))
        for order in range(4):
            agree("ndimage.gaussian_filter1d", a, sigma, axis, order, **options)
        agree("ndimage.gaussian_filter1d", a, sigma, axis, truncate=2.5, **options)
        agree("ndimage.gaussian_filter1d", a, sigma, axis, radius=3, **options)
        for size in (1, 2, 5, 12):
            agree("ndimage.uniform_filter1d", a, size, axis, **options)
            agree("ndimage.uniform_filter1d", a, size, axis, origin=int(size > 4), **options)


@pytest.mark.parametrize("shape", NDIMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("cval", [0.0, 3.5])
def test_smoothing_of_several_axes(rng, dtype, shape, cval, agree):
    ndim = len(shape)
    a = rng.standard_normal(shape).astype(dtype)
    options = {"cval": cval, "scale": 4.0}
    for mode in [*EDGES, EDGES[:ndim], ("constant", "wrap", "constant")[:ndim]]:
        agree("ndimage.gaussian_filter", a, 1.3, mode=mode, **options)
        agree("ndimage.gaussian_filter", a, [0.7, 2.0, 1.1][:ndim], [0, 1, 2][:ndim], mode=mode, **options)
        agree("ndimage.gaussian_filter", a, [0, 1, 0][:ndim], mode=mode, radius=[2, 3, 4][:ndim], **options)
        agree("ndimage.uniform_filter", a, mode=mode, **options)
        agree("ndimage.uniform_filter", a, [2, 5, 1][:ndim], mode=mode, origin=[-1, 2, 0][:ndim], **options)
    for axes in itertools.chain.from_iterable(
        itertools.permutations(range(-1, ndim - 1), n) for n in range(ndim + 1)
    ):
        w = rng.standard_normal((3,) * len(axes))
        agree("ndimage.gaussian_filter", a, 1.3, axes=axes, **options)
        agree("ndimage.uniform_filter", a, 4, axes=axes, **options)
        if axes and sorted(x % ndim for x in axes) == [x % ndim for x in axes]:
            agree("ndimage.convolve", a, w, axes=axes, **options)
            agree("ndimage.correlate", a, w, axes=axes, origin=1, **options)


@pytest.mark.parametrize("shape", [(40,), (24, 25), (10, 12, 14)], ids=str)
def test_derivatives_of_all_axes(rng, dtype, shape, agree):
    """Products of filters whose taps sum to rounding."""
    a = rng.standard_normal(shape).astype(dtype)
    t = np.arange(-4, 5)
    smooth = np.exp(-(t**2) / 4.2)
    for axis in range(len(shape)):
        w = np.ones(())
        for b in range(len(shape)):
            w = np.multiply.outer(w, -t * smooth if b == axis else smooth)
        agree("ndimage.convolve", a, w)
        agree("ndimage.correlate", a, w, mode="constant")
        agree("signal.convolve", a, w.astype(dtype), "same")
        if len(shape) == 2:
            agree("signal.correlate2d", a, w.astype(dtype), "full", "symm")


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_sigma_is_squared_in_its_own_dtype(rng, order, agree):
    a = rng.standard_normal((12, 13))
    for kind in ("float16", "float32", "int8", "int64"):
        agree("ndimage.gaussian_filter1d", a, np.dtype(kind).type(1.3), order=order)
        agree("ndimage.gaussian_filter", a, np.array([1.3, 2.7]).astype(kind), order)


@pytest.mark.parametrize("sigma", [np.int8(12), np.int8(20), np.uint8(16), np.uint8(20), np.uint16(3)])
def test_a_square_that_leaves_the_integers_is_scipys(rng, sigma, counted):
    a = rng.standard_normal((12, 13))
    with np.errstate(all="ignore"):
        for order in (0, 1):
            expected = ndimage.gaussian_filter1d(a, sigma, order=order)
            np.testing.assert_array_equal(ours_ndimage.gaussian_filter1d(a, sigma, order=order), expected)
    assert counted()["scipy.ndimage.gaussian_filter1d"].delegated == {"arguments": 2}


def test_truncate_is_read_beside_a_radius():
    for where in (ours_ndimage, ndimage):
        with pytest.raises(ValueError, match="cannot convert float NaN to integer"):
            where.gaussian_filter1d(np.ones(5), 1.0, truncate=np.nan, radius=2)


ONCE = {
    "sigma": ("ndimage.gaussian_filter", lambda: {"sigma": map(float, [1, 2]), "cval": np.array(0.0)}),
    "axes": ("ndimage.gaussian_filter", lambda: {"sigma": 1.0, "axes": iter([0, 1])}),
    "size": ("ndimage.uniform_filter", lambda: {"size": iter([3, 5])}),
    "origin": ("ndimage.convolve", lambda: {"weights": np.eye(2), "origin": iter([-1, 0])}),
    "axes of a transform": ("signal.fftconvolve", lambda: {"in2": np.ones((2, 2)), "axes": iter([0, 1])}),
}


@pytest.mark.parametrize("case", ONCE)
def test_what_can_be_read_only_once_is_scipys(case, counted):
    """What we had read would be missing in a call that is handed back, as one with NaN may be."""
    name, options = ONCE[case]
    module, _, function = name.partition(".")
    ours, theirs = (ours_signal, signal) if module == "signal" else (ours_ndimage, ndimage)
    a = np.where(np.eye(6, 7) > 0, np.nan, 1.0)
    got = getattr(ours, function)(a, **options())
    np.testing.assert_array_equal(got, getattr(theirs, function)(a, **options()))
    assert counted()[f"scipy.{name}"].delegated == {"arguments": 1}


@pytest.mark.parametrize("mode", EDGES)
@pytest.mark.parametrize("cval", [0.0, 3.5])
def test_filters_that_reach_far_beyond_the_array(rng, dtype, mode, cval, agree):
    """What they meet there repeats: neither time nor memory follows the reach."""
    a = rng.standard_normal((5, 1, 8)).astype(dtype)
    options = {"mode": mode, "cval": cval, "scale": 4.0}
    agree("ndimage.gaussian_filter", a, 2e3, **options)
    agree("ndimage.gaussian_filter", a, 6.0, [0, 2, 1], **options)
    agree("ndimage.uniform_filter", a, [3001, 2000, 4001], origin=[-1400, 900, 2000], **options)
    w = rng.standard_normal(70) / 8
    for axis, origin in itertools.product(range(3), (-35, 0, 30)):
        agree("ndimage.correlate1d", a, w, axis, origin=origin, **options)
    agree("ndimage.gaussian_filter1d", a, 2e4, 2, **options)


@pytest.mark.parametrize("size", [1e-20, 1e-16, 1e-8, 1e-5])
def test_filters_that_scipy_takes_for_symmetric(rng, size):
    a, w = rng.standard_normal((12, 9)), rng.standard_normal(7) * size
    for name in ("correlate1d", "convolve1d"):
        expected = getattr(ndimage, name)(a, w)
        got = getattr(ours_ndimage, name)(a, w)
        np.testing.assert_allclose(got, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("given", ["float32", "float64"])
@pytest.mark.parametrize("output", ["float32", "float64", np.float32, np.dtype(">f8"), "f8"])
def test_output_dtypes(rng, given, output, agree):
    a = rng.random((9, 10)).astype(given)
    for name, argument in [
        ("gaussian_filter", 1.2),
        ("uniform_filter", 3),
        ("convolve", np.ones((3, 3))),
        ("correlate1d", [1, 2, 3]),
    ]:
        agree(f"ndimage.{name}", a, argument, output=output)


def test_a_wide_output_is_computed_wide(rng):
    """float32 in, float64 out: scipy sums in float64, so do we."""
    a = rng.random((30, 30)).astype(np.float32)
    got = ours_ndimage.gaussian_filter(a, 2, output=np.float64)
    np.testing.assert_allclose(got, ndimage.gaussian_filter(a, 2, output=np.float64), rtol=1e-13)


@pytest.mark.parametrize("name", ["gaussian_filter", "uniform_filter", "convolve", "correlate1d"])
def test_output_arrays(rng, name):
    """Given ones are written to and returned, strided and the input itself included."""
    argument = {"convolve": np.ones((3, 3)), "correlate1d": [1, 2, 3.5]}.get(name, 2)
    a = rng.random((9, 10))
    expected = getattr(ndimage, name)(a, argument)
    for out in (np.empty((9, 10)), np.empty((9, 20))[:, ::2], np.empty((10, 9)).T, a):
        assert getattr(ours_ndimage, name)(a, argument, output=out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-12)
    nothing = getattr(ours_ndimage, name)(out, 0 if name == "gaussian_filter" else argument)
    assert not np.shares_memory(nothing, out)


REFUSED = [
    ("signal.convolve", (np.ones(3), np.ones((3, 3))), {}),
    ("signal.convolve", (np.ones(3), np.ones(3)), {"mode": "all"}),
    ("signal.convolve", (np.ones(3), np.ones(3)), {"mode": None}),
    ("signal.convolve", (np.ones(3), np.ones(3)), {"method": "magic"}),
    ("signal.correlate", (np.ones((3, 4)), np.ones((4, 3))), {"mode": "valid"}),
    ("signal.fftconvolve", (np.ones((3, 4)), np.ones((4, 3))), {"axes": 0}),
    ("signal.convolve2d", (np.ones(3), np.ones(3)), {}),
    ("signal.convolve2d", (np.ones((3, 3)), np.ones((3, 3))), {"boundary": "mirror"}),
    ("signal.convolve2d", (np.ones((3, 3)), np.ones((3, 3))), {"fillvalue": [1, 2]}),
    ("signal.convolve2d", (np.ones((3, 3)), np.ones((3, 3))), {"fillvalue": 10**400}),
    ("ndimage.convolve", (np.ones((3, 3)), np.ones(3)), {}),
    ("ndimage.convolve", (np.ones(3), np.ones(3)), {"mode": "around"}),
    ("ndimage.convolve", (np.ones(3), np.ones(3)), {"mode": ["wrap"]}),
    ("ndimage.convolve", (np.ones(3), np.ones(3)), {"origin": 2}),
    ("ndimage.convolve", (np.ones(3), np.ones(3)), {"output": np.ones(4)}),
    ("ndimage.convolve", (np.ones(3), np.ones(3)), {"axes": (1,)}),
    ("ndimage.correlate", (np.ones((3, 3)), np.ones(3)), {"axes": -1}),
    ("ndimage.correlate", (np.ones(3), np.ones(3)), {"origin": True}),
    ("ndimage.correlate1d", (np.ones(3), np.ones((3, 3))), {}),
    ("ndimage.correlate1d", (np.ones(3), np.ones(3)), {"axis": 1}),
    ("ndimage.correlate1d", (np.ones(3), np.ones(3)), {"axis": 0.5}),
    ("ndimage.convolve1d", (np.ones(3), []), {}),
    ("ndimage.gaussian_filter1d", (np.ones(3), -1), {}),
    ("ndimage.gaussian_filter1d", (np.ones(3), 1), {"order": -1}),
    ("ndimage.gaussian_filter1d", (np.ones(3), 1), {"order": True}),
    ("ndimage.gaussian_filter1d", (np.ones(3), 1), {"radius": 1.5}),
    ("ndimage.gaussian_filter", (np.ones((3, 3)), [1, 2, 3]), {}),
    ("ndimage.gaussian_filter", (np.ones((3, 3)), 1), {"axes": (0, 0)}),
    ("ndimage.uniform_filter1d", (np.ones(3), 0), {}),
    ("ndimage.uniform_filter1d", (np.ones(3), 3), {"origin": 2}),
    ("ndimage.uniform_filter", (np.ones((3, 3)), 3), {"origin": (5, 0)}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), REFUSED, ids=range(len(REFUSED)))
def test_errors_are_scipys(name, arguments, options, agree, counted):
    assert not agree(name, *arguments, **options)
    assert counted()[f"scipy.{name}"].delegated == {"arguments": 1}


def test_a_fill_value_that_scipy_does_not_look_at():
    options = {"boundary": "symm", "fillvalue": 10**400}
    for where in (ours_signal, signal):
        np.testing.assert_array_equal(where.convolve2d(np.ones((3, 3)), np.ones((3, 3)), **options), 9)


ONES, THREE = np.ones((5, 5)), np.ones((3, 3))
NAN = np.where(np.eye(5) > 0, np.nan, 1.0)
HANDED_BACK = [
    ("complex", "signal.convolve", (ONES * 1j, THREE)),
    ("complex", "signal.correlate2d", (ONES, THREE * 1j)),
    ("complex", "ndimage.gaussian_filter", (ONES * 1j, 1)),
    ("complex", "ndimage.convolve", (ONES, THREE * 1j)),
    ("object", "signal.convolve", (ONES.astype(object), THREE)),
    ("longdouble", "signal.fftconvolve", (ONES.astype(np.longdouble), THREE)),
    ("longdouble", "ndimage.uniform_filter", (ONES.astype(np.longdouble), 3)),
    ("float16", "signal.convolve", (ONES.astype(np.float16), THREE.astype(np.float16))),
    ("float16", "ndimage.gaussian_filter", (ONES.astype(np.float16), 1)),
    ("integer", "signal.convolve", (ONES.astype(int), THREE.astype(int))),
    ("integer", "signal.convolve2d", (ONES.astype(bool), THREE.astype(int))),
    ("integer", "ndimage.gaussian_filter", (ONES.astype(np.uint8), 1)),
    ("dimensions", "signal.convolve", (2.0, 3.0)),
    ("dimensions", "signal.oaconvolve", (np.ones((2, 3, 2, 3)), np.ones((1, 2, 1, 2)))),
    ("dimensions", "ndimage.gaussian_filter", (np.ones((2, 3, 2, 3)), 1)),
    ("empty", "signal.fftconvolve", (np.ones(0), np.ones(3))),
    ("empty", "ndimage.gaussian_filter", (np.ones((0, 3)), 1)),
    ("array kind", "signal.convolve", (np.ma.masked_array(ONES, ONES > 2), THREE)),
    ("array kind", "ndimage.uniform_filter", (ONES.view(type("Kind", (np.ndarray,), {})), 3)),
    ("not finite", "signal.fftconvolve", (NAN, THREE)),
    ("not finite", "signal.convolve", (ONES, NAN)),
    ("not finite", "signal.correlate", (NAN[1:4, :3], ONES, "full", "direct")),
    ("not finite", "ndimage.uniform_filter", (NAN, 3)),
    ("not finite", "ndimage.convolve", (NAN, np.eye(3))),
    ("not finite", "ndimage.gaussian_filter", (NAN, 9)),
    ("not finite", "ndimage.gaussian_filter1d", (NAN, 9, 0, 1, None, "constant", 2.0)),
    ("output dtype", "ndimage.gaussian_filter", (ONES, 1, 0, np.uint8)),
]


@pytest.mark.parametrize(
    ("reason", "name", "arguments"), HANDED_BACK, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_is_handed_back_is_scipys(reason, name, arguments, counted):
    module, _, function = name.partition(".")
    ours, theirs = (ours_signal, signal) if module == "signal" else (ours_ndimage, ndimage)

    def outcome(where):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return getattr(where, function)(*arguments)
            except Exception as error:
                return type(error), str(error)

    got, expected = outcome(ours), outcome(theirs)
    if isinstance(expected, tuple):
        assert got == expected
    else:
        assert type(got) is type(expected)
        np.testing.assert_array_equal(got, expected)
    assert counted()[f"scipy.{name}"] == mf.compat.Calls(0, {reason: 1})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(19,), (12, 13), (7, 8, 9)], ids=str)
def test_what_is_not_finite_stays_where_it_is(rng, dtype, bad, shape, tol):
    """Where scipy sums, NaN and Inf reach as far as the weights do; so they do here."""
    a = rng.random(shape).astype(dtype)
    a[tuple(n // 2 for n in shape)] = bad
    w = (rng.random((4, 3, 5)[: len(shape)]) + 0.1).astype(dtype)
    cases = [("convolve", signal, ours_signal, (a, w, mode, "direct"), {}) for mode in MODES]
    cases += [("correlate", signal, ours_signal, (a, w, "same"), {})]
    for mode, cval in itertools.product(EDGES, (0.0, bad)):
        edge = {"mode": mode, "cval": cval}
        cases.append(("correlate", ndimage, ours_ndimage, (a, w), edge))
        cases.append(("gaussian_filter", ndimage, ours_ndimage, (a, 0.8), edge))
        cases.append(("gaussian_filter1d", ndimage, ours_ndimage, (a, 0.8, 0), edge))
    for name, theirs, ours, arguments, options in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            expected = getattr(theirs, name)(*arguments, **options)
            got = getattr(ours, name)(*arguments, **options)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected), err_msg=f"{name} {options}")
        np.testing.assert_allclose(got, expected, rtol=tol("compat", dtype), err_msg=f"{name} {options}")


@pytest.mark.parametrize(
    ("name", "value", "argument", "options"),
    [
        ("correlate", 1, [0, 1, 0], {"mode": "constant", "cval": 1e300}),
        ("correlate", 1, [1, 0, 1], {"mode": "constant", "cval": 1e-300}),
        ("correlate1d", 1, [0, 1, 0], {"mode": "constant", "cval": -1e300}),
        ("correlate1d", 1e30, [1e-50, 3e-50, 1e-50], {}),
        ("convolve1d", 1e-30, [1e50, 1, 0], {}),
        ("correlate", 3e38, [1, 1, -1], {}),
        ("convolve", 3e38, [-1, 1, 1], {"mode": "wrap"}),
        ("gaussian_filter", -3e38, 1.5, {}),
        ("gaussian_filter1d", 3e38, 1.5, {"mode": "constant", "cval": 1.0}),
        ("uniform_filter", 3.4e38, 3, {}),
        ("uniform_filter1d", 1e38, 3, {"mode": "constant", "cval": 3e38}),
        ("correlate1d", 3e38, [1, 1, 1], {}),  # beyond float32 for scipy, too
    ],
)
def test_float32_at_the_ends_of_its_range(name, value, argument, options):
    """scipy sums in float64: only the result must be a float32."""
    a = np.full(5, value, np.float32)
    with np.errstate(over="ignore"):
        expected = getattr(ndimage, name)(a, argument, **options)
    got = getattr(ours_ndimage, name)(a, argument, **options)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("cval", [0.0, 0.5])
def test_transforms_of_float32_leave_the_background_alone(rng, cval):
    """scipy sums there: the error beside a bright voxel is the background's, not that voxel's."""
    a, w = np.ones((64, 64), np.float32), rng.random((25, 25))
    a[32, 32] = 1e7
    options = {"mode": "constant" if cval else "reflect", "cval": cval}
    for name in ("correlate", "convolve"):
        expected = getattr(ndimage, name)(a, w, **options)
        np.testing.assert_allclose(getattr(ours_ndimage, name)(a, w, **options), expected, rtol=1e-6)


def test_smoothing_keeps_zeros_and_signs(rng):
    """Filters of one axis are sums, never transforms: no ringing around a single bright voxel."""
    a = np.zeros((64, 64, 64), np.float32)
    a[32, 32, 32] = 1e6
    got = ours_ndimage.gaussian_filter(a, 2.0)
    assert got.min() == 0
    np.testing.assert_array_equal(got == 0, ndimage.gaussian_filter(a, 2.0) == 0)


def test_random_calls(rng, agree, counted):
    """Shapes and options at random; everything real in one to three dimensions is computed here."""
    number = 0
    for _ in range(150):
        ndim = int(rng.integers(1, 4))
        dtypes = rng.choice(["float32", "float64"], 2)
        a, b = (rng.standard_normal(rng.integers(1, 16, ndim)).astype(d) for d in dtypes)
        mode, edge, cval = rng.choice(MODES), str(rng.choice(EDGES)), float(rng.choice([0.0, -1.5]))
        number += agree("signal.convolve", a, b, str(mode), str(rng.choice(["auto", "direct", "fft"])))
        number += agree("signal.oaconvolve", a, b, str(mode))
        number += agree("ndimage.correlate", a, b, mode=edge, cval=cval, scale=9.0)
        sigma, order = rng.uniform(0.2, 3, ndim), [int(o) for o in rng.integers(0, 3, ndim)]
        number += agree("ndimage.gaussian_filter", a, sigma, order, mode=edge, cval=cval, scale=4.0)
    assert sum(c.own for c in counted().values()) == number


@pytest.mark.parametrize("function", ["fftconvolve", "oaconvolve"])
@pytest.mark.parametrize("lengths", [(40, 8), (8, 40), (300, 200)], ids=str)
def test_many_pairs(rng, dtype, function, lengths, agree):
    """Multiplied along an axis, convolved along others: one plan serves all pairs."""
    for mode in MODES:
        a, b = (rng.standard_normal((30, n)).astype(dtype) for n in lengths)
        agree(f"signal.{function}", a, b, mode, axes=1)
        agree(f"signal.{function}", a.T, b.T, mode, axes=0)
        a, b = (rng.standard_normal((n // 4, 5, n)).astype(dtype) for n in lengths)
        agree(f"signal.{function}", a, b, mode, axes=(0, 2), scale=100.0)


@pytest.fixture
def on(backend):
    mf.use_backend(backend)
    yield
    mf.use_backend("auto")


def test_every_backend(rng, dtype, on, agree):
    a, b = pair(rng, [(14, 15), (4, 5)], dtype)
    for name in ("convolve", "fftconvolve", "correlate2d"):
        agree(f"signal.{name}", a, b, "same")
    agree("signal.fftconvolve", a, b[:1].repeat(14, 0), "full", axes=1)
    for mode in EDGES:
        agree("ndimage.convolve", a, b, mode=mode, cval=1.0, scale=5.0)
        agree("ndimage.gaussian_filter", a, 1.3, mode=mode, cval=1.0, scale=5.0)
    agree("ndimage.uniform_filter", a, 5, scale=1.0)


def test_what_is_not_finite_stays_where_it_is_on_every_backend(rng, dtype, on):
    a = rng.random((12, 13)).astype(dtype)
    a[5, 6] = np.nan
    for mode, name in itertools.product(EDGES, ("gaussian_filter", "gaussian_filter1d")):
        expected = getattr(ndimage, name)(a, 0.8, mode=mode)
        np.testing.assert_array_equal(
            np.isnan(getattr(ours_ndimage, name)(a, 0.8, mode=mode)), np.isnan(expected)
        )


CLASSES = "TestConvolve or TestFFTConvolve or TestOAConvolve or TestAllFreqConvolves or TestCorrelate"
# 2 GB of uint8, which is scipy's in any case.
SIGNALTOOLS = [
    "--pyargs",
    "scipy.signal.tests.test_signaltools",
    "-k",
    f"({CLASSES}) and not test_large_array",
]
OWN_IN_ANY_SAMPLE = {
    "scipy.signal.convolve": 100,
    "scipy.signal.fftconvolve": 100,
    "scipy.signal.oaconvolve": 100,
    "scipy.signal.convolve2d": 7,
    "scipy.signal.correlate": 60,
    "scipy.signal.correlate2d": 6,
}
LISTED = {"complex", "object", "longdouble", "float16", "integer", "dimensions", "empty", "array kind"}
LISTED |= {"not finite", "arguments"}


def need(*modules):
    """Skip where one is not installed. Importing them here would need scipy's marks."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"SKIPPED: {module} is not installed")


def check_counts(counts, least):
    for name, number in least.items():
        own, delegated = counts[name]
        assert own >= number, name
        assert set(delegated) <= LISTED, name


def test_scipys_own_tests_of_convolution(run_patched):
    """test_signaltools' classes of convolution and correlation; of its longest tables one case in 16."""
    need("scipy.signal.tests.test_signaltools")
    check_counts(run_patched("scipy", *SIGNALTOOLS, MEDECONV_SAMPLE="16"), OWN_IN_ANY_SAMPLE)


@pytest.mark.peers
def test_scipys_own_tests_of_convolution_in_full(run_patched):
    need("scipy.signal.tests.test_signaltools")
    check_counts(
        run_patched("scipy", *SIGNALTOOLS),
        OWN_IN_ANY_SAMPLE | {"scipy.signal.fftconvolve": 10_000, "scipy.signal.oaconvolve": 10_000},
    )


def test_scipys_own_tests_of_filters(run_patched):
    need("scipy.ndimage.tests.test_filters", "hypothesis")
    counts = run_patched(
        "scipy", "--pyargs", "scipy.ndimage.tests.test_filters", "-k", "NdimageFilters", MEDECONV_SAMPLE="4"
    )
    for name in ("convolve", "correlate", "convolve1d", "correlate1d", "gaussian_filter", "uniform_filter"):
        own, delegated = counts[f"scipy.ndimage.{name}"]
        assert own >= (10 if name == "uniform_filter" else 50), name
        assert set(delegated) <= LISTED | {"output dtype"}


@pytest.mark.parametrize(
    "dtype, spot", [("float64", 1e20), ("float64", 1e308), ("float32", 1e6), ("float32", 3e38)]
)
@pytest.mark.parametrize(
    "name", ["ndimage.convolve", "ndimage.correlate", "signal.convolve2d", "signal.correlate2d"]
)
def test_a_voxel_of_a_fill_value_does_not_hide_the_others(name, dtype, spot):
    module, function = name.split(".")
    x, w = np.ones((64, 70), dtype), np.random.default_rng(0).random((25, 25)).astype("float32") + 1
    x[3, 3] = spot
    own, peer = (
        getattr(importlib.import_module(f"{package}{module}"), function)
        for package in ("medeconv_fast.compat.scipy.", "scipy.")
    )
    options = {} if module == "ndimage" else {"mode": "same"}
    with np.errstate(over="ignore", invalid="ignore"):
        expected = peer(x, w, **options)
        found = own(x, w, **options)
    far = np.s_[30:, 30:]
    assert found.dtype == expected.dtype
    assert np.allclose(found[far], expected[far], rtol=1e-5 if dtype == "float32" else 1e-12, atol=0)
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
