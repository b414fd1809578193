"""Blind Richardson-Lucy against a plain transcription of its formulas, and its promises."""

import functools
import itertools
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
PAD = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "wrap": "wrap", "zero": "constant"}
# The PSF's step as sums over its taps, and through transforms.
WAYS = {"sums": (10**9,) * 3, "transforms": (0,) * 3}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    from medeconv_fast.algorithms import _blind_psf as module

    monkeypatch.setattr(module, "MOST_SUMMED_TAPS", WAYS[request.param])
    return request.param


def mirrored(array, axes):
    """array[c - r] at c + r on `axes`, element by element; 0 where that lies outside."""
    out = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        other = tuple(
            2 * (n // 2) - i if a in axes else i
            for a, (i, n) in enumerate(zip(index, array.shape, strict=True))
        )
        if all(0 <= o < n for o, n in zip(other, array.shape, strict=True)):
            out[index] = array[other]
    return out


def transcription(
    dense_blur, image, psf, iterations, boundary, *, weights=None, background=0.0, support=None, mirrors=(),
    psf_iterations=1, image_iterations=1,
):  # fmt: skip
    """The docstring's formulas in float64: H is a matrix, X one whose columns are shifted estimates."""
    y = image.ravel().astype(float)
    w = np.ones_like(y) if weights is None else weights.ravel().astype(float)
    allowed = np.ones(psf.shape, bool) if support is None else support.copy()
    for axes in mirrors:
        allowed &= mirrored(allowed, axes)

    def tied(values):
        for axes in mirrors:
            values = (values + mirrored(values, axes)) / 2
        return values

    h = tied(np.where(allowed, psf, 0.0))
    h = h / h.sum()
    matrix, estimate_shape, frame = dense_blur(h, image.shape, boundary)
    x = np.full(int(np.prod(estimate_shape)), (w * y).sum() / w.sum() - background)
    for _ in range(iterations):
        matrix, _, _ = dense_blur(h, image.shape, boundary)
        seen = matrix.T @ w
        trusted = seen >= 0.01 * w.max()
        for _ in range(image_iterations):
            ratio = w * y / (matrix @ x + background)
            x[trusted] *= (matrix.T @ ratio)[trusted] / seen[trusted]
        around = [(k - 1 - k // 2, k // 2) for k in h.shape]
        wide = x.reshape(estimate_shape)
        if boundary != "extended":
            wide = np.pad(wide, around, mode=PAD[boundary])
        windows = np.lib.stride_tricks.sliding_window_view(wide, image.shape)
        shifted = np.stack(
            [
                windows[tuple(k - 1 - j for j, k in zip(tap, h.shape, strict=True))].ravel()
                for tap in np.ndindex(h.shape)
            ],
            axis=1,
        )  # fmt: skip
        seen = tied((shifted.T @ w).reshape(h.shape))
        for _ in range(psf_iterations):
            ratio = w * y / (shifted @ h.ravel() + background)
            correction = tied((shifted.T @ ratio).reshape(h.shape))
            h = np.where(allowed, h * correction / seen, 0)
        x = x * h.sum()
        h = h / h.sum()
    return x.reshape(estimate_shape)[frame], h


SHAPES = [((21,), (6,)), ((12, 15), (5, 4)), ((6, 7, 8), (3, 2, 5)), ((1, 9, 8), (1, 3, 4))]


def problem(shape, psf_shape):
    """Whole numbers, which float32 holds as well, and options that meet every part of the formulas."""
    rng = np.random.default_rng(20240611)
    psf = rng.random(psf_shape) + 0.1
    mask = rng.random(psf_shape) < 0.8
    mask[tuple(k // 2 for k in psf_shape)] = True
    last = len(shape) - 1
    options = [
        {},
        {"background": 0.75, "support": mask},
        {
            "weights": rng.random(shape).astype(np.float32),
            "background": 0.5,
            "psf_iterations": 2,
            "image_iterations": 3,
            "symmetry": last,
        },
        {"symmetry": ("point", 0), "support": mask},
    ]
    return rng.integers(1, 100, shape).astype(float), psf, options


@pytest.fixture(scope="module")
def expected(dense_blur):
    """expected(shape, psf_shape, boundary, number of the options) -> (estimate, psf); made once."""

    @functools.cache
    def made(shape, psf_shape, boundary, number):
        image, psf, options = problem(shape, psf_shape)
        options = options[number]
        axes = tuple(range(len(shape)))
        mirrors = {None: (), axes[-1]: (axes[-1:],), ("point", 0): (axes, (0,))}
        mirrors = mirrors[options.pop("symmetry", None)]
        return transcription(dense_blur, image, psf, 5, boundary, mirrors=mirrors, **options)

    return made


@pytest.mark.filterwarnings("ignore:psf. :UserWarning")
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), SHAPES, ids=str)
def test_transcription(boundary, shape, psf_shape, dtype, backend, way, tol, relative_error, expected):
    image, psf, options = problem(shape, psf_shape)
    for number in range(BOUNDARIES.index(boundary) % 2, len(options), 2):
        got = mf.blind_richardson_lucy(
            image.astype(dtype), psf, 5, boundary=boundary, backend=backend, **options[number]
        )
        for one, other in zip(got, expected(shape, psf_shape, boundary, number), strict=True):
            assert one.dtype == dtype
            assert relative_error(one, other) < tol("transcription", dtype)


def blobs(rng, shape, count, peak=1.0):
    """Bright discs of 1 to 4 voxels radius, some touching, on a dim ground."""
    grid = np.indices(shape)
    out = np.full(shape, 0.02 * peak)
    for _ in range(count):
        centre = [rng.uniform(0, n) for n in shape]
        distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        out += peak * rng.uniform(0.2, 1) * (distance < rng.uniform(1, 16))
    return out


def width(psf):
    """Full width of the Gaussian with the PSF's variance, mean over the axes."""
    place = np.indices(psf.shape).reshape(psf.ndim, -1)
    mass = psf.ravel() / psf.sum()
    variance = place**2 @ mass - (place @ mass) ** 2
    return np.sqrt(variance).mean() * 2 * np.sqrt(2 * np.log(2))


@pytest.mark.parametrize(
    ("shape", "lengths", "peak"), [((96, 100), (13, 13), 1e4), ((18, 32, 34), (7, 7, 7), 1e3)]
)
def test_finds_the_psf_and_a_better_image(shape, lengths, peak, backend, rng):
    """From a start that is half as wide again; measured: the width's error shrinks 6- and 10-fold."""
    fwhm = 3.0 if len(shape) == 2 else 2.5
    ones = (1,) * len(shape)
    true = mf.psf.gaussian(fwhm, ones, lengths)
    start = mf.psf.gaussian(1.5 * fwhm, ones, lengths)
    truth = blobs(rng, shape, 60, peak)
    image = rng.poisson(mf.convolve(truth, true, mode="same", boundary="wrap")).astype(np.float32)
    options = {"boundary": "wrap", "backend": backend}
    estimate, psf, info = mf.blind_richardson_lucy(
        image, start, 25, psf_iterations=3, symmetry="axial", return_info=True, **options
    )
    assert abs(width(psf) - width(true)) < abs(width(start) - width(true)) / 4
    assert np.abs(psf - true).sum() < np.abs(start - true).sum() / 2
    with_start = mf.richardson_lucy(image, start, 25, **options)
    error = np.linalg.norm(estimate - truth)
    assert error < 0.9 * np.linalg.norm(with_start - truth) and error < 0.9 * np.linalg.norm(image - truth)
    assert info.warnings == []


@pytest.fixture
def image(rng):
    true = mf.psf.gaussian(2.5, (1, 1), (7, 7))
    blurred = mf.convolve(blobs(rng, (40, 42), 25, 500.0), true, mode="same", boundary="wrap")
    return rng.poisson(blurred).astype(np.float32)


def test_flux_is_kept(image, backend, way):
    for psf in ((7, 7), (6, 5)):
        estimate, kernel = mf.blind_richardson_lucy(
            image.astype(float), psf, 12, psf_iterations=2, boundary="wrap", backend=backend
        )
        assert abs(estimate.sum() / image.sum() - 1) < 1e-12
        assert abs(kernel.sum() - 1) < 1e-12
        assert kernel.min() >= 0


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_model_only_gets_better(boundary, image, backend, way):
    """Both steps and all constraints descend the I-divergence between image and model."""
    _, _, info = mf.blind_richardson_lucy(
        image.astype(float), (7, 7), 15, psf_iterations=2, image_iterations=2, symmetry="point", background=1,
        boundary=boundary, stop=mf.stop.IDivergenceSlope(1e-9), return_info=True, backend=backend,
    )  # fmt: skip
    seen = [entry["i_divergence"] for entry in info.trace]
    assert len(seen) == 15 and all(b < a for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("lengths", [(7, 7), (6, 8), (5, 6)])
def test_symmetry_and_support_are_exact(lengths, image, rng, backend, dtype):
    mask = rng.random(lengths) < 0.7
    # The centre and its neighbours on both sides: no symmetry leaves fewer than three.
    mask[lengths[0] // 2, lengths[1] // 2 - 1 : lengths[1] // 2 + 2] = True
    odd = tuple(slice(1 - n % 2, None) for n in lengths)
    start = rng.random(lengths) + 0.2
    for symmetry, flips in (
        ("point", [(0, 1)]),
        ("axial", [(0,), (1,)]),
        (1, [(1,)]),
        (-2, [(0,)]),
        (("point", 0), [(0, 1), (0,), (1,)]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a random start loses much to its support
            _, psf = mf.blind_richardson_lucy(
                image.astype(dtype), start, 5, symmetry=symmetry, support=mask, backend=backend
            )
        assert not psf[~mask].any() and psf.any()
        for axes in flips:
            part = psf[tuple(o if a in axes else slice(None) for a, o in enumerate(odd))]
            assert np.array_equal(part, np.flip(part, axes))
            for axis in axes:
                if lengths[axis] % 2 == 0:
                    assert not np.moveaxis(psf, axis, 0)[0].any()


def test_results_do_not_depend_on_threads(rng, backend, way):
    image = rng.poisson(blobs(rng, (12, 40, 44), 40, 200.0)).astype(np.float32)
    weights = rng.random(image.shape)
    one, three = (
        mf.blind_richardson_lucy(image, (3, 5, 5), 4, weights=weights, backend=backend, num_threads=n)
        for n in (1, 3)
    )
    for a, b in zip(one, three, strict=True):
        assert np.array_equal(a, b)


def test_backends_agree(image, backend, tol, relative_error):
    """With sums and with transforms; 19 x 17 taps are too many for sums."""
    for shape in ((7, 7), (19, 17)):
        got = mf.blind_richardson_lucy(image, shape, 15, symmetry="axial", backend=backend)
        wanted = mf.blind_richardson_lucy(
            image.astype(float), shape, 15, symmetry="axial", backend="reference"
        )
        for a, b in zip(got, wanted, strict=True):
            assert relative_error(a, b) < tol("backends", np.float32)


@pytest.mark.parametrize("engine", ["spectral", "direct"])
def test_engines_agree(engine, image, backend, tol, relative_error):
    both = [
        mf.blind_richardson_lucy(image.astype(float), (6, 7), 8, engine=e, backend=backend, return_info=True)
        for e in (engine, "auto")
    ]
    assert both[0][2].engine == engine
    for a, b in zip(both[0][:2], both[1][:2], strict=True):
        assert relative_error(a, b) < tol("transcription")


def test_start_from_a_shape(image, backend):
    for given in (9, (9, 9), (np.int64(9), 9)):
        got = mf.blind_richardson_lucy(image, given, 3, backend=backend)
        wanted = mf.blind_richardson_lucy(image, mf.psf.gaussian(3, (1, 1), (9, 9)), 3, backend=backend)
        for a, b in zip(got, wanted, strict=True):
            assert np.array_equal(a, b)
    # In one dimension a tuple of other lengths than 1 is a PSF, as a list always is.
    line = image[0]
    for psf in ((1, 9, 1), [1, 9, 1]):
        _, found = mf.blind_richardson_lucy(line, psf, 1, backend=backend)
        assert found.shape == (3,)
    assert mf.blind_richardson_lucy(line, (5,), 1, backend=backend)[1].shape == (5,)


def test_scale(image, backend, tol, relative_error):
    plain = mf.blind_richardson_lucy(image, 7, 10, backend=backend)
    for factor in (1e-9, 1e9):
        scaled = mf.blind_richardson_lucy(image * np.float32(factor), 7, 10, backend=backend)
        assert relative_error(scaled[0].astype(float) / factor, plain[0]) < tol("scale", np.float32)
        assert relative_error(scaled[1], plain[1]) < tol("scale", np.float32)


def test_other_voxels(image, backend, relative_error):
    """A first PSF on a finer grid comes to the image's."""
    fine = mf.psf.gaussian(3, (0.5, 0.5), (21, 21))
    _, psf, info = mf.blind_richardson_lucy(
        image, fine, 1, voxel_size=(1, 1), psf_voxel_size=0.5, return_info=True, backend=backend
    )
    coarse = mf.psf.resample(fine, (0.5, 0.5), (1, 1))
    assert info.settings["psf_resampled"] and info.settings["psf_shape"] == coarse.shape
    again = mf.blind_richardson_lucy(image, np.maximum(coarse, 0), 1, backend=backend)[1]
    assert relative_error(psf, again) < 1e-6


def test_callback_info_and_stop(image, backend):
    seen = []

    def watch(iteration, estimate, psf):
        seen.append((iteration, estimate.copy(), psf.copy()))
        estimate[...] = psf[...] = np.nan  # copies: the run must not notice
        return iteration == 4

    estimate, psf, info = mf.blind_richardson_lucy(
        image, 7, 9, callback=watch, return_info=True, boundary="wrap", backend=backend
    )
    assert [s[0] for s in seen] == [1, 2, 3, 4] and info.stopped_by == "callback" and info.num_iter == 4
    assert np.array_equal(seen[-1][1], estimate) and np.array_equal(seen[-1][2], psf)
    assert all(a["psf_change"] > b["psf_change"] > 0 for a, b in itertools.pairwise(info.trace))
    assert info.trace[0]["psf_change"] == pytest.approx(
        np.abs(seen[0][2] - mf.psf.gaussian(7 / 3, (1, 1), (7, 7))).sum(), rel=1e-4
    )
    json.dumps(info)
    assert info.backend == backend and info.bytes > image.nbytes and info.settings["psf_shape"] == (7, 7)
    *_, info = mf.blind_richardson_lucy(
        image, 7, 50, stop=mf.stop.RelativeChange(0.05), return_info=True, backend=backend
    )
    changes = [entry["relative_change"] for entry in info.trace]
    assert info.stopped_by == "relative-change" and changes[-1] < 0.05 <= changes[-2]
    *_, info = mf.blind_richardson_lucy(
        image, 7, 50, image_iterations=2, stop=mf.stop.Discrepancy("poisson", factor=1.4), return_info=True,
        backend=backend,
    )  # fmt: skip
    assert info.stopped_by == "discrepancy" and 1 < info.num_iter < 50
    assert info.trace[-1]["i_divergence"] > 0.7 * image.size


def test_negative_values(image, backend):
    signed = image - 40
    with pytest.raises(ValueError, match=r"negative, the smallest .*'clip'.*'shift'"):
        mf.blind_richardson_lucy(signed, 7, 2, backend=backend)
    clipped = mf.blind_richardson_lucy(signed, 7, 3, negative="clip", backend=backend)
    wanted = mf.blind_richardson_lucy(np.maximum(signed, 0), 7, 3, backend=backend)
    shifted = mf.blind_richardson_lucy(signed, 7, 3, negative="shift", backend=backend)
    moved = mf.blind_richardson_lucy(signed - signed.min(), 7, 3, backend=backend)
    assert np.array_equal(clipped[0], wanted[0]) and np.array_equal(clipped[1], wanted[1])
    assert np.array_equal(shifted[1], moved[1])
    np.testing.assert_allclose(shifted[0], moved[0] + signed.min(), rtol=1e-5, atol=1e-3)


def test_regularizer_smooths_the_image(image, backend):
    plain, smooth = (
        mf.blind_richardson_lucy(image, 7, 15, regularizer=r, backend=backend)[0]
        for r in (None, ("tv", 0.05))
    )
    assert np.abs(np.diff(smooth)).sum() < 0.9 * np.abs(np.diff(plain)).sum()


def test_dead_voxels(image, backend, relative_error):
    weights = np.ones_like(image)
    weights[7, 8:11] = 0
    broken = image.copy()
    broken[7, 8:11] = image.max()
    one, other = (
        mf.blind_richardson_lucy(i, 7, 6, weights=weights, backend=backend) for i in (image, broken)
    )
    for a, b in zip(one, other, strict=True):
        assert relative_error(a, b) < 1e-6


def test_numbers_that_mark_dead_voxels_have_no_influence(image):
    image = image.astype(np.float32)
    weights = np.ones_like(image)
    weights[5, 6:9] = 0
    results = []
    for mark in (0.0, 2.0**32 - 1, -1e6):
        marked = np.where(weights > 0, image, np.float32(mark))
        results.append(mf.blind_richardson_lucy(marked, (7, 7), 3, weights=weights, initial="image"))
    for estimate, psf in results[1:]:
        assert np.array_equal(estimate, results[0][0]) and np.array_equal(psf, results[0][1])


def test_torch(image, backend):
    torch = pytest.importorskip("torch")
    estimate, psf = mf.blind_richardson_lucy(torch.from_numpy(image), 5, 2, backend=backend)
    assert isinstance(estimate, torch.Tensor) and isinstance(psf, torch.Tensor)
    assert psf.dtype == torch.float32
    wanted = mf.blind_richardson_lucy(image, 5, 2, backend=backend)
    assert np.array_equal(estimate.numpy(), wanted[0]) and np.array_equal(psf.numpy(), wanted[1])


DELTA = np.pad(np.ones((1, 1)), 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image": np.full((9, 9), 3.0)}, "image: all values are 3; a constant image says nothing"),
        ({"image": np.zeros((9, 9))}, "image: all values are 0; a constant image"),
        ({"background": 1e6}, "image: no value rises above the background 1e"),
        ({"psf": DELTA}, "psf: got 1 positive voxels .* expected at least two"),
        ({"psf": 1}, "psf: got 1 positive voxels"),
        ({"psf": np.ones((3, 3)), "support": DELTA[1:4, 1:4]}, "psf: got 1 positive voxels"),
        ({"psf": np.array([[1.0, 2], [-0.5, 1]])}, "psf: 1 of 4 values are negative"),
        ({"psf": np.full((3, 3), np.nan)}, "psf: .*NaN"),
        ({"psf": np.ones(3)}, "psf: got 1 axes"),
        ({"psf": np.ones((3, 50))}, r"psf: got shape \(3, 50\), expected at most the image's"),
        ({"psf": (0, 3)}, r"psf\[0\]: got 0"),
        ({"psf_voxel_size": 1.0, "voxel_size": 2.0}, "psf_voxel_size: got one together with only the shape"),
        ({"support": np.ones((3, 3))}, r"support: got shape \(3, 3\), expected \(7, 7\)"),
        ({"symmetry": "radial"}, "symmetry: got 'radial', expected one of 'point', 'axial'"),
        ({"symmetry": 2}, "symmetry: got 2"),
        ({"boundary": "periodic"}, "boundary: got 'periodic'"),
        ({"engine": "separable"}, "engine: got 'separable', but an estimated psf"),
        ({"engine": ("separable", 0.1)}, "engine: got .*, but an estimated psf"),
        ({"stop": "thinning"}, "stop: thinning"),
        ({"psf_iterations": 0}, "psf_iterations: got 0"),
        ({"image_iterations": 0}, "image_iterations: got 0"),
        ({"num_iter": 0}, "num_iter: got 0"),
        ({"initial": "noise"}, "initial: got 'noise'"),
    ],
    ids=str,
)
def test_bad_input(change, text, image):
    with pytest.raises(ValueError, match=text):
        mf.blind_richardson_lucy(**{"image": image, "psf": (7, 7), "num_iter": 2} | change)


def test_bad_types(image):
    for change, text in (
        ({"callback": 3}, "callback: got 3"),
        ({"symmetry": 0.5}, "symmetry: got 0.5"),
        ({"psf": True}, "psf"),
        ({"psf": "gaussian"}, "psf: got 'gaussian'"),
    ):
        with pytest.raises(TypeError, match=text):
            mf.blind_richardson_lucy(**{"image": image, "psf": (7, 7)} | change)


def test_warnings(rng):
    """A PSF that collapsed, one that does not fit its array, one that loses much of its start."""
    points = np.full((40, 40), 0.5)
    points[tuple(rng.integers(3, 37, (2, 12)))] = 50
    image = rng.poisson(mf.convolve(points, mf.psf.gaussian(1.0, (1, 1)), mode="same"))
    with pytest.warns(UserWarning, match="came to lie in one voxel"):
        *_, info = mf.blind_richardson_lucy(image, 5, 300, return_info=True)
    assert "one voxel" in info.warnings[0]
    wide = mf.convolve(
        blobs(rng, (40, 40), 20, 100.0), mf.psf.gaussian(6, (1, 1)), mode="same", boundary="wrap"
    )
    with pytest.warns(UserWarning, match="at the border of its"):
        mf.blind_richardson_lucy(wide, np.ones((3, 3)), 5)
    with (
        pytest.warns(UserWarning, match="at the border"),
        pytest.warns(UserWarning, match=r"psf: 33\.3 % of it lies outside its support"),
    ):
        mf.blind_richardson_lucy(wide, np.ones((3, 3)), 1, support=np.ones((3, 3)) * [1, 1, 0])


def test_nothing_is_changed(image):
    psf, mask = np.ones((5, 5)), np.ones((5, 5), bool)
    before = image.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mf.blind_richardson_lucy(image, psf, 2, support=mask, symmetry="axial", initial=image + 1)
    assert np.array_equal(image, before) and (psf == 1).all() and mask.all()


def test_restore_names_the_function():
    with pytest.raises(ValueError, match=r"'blind_richardson_lucy'.* mf\.blind_richardson_lucy"):
        mf.restore(np.ones((5, 6)), np.ones((3, 3)), method="blind_richardson_lucy")


def test_the_pages_example(capsys):
    page = (Path(__file__).parents[1] / "docs" / "methods" / "blind_richardson_lucy.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(code, {})
    estimated, started, found = map(float, re.findall(r"[a-z]+ (\d\.\d+)", capsys.readouterr().out))
    assert abs(found - 3) < 0.6 * abs(started - 3) and 2.5 < estimated < 3.5


@pytest.mark.parametrize(("boundary", "initial"), [("zero", "flat"), ("extended", "image")])
def test_what_a_psf_off_its_centre_leaves_out_of_reach_takes_no_digits(boundary, initial, dtype, backend):
    support = np.zeros((15, 15), bool)
    support[10:, 10:] = True
    random = np.random.default_rng(0)
    image = random.poisson(random.random((60, 60)) * 100).astype(dtype)
    image[:, :20] *= random.random((60, 20)) < 0.02
    options = {"support": support, "boundary": boundary, "initial": initial, "backend": backend}
    summed = mf.blind_richardson_lucy(image, np.ones((15, 15)), 3, engine="direct", **options)
    with pytest.warns(UserWarning, match="lies outside its support"):
        chosen = mf.blind_richardson_lucy(image, np.ones((15, 15)), 3, **options)
    for one, other in zip(chosen, summed, strict=True):
        assert np.array_equal(one, other)
