"""Point spread functions: against analytic values and SciPy's special functions."""

import re
import warnings

import numpy as np
import pytest
from scipy import integrate, interpolate, special

import medeconv_fast as mf
from medeconv_fast.psf import _models


def centre_of_mass(psf):
    return [
        float((np.moveaxis(psf, a, 0).sum(axis=tuple(range(1, psf.ndim))) * np.arange(n)).sum() / psf.sum())
        for a, n in enumerate(psf.shape)
    ]


@pytest.mark.parametrize("fwhm", [(6.0, 4.0, 3.0), (0.5, 9.0, 2.0), (0.0, 4.0, 4.0), 5.0])
def test_gaussian_is_the_integral_over_voxels(fwhm):
    size = (2.0, 1.0, 0.5)
    psf = mf.psf.gaussian(fwhm, size)
    assert psf.dtype == np.float64 and psf.sum() == pytest.approx(1, abs=1e-14)
    assert all(n % 2 for n in psf.shape)
    widths = np.broadcast_to(fwhm, 3)
    for axis in range(3):
        line = psf.sum(axis=tuple(a for a in range(3) if a != axis))
        n = line.size
        sigma = widths[axis] / 2.3548200450309493
        if sigma == 0:
            assert n == 1
            continue
        edges = (np.arange(n + 1) - n // 2 - 0.5) * size[axis] / (sigma * np.sqrt(2))
        exact = (special.erf(edges[1:]) - special.erf(edges[:-1])) / 2
        assert 1 - exact.sum() < 1e-4
        np.testing.assert_allclose(line, exact / exact.sum(), rtol=1e-10, atol=1e-17)


def test_gaussian_variance_is_its_own_plus_a_voxel():
    psf = mf.psf.gaussian(7.0, (1.5,))
    position = (np.arange(psf.size) - psf.size // 2) * 1.5
    sigma2 = (7.0 / 2.3548200450309493) ** 2
    assert (psf * position**2).sum() == pytest.approx(sigma2 + 1.5**2 / 12, rel=1e-3)


@pytest.mark.parametrize("fwhm", [1e-300, 1e6, 1e16, 1e300])
def test_gaussian_of_any_width(fwhm):
    psf = mf.psf.gaussian(fwhm, (1.0, 1.0), (5, 4))
    expected = mf.psf.gaussian(0.0, (1.0, 1.0), (5, 4)) if fwhm < 1 else 1 / 20  # far wider: even
    np.testing.assert_allclose(psf, np.broadcast_to(expected, psf.shape), rtol=1e-10)


def test_a_gaussian_too_wide_for_numbers_is_refused():
    with pytest.raises(ValueError, match=r"fwhm\[1\]: got 1e\+300 with voxels of 1e-300"):
        mf.psf.gaussian(1e300, (1.0, 1e-300), (5, 4))


@pytest.mark.parametrize("shape", [(8, 9, 10), (9, 9, 9), (1, 5, 4)])
def test_centre_is_half_the_shape(shape):
    for psf in (
        mf.psf.gaussian(2.0, (1, 1, 1), shape),
        mf.psf.born_wolf(0.5, 1.2, 1.33, (0.3, 0.1, 0.1), shape),
    ):
        assert psf.shape == shape
        assert np.unravel_index(psf.argmax(), shape) == tuple(n // 2 for n in shape)


@pytest.mark.parametrize("order", [0, 1])
def test_bessel(order):
    x = np.concatenate([[0, 1e-12], np.linspace(0.01, 300, 4001)])
    np.testing.assert_allclose(_models._bessel(order, x), special.jv(order, x), atol=2e-14)


@pytest.mark.parametrize("shape", [(9, 20), (8, 9), (7, 7)])
def test_square_pixels_may_be_mirrored_and_others_tell_the_axes_apart(shape):
    for size, same in ((0.1, True), (0.1 + 1e-12, True), (0.13, False)):
        psf = mf.psf.airy(0.52, 1.2, (0.1, size), shape)
        turned = mf.psf.airy(0.52, 1.2, (0.1, size), shape[::-1]).T
        assert np.allclose(psf, turned, rtol=0, atol=1e-9 * psf.max()) == same
    # Pixels that are not quite square are computed one by one.
    near = mf.psf.airy(0.52, 1.2, (0.1, 0.1 + 1e-14), shape)
    np.testing.assert_allclose(mf.psf.airy(0.52, 1.2, (0.1, 0.1), shape), near, rtol=0, atol=1e-12)


def test_airy_equals_the_formula():
    psf = mf.psf.airy(0.52, 1.4, (0.05, 0.04), (41, 40), integrate=False)
    y, x = np.meshgrid((np.arange(41) - 20) * 0.05, (np.arange(40) - 20) * 0.04, indexing="ij")
    v = 2 * np.pi * 1.4 / 0.52 * np.hypot(y, x)
    v[20, 20] = 1
    exact = (2 * special.j1(v) / v) ** 2
    exact[20, 20] = 1
    np.testing.assert_allclose(psf, exact / exact.sum(), atol=1e-15)


def test_born_wolf_in_focus_is_airy_and_along_the_axis_is_sinc():
    wavelength, na, index = 0.6, 0.9, 1.33
    psf = mf.psf.born_wolf(wavelength, na, index, (0.2, 0.06, 0.06), (31, 25, 25), integrate=False)
    focus = psf[15] / psf[15].sum()
    airy = mf.psf.airy(wavelength, na, (0.06, 0.06), (25, 25), integrate=False)
    np.testing.assert_allclose(focus, airy, atol=1e-13)
    z = (np.arange(31) - 15) * 0.2
    u = z * na**2 / (2 * index * wavelength)
    np.testing.assert_allclose(psf[:, 12, 12] / psf[15, 12, 12], np.sinc(u) ** 2, atol=1e-12)


def test_gibson_lanni_without_aberration_is_nearly_born_wolf():
    options = dict(shape=(15, 21, 21))
    a = mf.psf.gibson_lanni(0.5, 0.3, (2, 0.2, 0.2), specimen_index=1.515, **options)
    b = mf.psf.born_wolf(0.5, 0.3, 1.515, (2, 0.2, 0.2), **options)
    assert np.abs(a - b).max() / b.max() < 0.02  # Born and Wolf is its paraxial limit
    np.testing.assert_allclose(a, a[::-1], atol=1e-3 * a.max())


def test_gibson_lanni_depth_moves_and_widens():
    at_coverslip = mf.psf.gibson_lanni(0.5, 1.2, (0.2, 0.1, 0.1), (61, 15, 15))
    deep = mf.psf.gibson_lanni(0.5, 1.2, (0.2, 0.1, 0.1), (61, 15, 15), depth=10.0)
    assert at_coverslip[:, 7, 7].argmax() == 30
    assert abs(int(deep[:, 7, 7].argmax()) - 30) > 1
    assert deep.max() < 0.8 * at_coverslip.max()


# ---------------------------------------------------------------- integration over pixels


def aperture_integral(phase, r, scale, points=20001):
    """|∫ J0(scale r ρ) exp(i phase(ρ)) ρ dρ|² by Simpson's rule and SciPy's J0, for an array r."""
    rho = np.linspace(0, 1, points)
    field = special.j0(scale * r.reshape(-1, 1) * rho) * (np.exp(1j * phase(rho)) * rho)
    return (np.abs(integrate.simpson(field, x=rho)) ** 2).reshape(r.shape)


def over_pixels(intensity, shape, size, fine):
    """Mean of intensity(r) over each pixel by the midpoint rule on fine x fine points."""
    y, x = (
        (np.arange(n * fine) - (n // 2 + 0.5) * fine + 0.5) * d / fine
        for n, d in zip(shape, size, strict=True)
    )
    sampled = intensity(np.hypot(y[:, None], x[None, :]))
    return sampled.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))


@pytest.mark.parametrize(("size", "shape"), [((0.2, 0.15), (9, 8)), ((0.02, 0.6), (3, 6))])
def test_airy_is_the_mean_over_each_pixel(size, shape):
    def intensity(r):
        v = 2 * np.pi * 1.1 / 0.52 * np.maximum(r, 1e-9)
        return (2 * special.j1(v) / v) ** 2

    fine = over_pixels(intensity, shape, size, 160)
    np.testing.assert_allclose(mf.psf.airy(0.52, 1.1, size, shape), fine / fine.sum(), atol=2e-5)
    # Richardson's extrapolation of the midpoint rule: the error falls with its fourth power.
    better = (4 * fine - over_pixels(intensity, shape, size, 80)) / 3
    np.testing.assert_allclose(mf.psf.airy(0.52, 1.1, size, shape), better / better.sum(), atol=2e-8)


def test_born_wolf_and_gibson_lanni_are_the_mean_over_each_pixel():
    wavelength, na, size, shape = 0.52, 1.1, (0.4, 0.16, 0.13), (3, 6, 5)
    k = 2 * np.pi / wavelength
    distance = np.linspace(0, 0.8, 161)  # a table, then a spline: the integral is dear
    depth, ns, ni, ng, ti0, tg, tg0 = 5.0, 1.33, 1.515, 1.52, 150.0, 165.0, 170.0

    def lanni(z):
        ti = z + ni * (tg0 / ng - tg / ng + ti0 / ni - depth / ns)  # Gibson and Lanni, eq. 3

        def phase(rho):
            s = [np.sqrt(n**2 - (na * rho) ** 2) for n in (ns, ng, ni)]
            return k * (depth * s[0] + (tg - tg0) * s[1] + (ti - ti0) * s[2])

        return phase

    options = dict(depth=depth, coverslip_index=ng, coverslip_thickness=tg, design_coverslip_thickness=tg0)
    for psf, make in (
        (mf.psf.gibson_lanni(wavelength, na, size, shape, **options), lanni),
        (
            mf.psf.born_wolf(wavelength, na, 1.33, size, shape),
            lambda z: lambda rho: -k * z * na**2 * rho**2 / (2 * 1.33),
        ),
    ):
        planes = []
        for z in (np.arange(3) - 1) * size[0]:
            curve = interpolate.CubicSpline(
                distance, aperture_integral(make(z), distance, k * na, 2001), bc_type="natural"
            )
            # Richardson's extrapolation, as above.
            fine, coarse = (over_pixels(curve, shape[1:], size[1:], n) for n in (60, 30))
            planes.append((4 * fine - coarse) / 3)
        exact = np.array(planes)
        np.testing.assert_allclose(psf, exact / exact.sum(), atol=5e-7)


def test_integration_keeps_small_pixels_and_widens_large_ones():
    for size, close in ((0.01, True), (0.2, False)):
        one = mf.psf.airy(0.5, 1.2, (size, size), (11, 11))
        other = mf.psf.airy(0.5, 1.2, (size, size), (11, 11), integrate=False)
        assert np.allclose(one, other, rtol=0.01, atol=1e-5) == close
    assert one[5, 5] < 0.95 * other[5, 5]


def test_gibson_lanni_of_an_oil_objective_on_water():
    with pytest.warns(UserWarning, match=r"1\.4 .* index 1\.33.* ends at 1\.33"):
        psf = mf.psf.gibson_lanni(0.5, 1.4, (0.2, 0.1, 0.1), (21, 11, 11), depth=2.0)
    assert np.isfinite(psf).all() and psf.sum() == pytest.approx(1)
    # Continuous in NA: nothing jumps at the index.
    below = mf.psf.gibson_lanni(0.5, 1.3299, (0.2, 0.1, 0.1), (21, 11, 11), depth=2.0)
    assert np.abs(psf - below).max() < 0.02 * psf.max()


@pytest.mark.parametrize(("na", "depth"), [(1.2, 8.0), (1.3299, 20.0), (1.33, 20.0), (1.4, 50.0)])
@pytest.mark.parametrize("planes", [1, 3])
def test_gibson_lanni_up_to_the_specimen_s_index_is_the_integral(na, depth, planes):
    wavelength, ns, ni, size, lateral = 0.52, 1.33, 1.515, (2.0, 0.1, 0.1), (3, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the aperture ends at the specimen's index
        psf = mf.psf.gibson_lanni(wavelength, na, size, (planes, *lateral), depth=depth, integrate=False)
    end, k = min(na, ns), 2 * np.pi / wavelength
    # 200 times 20 points, each interval narrower than an oscillation; rho = 1 - t² takes the root at the end.
    nodes, weights = np.polynomial.legendre.leggauss(20)
    root = (np.arange(200)[:, None] + (nodes + 1) / 2).ravel() / 200
    rho, weights = 1 - root**2, np.tile(weights / 400, 200) * 2 * root
    y, x = (np.arange(n) - n // 2 for n in lateral)
    distance, inverse = np.unique(0.1 * np.hypot(y[:, None], x), return_inverse=True)
    waves = special.j0(k * end * np.outer(rho, distance)) * (weights * rho)[:, None]
    immersed = np.sqrt(ni**2 - (end * rho) ** 2)
    specimen = np.sqrt(np.maximum(ns**2 - (end * rho) ** 2, 0))
    z = ((np.arange(planes) - planes // 2) * size[0])[:, None]
    path = depth * specimen + (z - depth * ni / ns) * immersed  # Gibson and Lanni, eqs. 3 and 5
    exact = (np.abs(np.exp(1j * k * path) @ waves) ** 2)[:, inverse].reshape(psf.shape)
    np.testing.assert_allclose(psf, exact / exact.sum(), atol=1e-10 * psf.max())


# ---------------------------------------------------------------- light sheet


def test_light_sheet_is_the_product_with_a_diverging_gaussian():
    size, shape = (0.3, 0.2, 0.2), (41, 9, 10)
    detection = mf.psf.born_wolf(0.52, 0.8, 1.33, size, shape)
    z = ((np.arange(41) - 20) * 0.3)[:, None, None]
    for position, offset in ((0.0, 0.0), (60.0, 0.0), (-60.0, 0.6)):
        psf = mf.psf.light_sheet(detection, size, 0.488, na=0.1, position=position, offset=offset)
        w0 = 0.488 / (np.pi * 0.1)
        w = w0 * np.sqrt(1 + (position * 0.488 / (np.pi * 1.33 * w0**2)) ** 2)
        exact = detection * np.exp(-2 * (z - offset) ** 2 / w**2)
        np.testing.assert_allclose(psf, exact / exact.sum(), rtol=1e-12, atol=1e-300)
        np.testing.assert_array_equal(
            psf, mf.psf.light_sheet(detection, size, 0.488, waist=w0, position=position, offset=offset)
        )


def test_light_sheet_alone_has_the_documented_width():
    flat = np.ones((401, 1, 1))
    psf = mf.psf.light_sheet(flat, (0.05, 1, 1), 0.488, waist=2.0)
    assert mf.psf.fwhm(psf, (0.05, 1, 1))[0] == pytest.approx(1.1774 * 2.0, rel=1e-3)
    rayleigh = np.pi * 1.33 * 4 / 0.488
    wide = mf.psf.light_sheet(flat, (0.05, 1, 1), 0.488, waist=2.0, position=rayleigh)
    assert mf.psf.fwhm(wide, (0.05, 1, 1))[0] == pytest.approx(1.1774 * 2.0 * np.sqrt(2), rel=1e-3)


# ---------------------------------------------------------------- width and other grids


def test_fwhm_of_known_profiles():
    triangle = np.array([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])
    assert mf.psf.fwhm(triangle, (0.5,)) == pytest.approx((2.0,))
    psf = mf.psf.gaussian((8.0, 6.0), (0.5, 0.25))
    assert mf.psf.fwhm(psf, (0.5, 0.25)) == pytest.approx((8.0, 6.0), rel=5e-3)
    assert mf.psf.fwhm(mf.psf.gaussian((0, 6.0), (1, 0.25)))[0] == 0
    with pytest.raises(ValueError, match="half"):
        mf.psf.fwhm(np.ones(5))


@pytest.mark.parametrize("new", [(1.0, 1.0, 1.0), (0.5, 0.7, 2.0), (3.0, 2.0, 0.4)])
def test_resample_keeps_sum_centre_and_width(new):
    old = (1.0, 1.0, 0.8)
    psf = mf.psf.gaussian(7.0, old)
    result = mf.psf.resample(psf, old, new)
    assert result.sum() == pytest.approx(psf.sum(), rel=1e-12)
    assert np.allclose(centre_of_mass(result), [n // 2 for n in result.shape], atol=1e-9)
    for axis in range(3):
        position = [(np.arange(n) - n // 2) * d for n, d in zip(result.shape, new, strict=True)][axis]
        line = result.sum(axis=tuple(a for a in range(3) if a != axis))
        sigma2 = (7.0 / 2.3548200450309493) ** 2 + old[axis] ** 2 / 12
        # differencing over new voxels adds their own width, less the old one's
        expected = sigma2 + (new[axis] ** 2 - old[axis] ** 2) / 12 if new[axis] != old[axis] else sigma2
        assert (line * position**2).sum() == pytest.approx(expected, rel=0.02)


def test_resample_of_an_even_psf_keeps_the_centre():
    psf = mf.psf.gaussian(6.0, (1.0, 1.0), (20, 21))
    result = mf.psf.resample(psf, (1, 1), (0.5, 0.5))
    assert np.allclose(centre_of_mass(result), [n // 2 for n in result.shape], atol=0.02)


def beads(positions, shape=(30, 60, 60), shifts=None, noise=0.0):
    z, y, x = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    image = np.full(shape, 10.0)
    for i, p in enumerate(positions):
        q = np.add(p, shifts[i] if shifts is not None else 0)
        image += 1000 * np.exp(-((z - q[0]) ** 2 / 8 + (y - q[1]) ** 2 / 4.5 + (x - q[2]) ** 2 / 4.5))
    return image + np.random.default_rng(0).normal(0, noise, shape) if noise else image


def test_from_beads_recovers_the_shape():
    positions = [(15, 15, 15), (14, 15, 45), (16, 44, 16), (15, 45, 45)]
    shifts = [(0.3, -0.2, 0.1), (-0.4, 0.1, 0.3), (0.0, 0.45, -0.3), (0.2, 0, 0)]
    found = mf.psf.from_beads(beads(positions, shifts=shifts, noise=1.0), (15, 13, 13))
    z, y, x = np.meshgrid(np.arange(15) - 7, np.arange(13) - 6, np.arange(13) - 6, indexing="ij")
    exact = np.exp(-(z**2 / 8 + y**2 / 4.5 + x**2 / 4.5))
    exact /= exact.sum()
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.03
    assert found.sum() == pytest.approx(1) and found.min() >= 0
    given = mf.psf.from_beads(beads(positions, shifts=shifts, noise=1.0), (15, 13, 13), positions)
    assert np.linalg.norm(given - found) / np.linalg.norm(found) < 0.02


def test_from_beads_refuses_and_explains():
    with pytest.raises(ValueError, match="1 too near the edge"):
        mf.psf.from_beads(beads([(3, 5, 5)]), (15, 13, 13))
    with pytest.raises(ValueError, match="2 too near another"):
        mf.psf.from_beads(beads([(15, 20, 20), (15, 27, 20)]), (15, 13, 13))
    with pytest.raises(ValueError, match="1 saturated"):
        mf.psf.from_beads(np.minimum(beads([(15, 30, 30)]), 600), (15, 13, 13), [(15, 30, 30)])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mf.psf.gaussian(-1, (1, 1)), "fwhm"),
        (lambda: mf.psf.gaussian((1, 2, 3), (1, 1)), "fwhm"),
        (lambda: mf.psf.gaussian(1, (1, 0)), "voxel_size"),
        (lambda: mf.psf.gaussian((1e300, 1), (1e-300, 1)), "fwhm, voxel_size: .* inf x 5 voxels"),
        (lambda: mf.psf.gaussian(1, 1.0), "voxel_size"),
        (lambda: mf.psf.gaussian(1, (1, 1), (3,)), "shape"),
        (lambda: mf.psf.airy(0.5, 0, (1, 1)), "na"),
        (lambda: mf.psf.born_wolf(0.5, 1.4, 1.33, (1, 1, 1)), "na"),
        (lambda: mf.psf.gibson_lanni(0.5, 1.52, (1, 1, 1)), "na"),
        (lambda: mf.psf.light_sheet(np.ones((3, 3)), (1, 1, 1), 0.5, na=0.1), "detection"),
        (lambda: mf.psf.light_sheet(np.ones((3, 3, 3)), (1, 1, 1), 0.5), "na, waist"),
        (lambda: mf.psf.light_sheet(np.ones((3, 3, 3)), (1, 1, 1), 0.5, na=0.1, waist=1.0), "na, waist"),
        (lambda: mf.psf.light_sheet(np.ones((3, 3, 3)), (1, 1, 1), 0.5, na=1.4), "na"),
        (lambda: mf.psf.light_sheet(np.ones((3, 3, 3)), (1, 1, 1), 0.5, waist=1.0, offset=99), "offset"),
        (lambda: mf.psf.resample(np.ones((3, 3)), (1, 1), (1, -1)), "new_voxel_size"),
        (lambda: mf.psf.fwhm(np.array([0.0, np.nan, 0.0])), "psf"),
        (lambda: mf.psf.from_beads(np.ones((5, 5)), (7, 7)), "shape"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


@pytest.mark.parametrize(
    ("call", "length", "grid", "ndim"),
    [
        (lambda **more: mf.psf.airy(520, 1.2, (0.065, 0.065), **more), "wavelength", "34935 x 34935", 2),
        (
            lambda **more: mf.psf.born_wolf(520, 1.2, 1.33, (0.2, 0.065, 0.065), **more),
            "wavelength",
            "19213 x",
            3,
        ),
        (
            lambda **more: mf.psf.gibson_lanni(520, 1.2, (0.2, 0.065, 0.065), **more),
            "wavelength",
            "21885 x",
            3,
        ),
        (lambda **more: mf.psf.gaussian(400, (0.1, 0.065, 0.065), **more), "fwhm", "13591 x", 3),
    ],
    ids=["airy", "born_wolf", "gibson_lanni", "gaussian"],
)
def test_lengths_in_two_units_are_refused_at_once(call, length, grid, ndim):
    """Nanometres with micrometres: the default shape would be more than memory holds."""
    with pytest.raises(ValueError, match=rf"^{length}, (na, )?voxel_size: got {length} .*{grid}.* one unit"):
        call()
    assert call(shape=(3,) * ndim).shape == (3,) * ndim  # what is asked for is made


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: mf.psf.airy(5.2e-4, 1.2, (0.1, 0.1)),
            "voxel_size: got (0.1, 0.1) and the wavelength 0.00052",
        ),
        (
            lambda: mf.psf.born_wolf(0.00052, 0.8, 1.33, (0.2, 0.1, 0.1)),
            "voxel_size: got (0.2, 0.1, 0.1) and",
        ),
        (
            lambda: mf.psf.gibson_lanni(0.5, 1.4, (200, 100, 100), (5, 5, 5)),
            "voxel_size: got (200.0, 100.0, ",
        ),
        (
            lambda: mf.psf.gibson_lanni(0.5, 1.4, (0.2, 0.1, 0.1), (5, 5, 5), depth=1e5),
            "depth: got 100000 and",
        ),
    ],
    ids=["airy", "born_wolf", "gibson_lanni", "depth"],
)
def test_wavelengths_in_a_smaller_unit_are_refused_at_once(call, words):
    """Millimetres with micrometres: what is computed would take hours."""
    with pytest.raises(ValueError, match=rf"^{re.escape(words)}.* one unit"):
        call()


def test_coarse_pixels_and_deep_specimens_are_made():
    coarse = mf.psf.born_wolf(
        0.5, 0.1, 1.0, (100.0, 30.0, 30.0), (3, 3, 3)
    )  # of a lens that sees centimetres
    deep = mf.psf.gibson_lanni(0.5, 0.5, (1.0, 0.3, 0.3), (3, 3, 3), depth=1000.0)
    assert coarse.sum() == pytest.approx(1) and deep.sum() == pytest.approx(1)


def test_masks_are_not_ignored(tmp_path):
    masked = np.ma.array(np.ones((3, 3, 3)))
    for call, name in (
        (lambda: mf.psf.fwhm(masked), "psf"),
        (lambda: mf.psf.resample(masked, 1.0, 2.0), "psf"),
        (lambda: mf.psf.from_beads(masked, (3, 3, 3)), "image"),
        (lambda: mf.psf.light_sheet(masked, (1, 1, 1), 0.5, na=0.1), "detection"),
        (lambda: mf.psf.save(tmp_path / "psf.npy", masked, 1.0, "um"), "psf"),
    ):
        with pytest.raises(TypeError, match=f"{name}: got a masked array"):
            call()
