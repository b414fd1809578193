"""Bad input: each its own clear error, that names the argument, what came and what was expected."""

import numpy as np
import pytest

import medeconv_fast as mf

IMAGE = np.ones((6, 7))
PSF = np.ones((3, 3))


def with_value(value, at=(2, 3), shape=(6, 7), dtype=float):
    array = np.ones(shape, dtype)
    array[at] = value
    return array


CALLS = {
    "richardson_lucy": lambda image, psf, **options: mf.richardson_lucy(image, psf, 2, **options),
    "wiener": lambda image, psf, **options: mf.wiener(image, psf, 0.1, **options),
    "restore": lambda image, psf, **options: mf.restore(image, psf, method="rl", num_iter=2, **options),
}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


# Images


def test_image_nan(call):
    with pytest.raises(
        ValueError, match=r"image: 1 of 42 values are not finite \(1 NaN, 0 infinite\).*\(y, x\) = \(2, 3\)"
    ):
        call(with_value(np.nan), PSF)


def test_image_inf(call):
    image = with_value(-np.inf)
    image[5, 6] = np.inf
    image[4, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"image: 3 of 42 values are not finite \(1 NaN, 2 infinite\).*= \(2, 3\)"
    ):
        call(image, PSF)


def test_volume_nan_names_three_axes(call):
    with pytest.raises(ValueError, match=r"\(z, y, x\) = \(1, 0, 2\)"):
        call(with_value(np.nan, (1, 0, 2), (3, 4, 5)), np.ones((3, 3, 3)))


def test_float16_inf(call):
    with pytest.raises(ValueError, match="image: 1 of 42 values are not finite"):
        call(with_value(np.inf, dtype=np.float16), PSF)


def test_image_complex(call):
    with pytest.raises(TypeError, match=r"image: got complex values \(complex128\), expected real numbers"):
        call(IMAGE.astype(complex), PSF)


def test_image_object(call):
    with pytest.raises(TypeError, match="image: got dtype object, expected real numbers"):
        call(IMAGE.astype(object), PSF)


def test_image_array_of_strings(call):
    with pytest.raises(TypeError, match="image: got dtype <U1"):
        call(np.array([["a", "b"]]), PSF)


def test_image_path(call):
    with pytest.raises(
        TypeError, match=r"image: got 'scan.nii', expected an array \(read a file with mf.io.read\)"
    ):
        call("scan.nii", PSF)


def test_image_none(call):
    with pytest.raises(TypeError, match="image: got dtype object"):
        call(None, PSF)


def test_image_longdouble(call):
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("longdouble is float64 on this platform")
    with pytest.raises(
        TypeError, match=r"image: got (float|longdouble)\d*, expected.*convert with .astype\('float64'\)"
    ):
        call(IMAGE.astype(np.longdouble), PSF)


def test_image_datetime(call):
    with pytest.raises(TypeError, match="image: got dtype datetime64"):
        call(np.zeros((4, 4), "datetime64[s]"), PSF)


def test_image_masked(call):
    with pytest.raises(TypeError, match=r"image: got a masked array.*weights=~mask"):
        call(np.ma.masked_less(IMAGE, 0.5), PSF)


def test_image_ragged(call):
    with pytest.raises(TypeError, match="image: cannot be read as an array"):
        call([[1, 2], [3]], PSF)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (mf.richardson_lucy, "initial"),
        (mf.richardson_lucy, "damping"),
        (mf.richardson_lucy, "readout_variance"),
        (mf.richardson_lucy, "background"),
        (mf.richardson_lucy, "voxel_size"),
        (mf.tikhonov, "prior"),
        (mf.tikhonov, "regularizer"),
        (mf.wiener, "noise_to_signal"),
    ],
)
def test_ragged_options(function, name):
    with pytest.raises(TypeError, match=f"^{name}: "):
        function(IMAGE, PSF, **{name: [[1, 2], [3]]})


@pytest.mark.parametrize("name", ["fwhm", "voxel_size", "shape"])
def test_ragged_lengths_of_a_psf(name):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        mf.psf.gaussian(**{"fwhm": 2.0, "voxel_size": (1.0, 1.0), name: [[1, 2], [3]]})


@pytest.mark.peers
def test_torch_tensors_that_numpy_cannot_read():
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(9, 9, requires_grad=True), torch.ones(9, 9, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match="psf: cannot be read as an array"):
            mf.psf.fwhm(tensor)
        with pytest.raises(TypeError, match="image: cannot be read as an array"):
            mf.metrics.psnr(np.ones((9, 9)), tensor)
        with pytest.raises(TypeError, match="image: cannot be read as an array"):
            mf.psf.from_beads(tensor, (3, 3))


def test_image_empty(call):
    with pytest.raises(
        ValueError, match=r"image: got an empty array of shape \(0, 5\), expected at least one voxel"
    ):
        call(np.ones((0, 5)), PSF)


def test_image_scalar(call):
    with pytest.raises(ValueError, match=r"image: got 0 axes.*expected 1 to 3"):
        call(3.0, PSF)


def test_image_four_axes(call):
    with pytest.raises(
        ValueError, match=r"image: got 4 axes \(shape \(2, 2, 2, 2\)\), expected 1 to 3.*channels and time"
    ):
        call(np.ones((2, 2, 2, 2)), np.ones((1, 1, 1, 1)))


# PSFs


def test_psf_rank(call):
    with pytest.raises(
        ValueError, match=r"psf: got 3 axes \(shape \(3, 3, 3\)\), expected 2, as many as the image has"
    ):
        call(IMAGE, np.ones((3, 3, 3)))


def test_psf_nan(call):
    with pytest.raises(ValueError, match=r"psf: 1 of 9 values are not finite.*\(1, 2\)"):
        call(IMAGE, with_value(np.nan, (1, 2), (3, 3)))


def test_psf_empty(call):
    with pytest.raises(ValueError, match=r"psf: got an empty array of shape \(3, 0\)"):
        call(IMAGE, np.ones((3, 0)))


def test_psf_zeros(call):
    with pytest.raises(ValueError, match="psf: all 9 values are zero, expected a positive sum"):
        call(IMAGE, np.zeros((3, 3)))


def test_psf_zero_sum(call):
    with pytest.raises(ValueError, match=r"psf: the values cancel to a sum of .*expected a positive sum"):
        call(IMAGE, np.array([[1.0, -1.0]]))


def test_psf_sum_that_is_only_rounding(call):
    with pytest.raises(ValueError, match="psf: the values cancel"):
        call(IMAGE, np.array([[0.1, 0.2, -0.3]]))


def test_psf_sum_that_overflows(call):
    with pytest.raises(ValueError, match="psf: its sum leaves float64"):
        call(IMAGE, np.full((3, 3), 1e308))


def test_psf_negative_sum(call):
    with pytest.raises(ValueError, match="psf: got a sum of -9, expected a positive sum"):
        call(IMAGE, -PSF)


def test_psf_zero_sum_is_refused_without_normalisation(call):
    with pytest.raises(ValueError, match="psf: all 9 values are zero"):
        call(IMAGE, np.zeros((3, 3)), normalize_psf=False)


def test_psf_complex(call):
    with pytest.raises(TypeError, match="psf: got complex"):
        call(IMAGE, PSF * 1j)


def test_psf_object(call):
    with pytest.raises(TypeError, match="psf: got dtype object"):
        call(IMAGE, PSF.astype(object))


def test_psf_overflows_the_images_dtype():
    with pytest.raises(ValueError, match=r"psf: .*not finite"):
        mf.richardson_lucy(IMAGE.astype(np.float32), PSF * 1e300, 2, normalize_psf=False)


@pytest.mark.parametrize("method", ["wiener", "tikhonov", "inverse_filter", "landweber", "richardson_lucy"])
@pytest.mark.parametrize("factor", [1e-36, 1e36])
def test_psf_whose_estimate_leaves_float32(method, factor):
    with pytest.raises(
        ValueError, match=r"psf: its sum is .*float32; rescale it, or leave normalize_psf=True"
    ):
        getattr(mf, method)(IMAGE.astype(np.float32), PSF * factor, normalize_psf=False)


def test_psf_and_image_whose_estimate_leaves_float32():
    with pytest.raises(ValueError, match=r"psf: its sum 9e-20 makes an estimate of about 1\.1"):
        mf.richardson_lucy((IMAGE * 1e20).astype(np.float32), PSF * 1e-20, 2, normalize_psf=False)


@pytest.mark.parametrize("method", ["landweber", "richardson_lucy"])
@pytest.mark.parametrize("factor", [1e-36, 1e36])
def test_weights_beyond_float32(method, factor):
    weights = np.full(IMAGE.shape, factor)
    with pytest.raises(ValueError, match=r"weights: the largest value is 1e.* rescale the weights"):
        getattr(mf, method)(IMAGE.astype(np.float32), PSF, 2, weights=weights)


@pytest.mark.parametrize("value", [-1e37, 1e37, 1e300])
@pytest.mark.parametrize(
    "method", ["richardson_lucy", "landweber", "van_cittert", "fista", "blind_richardson_lucy"]
)
def test_first_estimate_beyond_float32(method, value):
    options = {"weight": 0.01} if method == "fista" else {}
    image = np.arange(IMAGE.size, dtype=np.float32).reshape(IMAGE.shape)
    first = np.where(image < 3, value, 1.0)
    words = r"initial: got -?1e\+\d+, expected -1e\+28 to 1e\+28 in float32"
    with pytest.raises(ValueError, match=words):
        getattr(mf, method)(image, PSF, num_iter=2, initial=first, **options)


def test_first_estimate_of_a_volume_beyond_float32(tmp_path):
    image, first = IMAGE.astype(np.float32)[None], np.full((1, *IMAGE.shape), 1e37, np.float32)
    with pytest.raises(ValueError, match=r"initial, voxels .*: got 1e\+37, expected .* in float32"):
        mf.restore_volume(image, tmp_path / "out.npy", PSF[None], num_iter=2, initial=first)


@pytest.mark.parametrize("value", [-1e37, 1e37])
def test_prior_beyond_float32(value):
    prior = np.where(np.indices(IMAGE.shape)[0] == 0, value, 1.0)
    for given in (prior, value):
        with pytest.raises(ValueError, match=r"prior: got -?1e\+37, expected -1e\+28 to 1e\+28 in float32"):
            mf.tikhonov(IMAGE.astype(np.float32), PSF, prior=given)


def test_psf_larger_than_the_image_under_wrap(call):
    with pytest.raises(
        ValueError, match=r"psf: got shape \(3, 9\), expected at most the image's \(6, 7\).*boundary='wrap'"
    ):
        call(IMAGE, np.ones((3, 9)), boundary="wrap")


def test_psf_negative_values_are_allowed(call):
    assert np.isfinite(call(IMAGE, np.array([[-0.1, 1.0, -0.1]]))).all()


# Options


def test_boundary_unknown(call):
    with pytest.raises(
        ValueError,
        match=r"boundary: got 'symmetric', expected one of .*'reflect', 'nearest', 'mirror', 'wrap'",
    ):
        call(IMAGE, PSF, boundary="symmetric")


def test_boundary_type(call):
    with pytest.raises(TypeError, match="boundary: got None, expected one of"):
        call(IMAGE, PSF, boundary=None)


def test_engine_unknown(call):
    with pytest.raises(
        ValueError, match="engine: got 'fft', expected one of 'auto', 'spectral', 'separable', 'direct'"
    ):
        call(IMAGE, PSF, engine="fft")


def test_backend_unknown(call):
    with pytest.raises(
        ValueError, match="backend: got 'c', expected one of 'auto', 'cpp', 'numba', 'reference', 'cuda'"
    ):
        call(IMAGE, PSF, backend="c")


@pytest.mark.skipif("cuda" in mf.backends.available(), reason="SKIPPED: there is a GPU, or its emulator")
def test_backend_not_here(call):
    with pytest.raises(ImportError, match="backend: 'cuda' is not available here: "):
        call(IMAGE, PSF, backend="cuda")


def test_normalize_psf_type(call):
    with pytest.raises(TypeError, match="normalize_psf: got 1, expected True or False"):
        call(IMAGE, PSF, normalize_psf=1)


@pytest.mark.parametrize("value", [0, -2])
def test_num_threads_too_few(call, value):
    with pytest.raises(ValueError, match=f"num_threads: got {value}, expected an integer of at least 1"):
        call(IMAGE, PSF, num_threads=value)


@pytest.mark.parametrize("value", [10**12, 2**31, 2**16 + 1])
def test_num_threads_too_many(call, value):
    with pytest.raises(ValueError, match=f"num_threads: got {value}, expected .* and at most 65536"):
        call(IMAGE, PSF, num_threads=value)


@pytest.mark.parametrize("value", [1.5, "2", True])
def test_num_threads_type(call, value):
    with pytest.raises(TypeError, match="num_threads: got "):
        call(IMAGE, PSF, num_threads=value)


def test_psf_voxel_size_alone(call):
    with pytest.raises(ValueError, match=r"psf_voxel_size: .*without voxel_size"):
        call(IMAGE, PSF, psf_voxel_size=(1, 1))


def test_voxel_size_count(call):
    with pytest.raises(ValueError, match=r"voxel_size: got 3 values .*expected 2, one per axis \(y, x\)"):
        call(IMAGE, PSF, voxel_size=(1, 1, 1))


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_voxel_size_value(call, value):
    with pytest.raises(ValueError, match=r"voxel_size\[1\]: got .*expected a finite number greater than 0"):
        call(IMAGE, PSF, voxel_size=(1, value))


@pytest.mark.parametrize("value", [0, -1])
def test_num_iter_too_few(value):
    with pytest.raises(ValueError, match=f"num_iter: got {value}, expected an integer of at least 1"):
        mf.richardson_lucy(IMAGE, PSF, value)


@pytest.mark.parametrize("value", [3.0, "3", True])
def test_num_iter_type(value):
    with pytest.raises(TypeError, match=r"num_iter: got .*expected an integer"):
        mf.richardson_lucy(IMAGE, PSF, value)


def test_num_iter_numpy_integer():
    assert mf.richardson_lucy(IMAGE, PSF, np.int16(3), return_info=True)[1].num_iter == 3


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_background_value(value):
    with pytest.raises(ValueError, match=r"background: got .*expected a finite number of at least 0"):
        mf.richardson_lucy(IMAGE, PSF, 2, background=value)


@pytest.mark.parametrize("value", ["10", [1, 2], None, 1j])
def test_background_type(value):
    with pytest.raises(TypeError, match=r"background: got .*expected a finite number"):
        mf.richardson_lucy(IMAGE, PSF, 2, background=value)


def test_weights_shape():
    with pytest.raises(
        ValueError, match=r"weights: got shape \(7, 6\), expected \(6, 7\), the shape of the image"
    ):
        mf.richardson_lucy(IMAGE, PSF, 2, weights=IMAGE.T)


def test_weights_negative():
    with pytest.raises(ValueError, match="weights: 1 of 42 values are negative, the smallest -2"):
        mf.richardson_lucy(IMAGE, PSF, 2, weights=with_value(-2))


def test_weights_nan():
    with pytest.raises(ValueError, match="weights: 1 of 42 values are not finite"):
        mf.richardson_lucy(IMAGE, PSF, 2, weights=with_value(np.nan))


def test_weights_all_zero():
    with pytest.raises(ValueError, match="weights: all are zero"):
        mf.richardson_lucy(IMAGE, PSF, 2, weights=IMAGE * 0)


def test_weights_complex():
    with pytest.raises(TypeError, match="weights: got complex"):
        mf.richardson_lucy(IMAGE, PSF, 2, weights=IMAGE * 1j)


def test_initial_unknown():
    with pytest.raises(ValueError, match="initial: got 'ones', expected one of 'flat', 'image'"):
        mf.richardson_lucy(IMAGE, PSF, 2, initial="ones")


def test_initial_shape():
    with pytest.raises(
        ValueError, match=r"initial: got shape \(3,\), expected \(6, 7\) \(the image's\) or \(8, 9\)"
    ):
        mf.richardson_lucy(IMAGE, PSF, 2, initial=np.ones(3))


def test_initial_negative():
    with pytest.raises(ValueError, match="initial: 1 of 42 values are negative"):
        mf.richardson_lucy(IMAGE, PSF, 2, initial=with_value(-1))


def test_initial_nan():
    with pytest.raises(ValueError, match="initial: 1 of 42 values are not finite"):
        mf.richardson_lucy(IMAGE, PSF, 2, initial=with_value(np.nan))


def test_initial_zero():
    with pytest.raises(ValueError, match="initial: all values are zero and would stay so"):
        mf.richardson_lucy(IMAGE, PSF, 2, initial=IMAGE * 0)


def test_negative_unknown():
    with pytest.raises(ValueError, match="negative: got 'abs', expected one of 'raise', 'clip', 'shift'"):
        mf.richardson_lucy(IMAGE, PSF, 2, negative="abs")


def test_callback_type():
    with pytest.raises(TypeError, match="callback: got 3, expected a function"):
        mf.richardson_lucy(IMAGE, PSF, 2, callback=3)


def test_return_info_type():
    with pytest.raises(TypeError, match="return_info: got 'yes', expected True or False"):
        mf.richardson_lucy(IMAGE, PSF, 2, return_info="yes")


def test_magnitude_outside_the_dtypes_range():
    with pytest.raises(
        ValueError, match=r"image: the largest value is 1e\+30, expected .* in float32; rescale"
    ):
        mf.richardson_lucy(IMAGE.astype(np.float32) * 1e30, PSF, 2)
    assert np.allclose(mf.richardson_lucy(IMAGE * 1e30, PSF, 2, boundary="wrap"), 1e30)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("landweber", "background", 1e39),
        ("van_cittert", "background", -1e39),
        ("van_cittert", "relaxation", 1e39),
        ("tikhonov", "prior", 1e39),
        ("fista", "weight", 1e39),
        ("fista", "weight", 1e-39),
        ("richardson_lucy", "readout_variance", 1e39),
    ],
)
def test_number_outside_the_dtypes_range(method, name, value):
    image, psf = np.random.default_rng(0).random((6, 7)), np.outer([1, 6, 1], [1, 6, 1])
    more = {"bounds": (0, 1)} if name == "relaxation" else {}
    with pytest.raises(
        ValueError, match=rf"^{name}: got {value:g}, expected .* in float32".replace("+", r"\+")
    ):
        getattr(mf, method)(image.astype(np.float32), psf, **{name: value}, **more)
    if name != "relaxation":
        getattr(mf, method)(image, psf, **{name: value})


def test_integer_beyond_float64():
    with pytest.raises(ValueError, match=r"background: got 1000.*, expected a finite number"):
        mf.richardson_lucy(IMAGE, PSF, background=10**400)


@pytest.mark.parametrize("method", ["wiener", "tikhonov", "unsupervised_wiener", "restore"])
def test_magnitude_whose_square_leaves_float64(method):
    image = np.random.default_rng(0).random((16, 17))
    function = getattr(mf, method)
    for factor in (1e-137, 1e137):
        assert np.allclose(function(image * factor, PSF) / factor, function(image, PSF), rtol=1e-3)
    for factor in (1e-150, 1e150):
        with pytest.raises(ValueError, match=r"image: the largest value is .*, expected 1e-140 to 1e\+140"):
            function(image * factor, PSF)


MISSPELT = {
    "readout_variance": -1.0,
    "damping": np.nan,
    "regularizer": ("tvv", 0.01),
    "acceleration": "biggs",
    "back_projector": "match",
    "stop": "thining",
}


@pytest.mark.parametrize("name", MISSPELT)
def test_option_misspelt(name):
    with pytest.raises(ValueError, match=name):
        mf.richardson_lucy(IMAGE, PSF, 2, **{name: MISSPELT[name]})


@pytest.mark.parametrize(("name", "value"), [("regularizer", "tv"), ("stop", 3), ("acceleration", 2)])
def test_option_of_wrong_type(name, value):
    with pytest.raises(TypeError, match=name):
        mf.richardson_lucy(IMAGE, PSF, 2, **{name: value})


# Blur


def test_blur_shapes():
    blur = mf.Blur(PSF, (6, 7))
    with pytest.raises(
        ValueError, match=r"x: got shape \(6, 7\), expected \(8, 9\), the shape of the estimate"
    ):
        blur.forward(IMAGE)
    with pytest.raises(ValueError, match=r"y: got shape \(8, 9\), expected \(6, 7\), the shape of the image"):
        blur.adjoint(np.ones((8, 9)))
    with pytest.raises(ValueError, match="weights: got shape"):
        blur.normalizer(np.ones((8, 9)))


def test_blur_nan():
    with pytest.raises(ValueError, match="y: 1 of 42 values are not finite"):
        mf.Blur(PSF, (6, 7)).adjoint(with_value(np.nan))


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ((), ValueError),
        ((2, 0), ValueError),
        ((1, 2, 3, 4), ValueError),
        ((2.5, 3), TypeError),
        ("ab", TypeError),
    ],
)
def test_blur_shape_argument(shape, error):
    with pytest.raises(error, match="shape: got"):
        mf.Blur(PSF, shape)


def test_blur_dtype():
    with pytest.raises(ValueError, match="dtype: got 'float16', expected None, 'float32' or 'float64'"):
        mf.Blur(PSF, (6, 7), dtype="float16")
    for unknown in ("x", 1.5, ()):
        with pytest.raises(TypeError, match=r"dtype: got .*, expected None, 'float32' or 'float64'"):
            mf.Blur(PSF, (6, 7), dtype=unknown)


def test_sweep_operands():
    blur = mf.Blur(PSF, (6, 7), boundary="wrap")
    with pytest.raises(
        ValueError,
        match="formula: got 'divide', expected one of 'copy', 'ratio', 'multiply', 'residual', 'add'",
    ):
        blur.sweep(IMAGE, "divide")
    with pytest.raises(TypeError, match="image: missing; the formula 'ratio' needs it"):
        blur.sweep(IMAGE, "ratio")
    with pytest.raises(
        TypeError, match="gain: the formula 'ratio' takes image, weights, damping, held_out, back"
    ):
        blur.sweep(IMAGE, "ratio", image=IMAGE, gain=IMAGE)
    with pytest.raises(TypeError, match="image: the formula 'copy' takes no operands"):
        blur.sweep(IMAGE, "copy", image=IMAGE)
    with pytest.raises(ValueError, match=r"estimate: got shape \(3,\)"):
        blur.sweep(IMAGE, "multiply", estimate=np.ones(3))
    for out in (
        np.ones(3),
        np.ones((6, 7), np.float32),
        np.ones((7, 6)).T,
        [1],
        np.broadcast_to(1.0, (6, 7)),
    ):
        with pytest.raises(ValueError, match=r"out: got .*expected a writable C-contiguous NumPy array"):
            blur.sweep(IMAGE, "copy", out=out)
