"""The formulas of sweeps on every engine and backend: damping, factors, acceleration, sums of stopping rules.

Blurred values come from `Blur.forward` (tested elsewhere); what is done to them is written out here in
float64, I-divergences by scipy.special.kl_div.
"""

import numpy as np
import pytest
from scipy.special import kl_div

import medeconv_fast as mf
from medeconv_fast.backends import cpp, numba, reference

# Engine, shape, psf shape; "line" is what a long 1-D spectral operator becomes.
CASES = [
    pytest.param("spectral", (19, 21, 30), (4, 5, 6), id="spectral-volume"),
    pytest.param("spectral", (33, 47), (5, 6), id="spectral-image"),
    pytest.param("auto", (5000,), (301,), id="line"),
    pytest.param("separable", (17, 23, 31), (5, 4, 3), id="separable"),
    pytest.param("direct", (13, 18, 29), (3, 3, 4), id="direct"),
]
BOUNDARIES = ["extended", "zero", "reflect", "wrap"]


def operator(engine, shape, taps, boundary, backend, rng, **options):
    if engine == "separable":
        psf = np.ones(())
        for k in taps:
            psf = np.multiply.outer(psf, rng.random(k) + 0.1)
    else:
        psf = rng.random(taps) + 0.01
    return mf.Blur(psf, shape, boundary=boundary, engine=engine, backend=backend, **options)


def arrays(rng, shape, dtype, *names):
    """Counts for images, smooth positive numbers for the rest."""
    return {
        n: (rng.poisson(3.0, shape) if n in ("image", "held_out") else rng.random(shape) + 0.2).astype(dtype)
        for n in names
    }


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_ratio_with_damping_and_sums(engine, shape, taps, boundary, backend, dtype, rng, tol, relative_error):
    blur = operator(engine, shape, taps, boundary, backend, rng)
    x = (rng.random(blur.estimate_shape) * 5).astype(dtype)
    given = arrays(rng, shape, dtype, "image", "weights", "held_out", "damping")
    got, sums = blur.sweep(
        x, "ratio", background=0.25, held_out_scale=0.5, eps=1e-3, return_sums=True, **given
    )
    assert got.dtype == dtype

    model = np.maximum(blur.forward(x).astype(np.float64) + 0.25, 1e-3)
    image, weights, held_out, damping = (
        given[n].astype(np.float64) for n in ("image", "weights", "held_out", "damping")
    )
    u = np.minimum(kl_div(image, model) * damping, 1)
    expected = weights * (1 + u**9 * (10 - 9 * u) * (image / model - 1))
    assert (u == 1).any() and (u < 0.9).any()  # both branches were taken
    assert relative_error(got, expected) < tol("formula", dtype)
    wanted = {
        "i_divergence": (weights * kl_div(image, model)).sum(),
        "squared_residual": (weights * (image - model) ** 2).sum(),
        "held_out_squared_residual": (weights * (held_out - 0.5 * model) ** 2).sum(),
    }
    assert sums.keys() == wanted.keys()
    for name, value in wanted.items():
        assert sums[name] == pytest.approx(value, rel=tol("sums", dtype)), name
    plain, fewer = blur.sweep(x, "ratio", image=given["image"], return_sums=True)
    assert "held_out_squared_residual" not in fewer
    np.testing.assert_array_equal(plain, blur.sweep(x, "ratio", image=given["image"]))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_residual_sums(engine, shape, taps, boundary, backend, dtype, rng, tol):
    blur = operator(engine, shape, taps, boundary, backend, rng)
    x = rng.standard_normal(blur.estimate_shape).astype(dtype)
    given = arrays(rng, shape, dtype, "image", "weights")
    got, sums = blur.sweep(x, "residual", background=0.5, return_sums=True, **given)
    residual = given["image"] - (blur.forward(x).astype(np.float64) + 0.5)
    value = (given["weights"] * residual**2).sum()
    assert sums == {"squared_residual": pytest.approx(value, rel=tol("sums", dtype))}
    np.testing.assert_array_equal(got, blur.sweep(x, "residual", background=0.5, **given))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("formula", ["multiply", "add"])
@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_update_with_factor_change_and_sums(
    engine, shape, taps, formula, boundary, backend, dtype, rng, tol, relative_error
):
    """`change` is read before it is overwritten, in the same sweep that moves the estimate in place."""
    blur = operator(engine, shape, taps, boundary, backend, rng)
    y = rng.random(shape).astype(dtype)
    given = arrays(rng, blur.estimate_shape, dtype, "estimate", "gain", "factor")
    given["gain"][rng.random(blur.estimate_shape) < 0.2] = 0
    earlier = rng.standard_normal(blur.estimate_shape).astype(dtype)
    change, estimate = earlier.copy(), given["estimate"].copy()
    more = {"step": 0.75} if formula == "add" else {}
    sums = blur.begin(y, adjoint=True).sweep(
        formula, adjoint=True, keep=False, sums=True, out=estimate, change=change,
        **{**given, "estimate": estimate}, **more,
    )  # fmt: skip

    correction = blur.adjoint(y).astype(np.float64) * given["factor"] * given["gain"]
    before = given["estimate"].astype(np.float64)
    expected = before + 0.75 * correction if formula == "add" else before * correction
    expected = np.where((given["gain"] > 0) | (formula == "add"), expected, before)
    assert relative_error(estimate, expected) < tol("formula", dtype)
    moved = expected - before
    assert relative_error(change, moved) < tol("formula", dtype)
    assert sums["squared_change"] == pytest.approx((moved**2).sum(), rel=tol("sums", dtype))
    assert sums["squared_result"] == pytest.approx((expected**2).sum(), rel=tol("sums", dtype))
    largest = np.linalg.norm(moved) * np.linalg.norm(earlier)  # the product itself may be near 0
    assert abs(sums["change_product"] - (moved * earlier).sum()) < tol("sums", dtype) * largest


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("formula", ["multiply", "add", "ratio", "residual"])
@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_next_sweep_gets_what_is_extrapolated(
    engine, shape, taps, formula, boundary, backend, dtype, rng, tol, relative_error
):
    blur = operator(engine, shape, taps, boundary, backend, rng)
    adjoint = formula in ("multiply", "add")
    source, target = (shape, blur.estimate_shape) if adjoint else (blur.estimate_shape, shape)
    x = rng.random(source).astype(dtype)
    previous = rng.random(target).astype(dtype)
    given = arrays(rng, target, dtype, "estimate" if adjoint else "image")
    if formula == "ratio":
        given["eps"] = 1e-3
    new = blur.sweep(x, formula, adjoint=adjoint, **given).astype(np.float64)
    ahead = np.maximum(new + 0.6 * (new - previous), 0)
    extrapolated, out = np.empty(target, dtype), np.empty(target, dtype)
    chain = blur.begin(x, adjoint=adjoint)
    chain.sweep(
        formula, adjoint=adjoint, out=out, previous=previous, alpha=0.6, extrapolated=extrapolated, **given
    )
    assert relative_error(out, new) < tol("formula", dtype)
    assert relative_error(extrapolated, ahead) < tol("formula", dtype)
    following = np.empty(source, dtype)
    chain.sweep("copy", adjoint=not adjoint, keep=False, out=following)
    then = blur.forward(ahead.astype(dtype)) if adjoint else blur.adjoint(ahead.astype(dtype))
    assert relative_error(following, then) < tol("forward", dtype) * 2  # two sweeps


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_load_extrapolates(engine, shape, taps, boundary, backend, dtype, rng, tol, relative_error):
    """As Biggs and Andrews do: how far to go is known only when the sweep before is complete."""
    blur = operator(engine, shape, taps, boundary, backend, rng)
    x, previous = (rng.random(blur.estimate_shape).astype(dtype) for _ in range(2))
    kept = x.copy(), previous.copy()
    extrapolated = np.empty_like(x)
    chain = blur.begin(x)
    sums = chain.load(x, previous=previous, alpha=0.8, extrapolated=extrapolated, sums=True)
    wide, earlier = x.astype(np.float64), previous.astype(np.float64)
    ahead = np.maximum(wide + 0.8 * (wide - earlier), 0)
    assert (ahead == 0).any()
    assert relative_error(extrapolated, ahead) < tol("formula", dtype)
    assert sums["squared_change"] == pytest.approx(((wide - earlier) ** 2).sum(), rel=tol("sums", dtype))
    assert sums["squared_result"] == pytest.approx((wide**2).sum(), rel=tol("sums", dtype))
    out = np.empty(shape, dtype)
    chain.sweep("copy", keep=False, out=out)
    assert relative_error(out, blur.forward(ahead.astype(dtype))) < tol("forward", dtype)
    for array, copy in zip((x, previous), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_sums_do_not_depend_on_threads(engine, shape, taps, dtype, rng):
    seed = rng.integers(1 << 30)
    found = []
    for threads in (1, 2, 3, 7):
        again = np.random.default_rng(seed)
        blur = operator(engine, shape, taps, "zero", "auto", again, num_threads=threads)
        x = again.random(shape).astype(dtype)
        given = arrays(again, shape, dtype, "image", "held_out")
        forward = blur.sweep(x, "ratio", return_sums=True, **given)[1]
        back = blur.sweep(given["image"], "multiply", adjoint=True, estimate=x, return_sums=True)[1]
        found.append(forward | back)
    assert all(f == found[0] for f in found[1:])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_unit_keeps_squares_in_range(scale, backend, rng):
    """In float32 the squares of such values would be 0 or infinite."""
    blur = mf.Blur(rng.random((3, 3)), (20, 30), boundary="zero", backend=backend)
    x, image = rng.random((20, 30), np.float32), rng.random((20, 30), np.float32)
    plain = blur.begin(x).sweep("residual", keep=False, image=image, sums=True)
    big = np.float32(scale)
    chain = blur.begin(x * big)
    got = chain.sweep("residual", keep=False, image=image * big, sums=True, unit=1 / scale)
    assert got["squared_residual"] == pytest.approx(plain["squared_residual"], rel=1e-5)


def divergence_of(backend, image, blurred):
    out = np.empty_like(image)
    return backend.apply_formula("ratio", blurred, out, image=image, sums=True)[0]


@pytest.mark.parametrize("module", [cpp, numba, reference], ids=lambda m: m.NAME)
def test_divergence_is_exact_value_by_value(module, dtype):
    """Near agreement, where the terms cancel, far from it, and for voxels without counts."""
    if not module.is_available():
        pytest.skip(f"SKIPPED: backend {module.NAME} is not available")
    eps = np.finfo(dtype).eps
    for model in (1e-3, 1.0, 37.0, 6e4):
        for quotient in (0.0, 1e-6, 0.1, 0.5, 0.70710678, 0.999, 1.001, 1.4142135, 2.0, 7.7, 1e5):
            image = np.array([model * quotient], dtype)
            blurred = np.array([model], dtype)
            y, b = np.longdouble(image[0]), np.longdouble(blurred[0])  # in double, kl_div cancels
            expected = float(y * np.log(y / b) - y + b if y > 0 else b)
            # The quotient itself is known to eps: near 1 that is all there is to know.
            slack = 8 * eps * (expected + abs(float(image[0]) - float(blurred[0])))
            assert abs(divergence_of(module, image, blurred) - expected) <= slack, (model, quotient)


def test_flat_agreement_has_no_divergence(backend, dtype):
    module = mf.backends.resolve(backend)
    values = np.linspace(0.1, 1e4, 1000).astype(dtype)
    assert divergence_of(module, values, values.copy()) == 0.0


def test_operands_are_named_in_errors(backend, rng):
    blur = mf.Blur(rng.random((3, 3)), (20, 30), backend=backend)
    x = rng.random(blur.estimate_shape)
    with pytest.raises(TypeError, match="factor: the formula 'ratio' takes image, weights, damping"):
        blur.sweep(x, "ratio", image=rng.random((20, 30)), factor=x)
    with pytest.raises(ValueError, match="held_out"):
        blur.sweep(x, "ratio", image=rng.random((20, 30)), held_out=rng.random((20, 31)))
    with pytest.raises(TypeError, match="return_sums"):
        blur.sweep(x, "copy", return_sums=1)


@pytest.mark.parametrize(
    ("formula", "options"), [("multiply", {}), ("add", {"positive": True}), ("ratio", {})]
)
@pytest.mark.parametrize(("engine", "shape", "taps"), CASES)
def test_what_is_not_a_number_stays_so(engine, shape, taps, formula, options, backend, dtype, rng):
    """As 0 it would look like an empty image."""
    blur = operator(engine, shape, taps, "zero", backend, rng)
    x = np.ones(shape, dtype)
    x[tuple(n // 2 for n in shape)] = np.nan
    given = "image" if formula == "ratio" else "estimate"
    out = np.empty(shape, dtype)
    chain = blur.begin(x, adjoint=formula != "ratio")
    chain.sweep(
        formula, adjoint=formula != "ratio", keep=False, out=out, **{given: np.ones(shape, dtype)}, **options
    )
    assert np.isnan(out[tuple(n // 2 for n in shape)])
