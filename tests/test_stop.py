"""Rules for stopping: each ends a run where it says, and the result is that of as many plain iterations."""

import time

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.special import kl_div

import medeconv_fast as mf
from medeconv_fast import _binomial
from medeconv_fast.stop import BLOCK


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(5)
    truth = np.zeros((48, 56))
    truth[rng.integers(6, 42, 25), rng.integers(6, 50, 25)] = rng.random(25) * 4000 + 500
    truth = ndimage.gaussian_filter(truth, 1.0) + 5
    psf = mf.psf.gaussian(fwhm=(4.0, 4.0), voxel_size=(1.0, 1.0))
    blurred = mf.Blur(psf, truth.shape, boundary="reflect").forward(truth)
    return truth, psf, blurred, rng.poisson(blurred).astype(np.float64)


def run(case, num_iter=None, **options):
    return mf.richardson_lucy(case[3], case[1], num_iter, return_info=True, **options)


@pytest.mark.parametrize("acceleration", [None, "biggs-andrews", "heavy-ball"])
@pytest.mark.parametrize(
    "stop",
    [
        "i-divergence",
        mf.stop.Discrepancy("poisson"),
        mf.stop.Discrepancy("gaussian", sigma=6.0),
        mf.stop.RelativeChange(0.02),
        mf.stop.RelativeChange(0.004),
    ],
    ids=lambda s: s if isinstance(s, str) else type(s).__name__,
)
def test_result_is_that_of_as_many_iterations(case, stop, acceleration, backend):
    options = {"acceleration": acceleration, "backend": backend}
    stopped, info = run(case, stop=stop, **options)
    name = stop if isinstance(stop, str) else stop.name
    assert info.stopped_by == name
    assert 2 < info.num_iter < 200
    assert len(info.trace) == info.num_iter
    plain, _ = run(case, info.num_iter, **options)
    np.testing.assert_allclose(stopped, plain, rtol=1e-9)


def test_trace_holds_what_it_says(case, backend):
    _, psf, _, image = case
    estimates = []
    weights = np.linspace(0.2, 1, image.size).reshape(image.shape)
    options = {"boundary": "wrap", "backend": backend, "weights": weights}
    mf.richardson_lucy(image, psf, 6, callback=lambda _, e: estimates.append(e), background=1.0, **options)
    _, one = run(case, 6, stop=mf.stop.RelativeChange(1e-12), background=1.0, **options)
    _, two = run(case, 6, stop=mf.stop.IDivergenceSlope(1e-12), background=1.0, **options)
    blur = mf.Blur(psf, image.shape, boundary="wrap")
    for k in range(1, 6):
        before, after = estimates[k - 1], estimates[k]
        change = np.linalg.norm(after - before) / np.linalg.norm(after)
        assert one.trace[k]["relative_change"] == pytest.approx(change, rel=1e-6)
        model = blur.forward(before) + 1.0
        divergence = (weights * kl_div(image, model)).sum()
        assert two.trace[k]["i_divergence"] == pytest.approx(divergence, rel=1e-6)
        square = (weights * (image - model) ** 2).sum()
        assert two.trace[k]["squared_residual"] == pytest.approx(square, rel=1e-6)
    assert "i_divergence" not in one.trace[0] and "relative_change" not in two.trace[0]


def test_relative_change_stops_at_the_first_below(case):
    _, info = run(case, stop=mf.stop.RelativeChange(0.02))
    changes = [t["relative_change"] for t in info.trace]
    assert changes[-1] < 0.02 <= min(changes[:-1])


def test_discrepancy_returns_the_first_estimate_within_the_noise(case):
    _, psf, _, image = case
    for stop, per_voxel in (
        (mf.stop.Discrepancy("poisson"), lambda model: 2 * kl_div(image, model).mean()),
        (mf.stop.Discrepancy("gaussian", sigma=6.0), lambda model: ((image - model) ** 2).mean() / 36),
    ):
        found = []
        _, info = run(case, stop=stop, boundary="wrap", callback=lambda _, e: found.append(e))  # noqa: B023
        blur = mf.Blur(psf, image.shape, boundary="wrap")
        levels = [per_voxel(blur.forward(e)) for e in found]
        assert len(found) == info.num_iter
        assert levels[-1] <= 1 < min(levels[:-1])


def test_discrepancy_estimates_the_noise(case):
    _, psf, blurred, _ = case
    noisy = blurred + np.random.default_rng(1).normal(0, 8.0, blurred.shape)
    assert mf.stop.noise_level(noisy) == pytest.approx(8.0, rel=0.1)
    assert mf.stop.noise_level(noisy.ravel()[:1000]) == pytest.approx(8.0, rel=0.3)
    named = mf.richardson_lucy(noisy, psf, negative="clip", stop="discrepancy", return_info=True)[1]
    sigma = mf.stop.noise_level(np.maximum(noisy, 0))
    given = mf.richardson_lucy(
        noisy, psf, negative="clip", stop=mf.stop.Discrepancy(sigma=sigma), return_info=True
    )[1]
    assert named.num_iter == given.num_iter


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("shape", [(4096,), (96, 96), (24, 24, 24)])
def test_noise_of_the_voxels_that_are_seen(shape, share):
    rng = np.random.default_rng(1)
    image = 50 + rng.normal(0, 5, shape)
    seen = rng.random(shape) >= share
    levels = [mf.stop.noise_level(np.where(seen, image, value), seen=seen) for value in (0.0, 1e4)]
    assert levels[0] == levels[1] == pytest.approx(5, rel=0.2)
    assert mf.stop.noise_level(image, seen=np.full(shape, 0.5)) == mf.stop.noise_level(image)
    lonely = np.indices(shape).sum(0) % 2 == 0
    assert mf.stop.noise_level(image, seen=lonely) == 0
    with pytest.raises(ValueError, match=r"seen: got shape \(3,\)"):
        mf.stop.noise_level(image, seen=np.ones(3))


@pytest.mark.parametrize(
    "method", [mf.richardson_lucy, mf.landweber, mf.fista, mf.van_cittert, mf.blind_richardson_lucy]
)
def test_discrepancy_does_not_depend_on_what_dead_voxels_hold(method):
    truth = np.full((96, 96), 20.0)
    truth[30:60, 35:70] = 200
    psf = mf.psf.gaussian(3, (1, 1))
    image = np.maximum(mf.simulate(truth, psf, noise="gaussian", sigma=5.0), 0)

    def done(value, share):
        seen = np.random.default_rng(1).random(image.shape) >= share
        weights = None if share == 0 else seen.astype(float)
        options = {"weights": weights, "stop": "discrepancy", "return_info": True}
        options |= {"initial": "flat"}  # what dead voxels hold in a first estimate stays there
        if method is mf.fista:
            options["weight"] = 1e-3
        return method(np.where(seen, image, value), psf, **options)[-1].num_iter

    for share in (0.1, 0.3):
        assert done(0.0, share) == done(500.0, share)
        # They lower steps as well: where the image says less, less is corrected at a time.
        assert done(0.0, share) >= done(0.0, 0) > 1


def test_thinning_splits_counts(case):
    image = case[3]
    kept, held = mf.stop.Thinning(fraction=0.3, seed=4).split(image)
    np.testing.assert_array_equal(kept + held, image)
    assert held.sum() == pytest.approx(0.3 * image.sum(), rel=0.01)
    # Independent images, each Poisson: variances as large as means.
    mean = 0.3 * case[2]
    assert ((held - mean) ** 2 / mean).mean() == pytest.approx(1, abs=0.1)
    residuals = stats.pearsonr((held - mean).ravel(), (kept - 0.7 * case[2]).ravel())
    assert abs(residuals.statistic) < 4 / np.sqrt(image.size)
    again, other = mf.stop.Thinning(fraction=0.3, seed=4), mf.stop.Thinning(fraction=0.3, seed=5)
    np.testing.assert_array_equal(again.split(image)[1], held)
    assert (other.split(image)[1] != held).any()
    scaled, _ = mf.stop.Thinning(gain=2.5, fraction=0.3, seed=4).split(image * 2.5)
    np.testing.assert_allclose(scaled, kept * 2.5)


@pytest.mark.parametrize("gain", [0.5, 2.5, 100])
def test_thinning_of_integers_in_units_of_a_gain_cuts_nothing_off(gain, rng):
    image = rng.integers(0, 256, (60, 70)).astype(np.uint8)
    counts = np.rint(image / gain)  # those of 255 / 100 are 300 again, more than uint8 holds
    kept, held = mf.stop.Thinning(gain=gain).split(image)
    assert kept.dtype == held.dtype == np.float32
    np.testing.assert_array_equal(kept + held, counts * gain)
    np.testing.assert_array_equal(held / gain, np.rint(held / gain))


def test_thinning_of_many_counts_takes_no_memory_for_each():
    image = np.full(20, 2.0**52)
    kept, held = mf.stop.Thinning().split(image)
    np.testing.assert_array_equal(kept + held, image)
    assert abs(held / image - 0.5).max() < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("most", [200, 4000, 60000])  # tables of one digit, of two, and none
def test_thinning_splits_alike_on_any_number_of_threads(most, dtype, rng):
    shape = (3, 211, 527)
    assert np.prod(shape) > 5 * BLOCK and np.prod(shape) % BLOCK
    image = rng.integers(0, most, shape).astype(dtype)
    rule = mf.stop.Thinning(fraction=0.1, seed=4)
    kept, held = rule.split(image, num_threads=1)
    assert kept.dtype == held.dtype == dtype and kept.shape == held.shape == shape
    np.testing.assert_array_equal(kept + held, image)
    for threads in (2, 5, None):
        again = rule.split(image, num_threads=threads)
        np.testing.assert_array_equal(again[0], kept)
        np.testing.assert_array_equal(again[1], held)
    across = rule.split(np.asfortranarray(image), num_threads=2)
    np.testing.assert_array_equal(across[1], held)
    assert (rule.split(image, 1)[1] != held).any()
    np.testing.assert_array_equal(
        rule.split(image, 1)[1], mf.stop.Thinning(fraction=0.1, seed=5).split(image)[1]
    )


def test_thinning_has_another_stream_in_every_block():
    rule = mf.stop.Thinning(fraction=0.5)
    held = rule.split(np.full(3 * BLOCK + 5, 50.0))[1]
    blocks = held[: 3 * BLOCK].reshape(3, BLOCK) - 25
    correlations = np.corrcoef(blocks)[np.triu_indices(3, 1)]
    assert (abs(correlations) < 5 / np.sqrt(BLOCK)).all()
    # An image of one block is split as NumPy would with that seed.
    few = np.arange(500)
    np.testing.assert_array_equal(rule.split(few)[1], np.random.default_rng(0).binomial(few, 0.5))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.83])
@pytest.mark.parametrize("counts", [1, 3, 40, 255, 256, 300, 1023, 40000, 70000])
def test_thinning_is_binomial(counts, fraction, monkeypatch):
    monkeypatch.setattr(_binomial, "WORTH", 0)
    image = np.full(3 * BLOCK + 5, counts)
    held = mf.stop.Thinning(fraction=fraction, seed=1).split(image)[1]
    law = stats.binom(counts, fraction)
    assert held.mean() == pytest.approx(law.mean(), abs=5 * law.std() / np.sqrt(image.size))
    assert held.var() == pytest.approx(law.var(), rel=0.02)
    seen = np.bincount(held, minlength=counts + 1)
    expected = image.size * law.pmf(np.arange(counts + 1))
    usual = expected > 5
    seen, expected = np.append(seen[usual], seen[~usual].sum()), np.append(expected[usual], 1e-9)
    expected[-1] = image.size - expected[:-1].sum()
    if expected[-1] < 1e-3:  # what is left of one or two outcomes is rounding
        assert seen[-1] == 0
        seen, expected = seen[:-1], expected[:-1] * (image.size / expected[:-1].sum())
    assert stats.chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("probability", [1e-9, 0.1, 0.5, 0.97, 1 - 1e-12])
def test_tables_are_binomial(probability):
    """What each cell keeps and gives away adds up to the distribution, and nothing impossible is drawn."""
    for step, rows in ((1, 1), (1, 2), (1, 256), (256, 5)):
        table = _binomial.Table(step, rows, probability)
        share, hits = table.share.clip(0, 1).reshape(rows, -1), table.hits.reshape(rows, -1, 2)
        for row, (mine, which) in enumerate(zip(share, hits, strict=True)):
            tosses = step * row
            chances = np.zeros(step * rows + table.cells)
            np.add.at(chances, which, np.stack([mine, 1 - mine], axis=1) / table.cells)
            expected = stats.binom.pmf(np.arange(chances.size), tosses, probability)
            np.testing.assert_allclose(chances, expected, atol=3e-14)
            assert not chances[tosses + 1 :].any()


def test_thinning_uses_the_threads_of_the_call(case, monkeypatch):
    asked = []
    split = mf.stop.Thinning.split

    def watched(self, image, number=0, *, num_threads=None):
        asked.append(num_threads)
        return split(self, image, number, num_threads=num_threads)

    monkeypatch.setattr(mf.stop.Thinning, "split", watched)
    run(case, 3, stop="thinning", num_threads=3)
    mf.restore(case[3], case[1])
    assert asked[0] == 3 and set(asked[1:]) == {None}


def test_thinning_refuses_wherever_it_is():
    image = np.full((3, BLOCK), 20.0)
    for value, rule, words in (
        (20.5, mf.stop.Thinning(), "thinning needs counts"),
        (-1.0, mf.stop.Thinning(gain=1.0), "image: got values down to -1, expected counts"),
        (np.nan, mf.stop.Thinning(gain=1.0), "image: 1 of .* values are not finite"),
        (1e10, mf.stop.Thinning(gain=1e-9), "gain: got 1e-09, which makes 1e.19 counts of a voxel: too many"),
    ):
        wrong = image.copy()
        wrong[-1, -1] = value
        for threads in (1, 2):
            with pytest.raises(ValueError, match=words):
                rule.split(wrong, num_threads=threads)


@pytest.mark.parametrize("acceleration", [None, "biggs-andrews"])
def test_thinning_stops_near_the_best(case, acceleration, backend):
    truth, psf, _, image = case
    errors = []
    mf.richardson_lucy(
        image,
        psf,
        120 if acceleration is None else 40,
        acceleration=acceleration,
        callback=lambda _, e: errors.append(np.linalg.norm(e - truth)),
        backend=backend,
    )
    found, info = run(case, stop="thinning", acceleration=acceleration, backend=backend)
    assert info.stopped_by == "thinning"
    assert 1 < info.num_iter < len(errors)
    assert np.linalg.norm(found - truth) < (1.08 if acceleration is None else 1.25) * min(errors)
    assert np.linalg.norm(found - truth) < 0.95 * errors[-1]  # it was worth stopping
    assert np.argmin(info.settings["thinning"]["residuals"]) == info.num_iter
    fewer_held_out = mf.stop.Thinning(fraction=0.1, splits=4)
    found, info = run(case, len(errors), stop=fewer_held_out, acceleration=acceleration, backend=backend)
    # The few counts of sharp peaks decide here, and a tenth of them tells late when to stop.
    assert np.linalg.norm(found - truth) < 1.2 * min(errors)
    assert len(info.settings["thinning"]["residuals"]) == len(errors)


def test_thinning_splits_and_sums(case, backend):
    """The residuals are those of the model of the kept counts, of all splits, each with a seed of its own."""
    _, psf, _, image = case
    rule = mf.stop.Thinning(fraction=0.25, seed=3, splits=2)
    info = run(case, 4, stop=rule, boundary="wrap", backend=backend)[1]
    blur = mf.Blur(psf, image.shape, boundary="wrap")
    flat = np.full(image.shape, 0.75 * image.mean())
    residuals = np.zeros(4)
    for number in range(2):
        kept, held = rule.split(image, number)
        np.testing.assert_array_equal(kept + held, image)
        for k in range(4):
            model = mf.richardson_lucy(kept, psf, k, boundary="wrap", initial=flat) if k else flat
            residuals[k] += ((held - blur.forward(model) / 3) ** 2).sum()
    np.testing.assert_allclose(info.settings["thinning"]["residuals"], residuals, rtol=1e-5)
    assert not np.array_equal(rule.split(image)[0], rule.split(image, 1)[0])


def test_thinning_with_readout_noise(case, backend):
    """Counts plus readout variance are split together, and the model of either part has its share."""
    _, _, _, image = case
    rule = mf.stop.Thinning(gain=1.0, fraction=0.1)
    one, info = run(case, 30, stop=rule, readout_variance=2.0, backend=backend)
    per_voxel = np.full(image.shape, 2.0, image.dtype)
    other, same = run(case, 30, stop=rule, readout_variance=per_voxel, backend=backend)
    np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_allclose(
        info.settings["thinning"]["residuals"], same.settings["thinning"]["residuals"], rtol=1e-4
    )
    assert 0 < info.num_iter < 30


def test_thinning_of_integers_with_readout_noise(case):
    """The counts are integers, though what the readout variance makes of them is none."""
    named = run(case, 30, stop="thinning", readout_variance=2.3)[1]
    assert named.num_iter == run(case, 30, stop=mf.stop.Thinning(gain=1.0), readout_variance=2.3)[1].num_iter
    with pytest.raises(ValueError, match="thinning needs counts"):
        mf.richardson_lucy(case[3] + 0.5, case[1], stop="thinning", readout_variance=2.5)


@pytest.mark.parametrize("kind", ["tikhonov", "good-roughness", "entropy", "tv"])
def test_thinning_regularizes_the_part_like_the_whole(case, kind):
    """What the split run saw is a run on the kept counts alone."""
    _, psf, _, image = case
    rule = mf.stop.Thinning(gain=1.0, fraction=0.5)
    options = {"regularizer": (kind, 0.02), "boundary": "wrap"}
    residuals = run(case, 4, stop=rule, **options)[1].settings["thinning"]["residuals"]
    kept, held = rule.split(image)
    blur = mf.Blur(psf, image.shape, boundary="wrap")
    flat = np.full(image.shape, image.mean() / 2)
    estimates = [flat]
    mf.richardson_lucy(kept, psf, 3, initial=flat, callback=lambda _, e: estimates.append(e), **options)
    expected = [((held - blur.forward(e)) ** 2).sum() for e in estimates]
    # The regularizer's level is the mean of the kept counts, half of that of all but for chance.
    np.testing.assert_allclose(residuals, expected, rtol=1e-3)


def test_time_budget(case):
    begun = time.perf_counter()
    _, info = run(case, 10**6, stop=("time", 0.2))
    assert info.stopped_by == "time" and info.num_iter > 1
    assert time.perf_counter() - begun < 5  # it ended; how exactly depends on the machine


def test_noise_that_hides_in_a_background_of_zeros_is_said(rng):
    """A scan cut out of its background: more than half of the details are 0, and so is their median."""
    image = np.zeros((40, 40))
    image[10:30, 10:30] = rng.normal(100, 5, (20, 20))
    for method in (mf.richardson_lucy, mf.landweber):
        with pytest.warns(UserWarning, match=r"stop: the image's noise was estimated as 0.*sigma="):
            method(image, np.ones((3, 3)), 5, stop="discrepancy")


def test_image_within_the_noise_from_the_start():
    flat = np.full((20, 20), 7.0)
    estimate, info = mf.richardson_lucy(
        flat, np.ones((3, 3)), stop=mf.stop.Discrepancy(sigma=1.0), return_info=True
    )
    assert info.num_iter == 0 and info.stopped_by == "discrepancy"
    np.testing.assert_allclose(estimate, 7.0, rtol=1e-12)


def test_plot(case):
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed")
    info = run(case, 5, stop="i-divergence")[1]
    figure = mf.stop.plot(info)
    assert [a.get_ylabel() for a in figure.axes] == ["i divergence", "squared residual"]
    assert len(figure.axes[0].lines[0].get_xdata()) == info.num_iter
    with pytest.raises(ValueError, match="holds no sums"):
        mf.stop.plot(run(case, 5)[1])


def test_refusals(case):
    _, psf, _, image = case
    for stop, words in (
        (("time",), r"stop: got \('time',\), expected the pair"),
        (("time", -1.0), r"stop\[1\]"),
        ("thining", "stop: got 'thining', expected one of"),
    ):
        with pytest.raises(ValueError, match=words):
            mf.richardson_lucy(image, psf, stop=stop)
    with pytest.raises(ValueError, match="thinning needs counts"):
        mf.richardson_lucy(image + 0.5, psf, stop="thinning")
    with pytest.raises(ValueError, match="does not go with negative='shift'"):
        mf.richardson_lucy(image - 3, psf, stop="thinning", negative="shift")
    for make, words in (
        (lambda: mf.stop.RelativeChange(0), "tolerance"),
        (lambda: mf.stop.Thinning(fraction=1.0), "fraction"),
        (lambda: mf.stop.Thinning(gain=-1), "gain"),
        (lambda: mf.stop.Thinning(splits=0), "splits"),
        (lambda: mf.stop.Discrepancy("white"), "noise"),
        (lambda: mf.stop.Discrepancy(sigma=0), "sigma"),
        (lambda: mf.stop.TimeBudget(0), "seconds"),
        (lambda: mf.stop.noise_level(np.ones((1, 1))), "image"),
        (lambda: mf.stop.noise_level(np.array([1.0, np.nan, 2.0])), "image: 1 of 3 values are not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(TypeError, match="image: got a masked array"):
        mf.stop.noise_level(np.ma.array(image, mask=image > 3))
