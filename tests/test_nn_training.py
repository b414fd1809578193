"""Training of networks: losses, optimizers, the loop, checkpoints, and what goes wrong."""

import json
import math

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import nn
from medeconv_fast.nn._engine import Engine
from medeconv_fast.nn._losses import LOSSES

safetensors = pytest.importorskip("safetensors", reason="SKIPPED: safetensors is not installed (extra nn)")


def blurred_pairs(count, size=16, seed=0, dtype=np.float32):
    """Random blocks and their blur."""
    rng = np.random.default_rng(seed)
    y = np.kron(rng.random((count, 1, size // 4, size // 4)), np.ones((4, 4)))
    psf = mf.psf.gaussian(fwhm=(2, 2), voxel_size=(1, 1))
    x = mf.Blur(psf, (size, size), boundary="reflect").forward(y[:, 0])[:, None]
    return x.astype(dtype), y.astype(dtype)


def tiny(**options):
    return nn.DeconvNet(filters=4, seed=1, **options)


# ---------------------------------------------------------------- losses and optimizers


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_loss_gradient_by_finite_differences(name, ndim, rng, tol):
    loss = LOSSES[name]()
    shape = (2, 2, 9, 8, 10)[: ndim + 2]
    target, prediction = 1 + rng.random(shape), 1 + rng.random(shape)
    # Where the Poisson loss goes on as a tangent, and as a parabola.
    prediction[0, 0].flat[:2] = -0.5, 1e-4
    _, grad = loss(prediction, target, Engine(), None)
    for _ in range(3):
        direction = rng.standard_normal(shape)
        high, low = (loss(prediction + s * 1e-5 * direction, target, Engine(), None)[0] for s in (1, -1))
        error = abs((high - low) / 2e-5 - float((grad * direction).sum()))
        assert error < tol("finite_differences") * np.linalg.norm(grad) * np.linalg.norm(direction)


def test_poisson_loss_has_a_lowest_value():
    """Where there is no count, too: at 0."""
    target = np.zeros((4, 1, 8, 8))
    target[:, :, :4] = 3
    loss = LOSSES["poisson"]()
    lowest, _ = loss(target, target, Engine(), None)
    for other in (-0.1, -40.0, 0.5):
        for dark in (target, 0 * target):
            assert loss(np.where(dark, dark, other), dark, Engine())[0] > loss(dark, dark, Engine())[0]
    net = nn.Sequential([nn.Conv(1, 1)]).compile(nn.Adam(0.05), "poisson")
    history = net.fit(target / 3, target, 300, 4)
    assert history["loss"][-1] == pytest.approx(lowest, abs=0.01)
    assert np.abs(net.predict(target / 3) - target).max() < 0.1


@pytest.mark.parametrize("name", ["mse", "mae", "poisson"])
def test_loss_weights_leave_values_out(name, rng):
    loss = LOSSES[name]()
    target, prediction = 1 + rng.random((1, 1, 4, 6)), 1 + rng.random((1, 1, 4, 6))
    weights = np.zeros_like(target)
    weights[..., :3] = 1
    value, grad = loss(prediction, target, Engine(), weights)
    prediction[..., 3:] = 77.0
    if name == "poisson":  # its tangent starts at a part of all targets' mean
        assert (target > 0.1).all()
    assert loss(prediction, target, Engine(), weights)[0] == pytest.approx(value, rel=1e-12)
    assert not grad[..., 3:].any()


def test_ssim_loss_is_the_metric(rng):
    target, prediction = rng.random((1, 1, 20, 17)), rng.random((1, 1, 20, 17))
    value, _ = LOSSES["ssim"]()(prediction, target, Engine(), None)
    assert 1 - value == pytest.approx(mf.metrics.ssim(target[0, 0], prediction[0, 0]), rel=1e-10)
    mse = np.square(target - prediction).mean() / np.ptp(target) ** 2
    rln, _ = LOSSES["rln"]()(prediction, target, Engine(), None)
    assert rln == pytest.approx(mse - math.log((2 - value) / 2), rel=1e-10)


def test_clipping(rng):
    weight = np.zeros(4)
    nn.SGD(1.0, clip_norm=0.5).update([weight], [np.array([3.0, 0, 4, 0])])
    np.testing.assert_allclose(weight, [-0.3, 0, -0.4, 0])
    weight[...] = 0
    nn.SGD(1.0, clip_value=2.0).update([weight], [np.array([3.0, 1, -4, 0])])
    np.testing.assert_allclose(weight, [-2, -1, 2, 0])


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match=r"nesterov: got True with momentum 0\.0, expected"):
        nn.SGD(0.1, nesterov=True)


def test_schedules():
    assert nn.CosineDecay(1.0, 10, final=0.2, warmup=10)(10) == 0.2  # nothing but a rise
    cosine = nn.CosineDecay(1.0, 110, final=0.2, warmup=10)
    assert cosine(0) == pytest.approx(0.1) and cosine(10) == 1.0
    assert cosine(60) == pytest.approx(0.6) and cosine(1000) == pytest.approx(0.2)
    decay = nn.ExponentialDecay(1.0, 10, 0.5)
    assert decay(5) == pytest.approx(0.5**0.5)
    assert nn.ExponentialDecay(1.0, 10, 0.5, staircase=True)(19) == 0.5
    optimizer = nn.SGD(decay)
    optimizer.update([np.zeros(1)], [np.ones(1)])
    assert optimizer.learning_rate == decay(1)


# ---------------------------------------------------------------- the loop


def test_fit_lowers_the_loss_and_says_so(capsys):
    x, y = blurred_pairs(24)
    net = tiny().compile(optimizer="adam", loss="mse", learning_rate=5e-3)
    before = net.evaluate(x, y)
    seen = []
    history = net.fit(
        x,
        y,
        epochs=8,
        batch_size=6,
        validation_data=(x[:4], y[:4]),
        progress=True,
        callbacks=[lambda e, logs: seen.append(e)],
    )
    after = net.evaluate(x, y)
    assert after["psnr"] > before["psnr"] + 0.5
    assert before["psnr"] == pytest.approx(mf.metrics.psnr(y, x), abs=1e-4)  # it starts as the identity
    assert seen == list(range(1, 9)) and len(history["loss"]) == 8 == len(history["val_psnr"])
    assert history.stopped_by == "epochs"
    text = capsys.readouterr().err
    assert "epoch 8/8" in text and "PSNR" in text and "left" in text


def test_same_seed_same_weights_for_any_number_of_threads():
    x, y = blurred_pairs(12, 32)
    runs = []
    for threads, seed in ((1, 5), (2, 5), (3, 5), (1, 6)):
        net = nn.DeconvNet(filters=16, seed=1, num_threads=threads).compile()
        net.fit(x, y, epochs=2, batch_size=5, seed=seed, augment=nn.Augmentation(noise=0.01))
        runs.append(np.concatenate([w.ravel() for w in net.get_weights()]))
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    assert (runs[0] != runs[3]).any()
    assert (nn.DeconvNet(seed=1).get_weights()[0] != nn.DeconvNet(seed=2).get_weights()[0]).any()


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_run_resumes_exactly(tmp_path, optimizer):
    x, y = blurred_pairs(10)

    def run(path, kill_after=None, batch_size=4):
        net = tiny()
        made = nn.SGD(0.05, momentum=0.9) if optimizer == "sgd" else nn.Adam(nn.CosineDecay(1e-2, 18))
        net.compile(made, "mse")

        def kill(epoch, logs):
            if epoch == kill_after:
                raise Killed

        history = net.fit(
            x,
            y,
            6,
            batch_size,
            (x[:2], y[:2]),
            augment=nn.Augmentation(),
            checkpoint=path,
            resume=True,
            callbacks=[nn.EarlyStopping(patience=50), nn.ReduceOnPlateau(patience=1), kill],
        )
        return net, history

    unbroken, history = run(tmp_path / "a.safetensors")
    for kill_after in (3, 5):
        with pytest.raises(Killed):
            run(tmp_path / "b.safetensors", kill_after)
    resumed, again = run(tmp_path / "b.safetensors")
    for one, other in zip(unbroken.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(history.epochs, again.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    # A checkpoint is a network too; and it belongs to its training.
    assert isinstance(nn.DeconvNet.load(tmp_path / "b.safetensors"), nn.DeconvNet)
    with pytest.raises(ValueError, match="batch_size is 4, expected 5"):
        run(tmp_path / "b.safetensors", batch_size=5)


def test_a_checkpoint_belongs_to_its_data(tmp_path):
    """Training that goes on with other images, or another PSF, would be of neither."""
    x, y = blurred_pairs(6)

    def run(x, y, validation=(x[:2], y[:2])):
        tiny().compile().fit(x, y, 1, 3, validation, checkpoint=tmp_path / "c.safetensors", resume=True)

    run(x, y)
    run(x, y)
    for other in ((y, y), (x, x), (x[::-1], y[::-1]), (x, y, (y[:2], y[:2]))):
        with pytest.raises(ValueError, match="trained on other images, targets, PSF or validation data"):
            run(*other)

    other_psf = mf.psf.gaussian(4.0, (1.0, 1.0), PSF.shape)

    def supervise(psf, path, **options):
        pairs = nn.SimulatedPairs([scene(2)], psf, (16, 16), 8, photons=100)
        net = nn.RLNet(PSF, filters=2).compile()
        net.fit(pairs, None, 1, 4, checkpoint=tmp_path / path, resume=True, **options)

    supervise(PSF, "d.safetensors")
    supervise(PSF, "d.safetensors")
    with pytest.raises(ValueError, match="other images, targets, PSF"):
        supervise(mf.psf.gaussian(8.0, (1.0, 1.0), (15, 15)), "d.safetensors")

    def alone(psf):
        options = {"patch": (16, 16), "samples": 8, "checkpoint": tmp_path / "e.safetensors", "resume": True}
        nn.fit_without_truth(nn.RLNet(psf, filters=2), [scene(2)], psf, 1, 4, **options)

    alone(PSF)
    alone(PSF)
    with pytest.raises(ValueError, match=r"which is not trained \(of a known PSF, or frozen\), has other"):
        alone(other_psf)


def test_a_checkpoint_belongs_to_its_network_and_loss(tmp_path):
    x, y = blurred_pairs(4)
    ranged = LOSSES["ssim"]()

    def run(net=None, loss=ranged, **options):
        net = net or tiny(**options)
        net.compile(loss=loss).fit(x, y, 1, 4, checkpoint=tmp_path / "c.safetensors", resume=True)

    ranged.data_range = 2.0
    run()
    run()
    for options, match in (
        ({"dtype": "float64"}, "dtype is 'float32', expected 'float64'"),
        ({"residual": False}, "network is .*'residual': True.*'residual': False"),
        ({"net": nn.Sequential([nn.Conv(1)])}, "kind is 'DeconvNet', expected 'Sequential'"),
        ({"loss": type(ranged)(3.0)}, r"loss_options is {'data_range': 2.0}, expected {'data_range': 3.0}"),
        ({"loss": "ssim"}, r"loss_options is {'data_range': 2.0}, expected None"),
    ):
        with pytest.raises(ValueError, match=match):
            run(**options)
    run()


def test_an_optimizer_belongs_to_its_weights(rng):
    """Stages that train one layer each, of the same shape, start as a new optimizer does."""
    x, y = blurred_pairs(4)
    made = []
    for shared in (True, False):
        net = nn.Sequential([nn.Conv(2), nn.Conv(2), nn.Conv(2), nn.Conv(1)], seed=3)
        optimizer = nn.Adam(1e-2)
        for layer in net.layers[1:3]:
            for other in net.layers:
                other.trainable = other is layer
            net.compile(optimizer if shared else nn.Adam(1e-2)).fit(x, y, 2, 4)
        assert net._optimizer.updates == 2
        updates = net._optimizer.updates
        net.compile(net._optimizer, "mae")
        assert net._optimizer.updates == updates  # the same weights: it goes on
        made.append(np.concatenate([w.ravel() for w in net.get_weights()]))
    np.testing.assert_array_equal(*made)
    wide = nn.Sequential([nn.Conv(1)], dtype="float64").compile(optimizer)
    wide.fit(x, y, 1, 4)
    assert all(a.dtype == np.float64 for arrays in optimizer.state.values() for a in arrays)


def test_early_stopping_handles_overfitting():
    """Four noisy patches are learnt by heart: the training loss falls on, the validation loss turns."""
    rng = np.random.default_rng(3)
    x, y = blurred_pairs(4, 16, seed=1)
    xv, yv = blurred_pairs(24, 16, seed=2)
    x, xv = (a + rng.normal(0, 0.1, a.shape).astype(np.float32) for a in (x, xv))
    options = {"filters": 32, "residual": False, "seed": 1}
    free = nn.DeconvNet(**options).compile(learning_rate=1e-2)
    history = free.fit(x, y, 250, 4, (xv, yv))
    best = int(np.argmin(history["val_loss"]))
    assert history["loss"][-1] < 0.8 * history["loss"][best]
    assert history["val_loss"][-1] > 1.05 * history["val_loss"][best]
    stopped = nn.DeconvNet(**options).compile(learning_rate=1e-2)
    stopping = nn.EarlyStopping(patience=20)
    short = stopped.fit(x, y, 250, 4, (xv, yv), callbacks=[stopping])
    assert short.stopped_by == "early stopping" and len(short.epochs) < 250
    assert stopped.evaluate(xv, yv)["loss"] == pytest.approx(min(short["val_loss"]), rel=1e-6)


def test_checkpoints_hold_the_best_weights(tmp_path):
    """As the network has them after `fit`; not the last ones."""
    x, y = blurred_pairs(8)
    path = tmp_path / "c.safetensors"
    net = nn.Sequential([nn.Conv(2), nn.Conv(1)], seed=1)
    net.layers[0].trainable = False
    weights = []
    callbacks = [nn.EarlyStopping("learning_rate"), lambda *_: weights.append(net.get_weights())]
    # A rate that stays: the first epoch is the best.
    net.compile().fit(x, y, 3, 8, checkpoint=path, callbacks=callbacks)
    for made in (net, nn.Model.load(path)):
        for one, other in zip(made.get_weights(), weights[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_checkpoint_that_exists_is_not_replaced_unasked(tmp_path):
    x, y = blurred_pairs(4)
    path = tmp_path / "c.safetensors"
    tiny().save(path)
    held = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"c\.safetensors exists already; expected resume=True"):
        tiny().compile().fit(x, y, 1, 4, checkpoint=path)
    assert path.read_bytes() == held
    with pytest.raises(FileNotFoundError, match="does not exist"):  # before the first epoch, not after
        tiny().compile().fit(
            x, y, 1, 4, checkpoint=tmp_path / "no" / "c.safetensors", callbacks=[lambda *_: 1 / 0]
        )
    tiny().compile().fit(x, y, 1, 4, checkpoint=path, overwrite=True)
    assert path.read_bytes() != held


def test_what_is_measured_on_is_not_what_the_first_epoch_drew(rng):
    """Of one sharp volume: other patches, other noise."""
    drawn = []

    class Pairs(nn.SimulatedPairs):
        def pair(self, number, generator):
            made = super().pair(number, generator)
            drawn.append(made[0].tobytes())
            return made

    pairs = Pairs([rng.random((24, 24), np.float32)], PSF, (8, 8), 4, photons=100)
    tiny().compile().fit(pairs, None, 1, 4, pairs, seed=0)
    assert len(drawn) == 8 and len(set(drawn)) == 8


@pytest.mark.parametrize("make", [nn.EarlyStopping, nn.ReduceOnPlateau])
def test_callbacks_remember_that_nothing_is_better(make, tmp_path):
    """A PSNR of infinity is the best there is, in a resumed run too."""
    x, _ = blurred_pairs(4)
    waited = []
    for epochs in (2, 4):
        callback = make("psnr", 10)
        net = tiny().compile()  # the identity: nothing to learn
        net.fit(x, x, epochs, 4, callbacks=[callback], checkpoint=tmp_path / "c.safetensors", resume=True)
        waited.append(callback.waited)
        assert callback.best == -math.inf
    assert waited == [1, 3]


def test_plateau_lowers_the_rate():
    x, y = blurred_pairs(4)
    net = tiny().compile(learning_rate=1e-9)  # nothing improves by 1
    history = net.fit(x, y, 5, 4, callbacks=[nn.ReduceOnPlateau(patience=1, factor=0.5, min_delta=1.0)])
    assert history["learning_rate"] == pytest.approx([1e-9, 1e-9, 5e-10, 2.5e-10, 1.25e-10])


def test_history_draws_itself(tmp_path):
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")
    x, y = blurred_pairs(4)
    history = tiny().compile().fit(x, y, 2, 4, (x, y))
    history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no epochs"):
        nn.History().plot()


# ---------------------------------------------------------------- data


def test_augmentation_keeps_pairs_together(rng):
    change = nn.Augmentation(crop=(6, 6))
    x = rng.random((1, 12, 12))
    y = np.kron(x, np.ones((1, 2, 2)))
    seen = set()
    for seed in range(60):
        a, b = change(x, y, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.kron(a, np.ones((1, 2, 2))), b)
        seen.add(tuple(a[0, :2, :2].ravel()))
    assert len(seen) > 40
    flipped = {nn.Augmentation((False, True), False)(x, y, rng)[0].tobytes() for _ in range(20)}
    assert flipped == {x.tobytes(), x[:, :, ::-1].tobytes()}
    with pytest.raises(ValueError, match="flips: got 3 values, expected one or 2"):
        nn.Augmentation((False, True, True))(x, y, rng)
    noisy, same = nn.Augmentation(False, False, noise=0.5)(x, y, rng)
    assert 0.3 < (noisy - x).std() < 0.7 and same is y


def test_augment_may_write_and_must_give_a_pair():
    x, y = blurred_pairs(4)
    net, before = tiny().compile(), (x.copy(), y.copy())

    def brighter(a, b, generator):
        a += 1
        b += 1
        return a, b

    net.fit(x, y, 1, 4, augment=brighter)
    np.testing.assert_array_equal((x, y), before)
    for wrong in (lambda a, b, generator: a, lambda a, b, generator: (a, 1.0), lambda *_: None):
        with pytest.raises(
            TypeError, match=r"(?s)augment: got .* from it, expected \(x, y\), two arrays of 3 axes"
        ):
            net.fit(x, y, 1, 4, augment=wrong)


def test_patches_come_from_their_volumes(tmp_path, rng):
    images = [rng.random((5, 20, 22)), rng.random((4, 18, 16))]
    targets = [2 * np.kron(image, np.ones((1, 2, 2))) for image in images]
    np.save(tmp_path / "0.npy", images[0])
    sampler = nn.PatchSampler([tmp_path / "0.npy", images[1]], targets, (8, 6), samples=40)
    starts = set()
    for number in range(40):
        x, y = sampler.pair(number, np.random.default_rng(number))
        assert x.shape == (1, 8, 6) and y.shape == (1, 16, 12)
        np.testing.assert_array_equal(2 * np.kron(x, np.ones((1, 2, 2))), y)
        volume = images[number % 2]
        windows = np.lib.stride_tricks.sliding_window_view(volume, (8, 6), (1, 2))
        assert (windows == x[0]).all((-1, -2)).sum() == 1
        starts.add(float(x[0, 0, 0]))
    assert len(starts) > 30
    net = nn.DeconvNet(scale=2, filters=2).compile()
    assert len(net.fit(sampler, epochs=2, batch_size=8).epochs) == 2


def test_patch_sampler_keeps_to_its_memory(tmp_path, rng):
    pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
    paths = []
    for i in range(6):
        path = tmp_path / f"{i}.tif"
        mf.io.write(path, mf.io.Volume(np.full((4, 32, 32), i, np.float32), (1.0, 1.0, 1.0)))
        paths.append(path)
    sampler = nn.PatchSampler(paths, paths, (4, 8, 8), samples=30, memory=2 * 4 * 32 * 32 * 4)
    order = sampler.order(np.random.default_rng(0))
    assert sorted(order) == list(range(30))
    assert (np.diff(order % 6) != 0).sum() == 5  # every file is read once
    for number in order:
        x, y = sampler.pair(int(number), np.random.default_rng(1))
        assert (x == number % 6).all() and (y == x).all()
        assert sum(v.array.nbytes for v in sampler._kept.values()) <= sampler.memory


@pytest.mark.parametrize("scale", [1, 2])
def test_patch_sampler_refuses_files_of_another_place(scale, tmp_path, rng):
    """A target written from right to left has the shape of its image, and shows other places."""
    pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    shape = tuple(scale * n for n in (8, 9, 10))
    affine, array = np.diag([0.8, 0.9, 2.0, 1.0]), rng.random(shape).astype(np.float32)
    image = mf.io.Volume(array[::scale, ::scale, ::scale], (2.0, 0.9, 0.8), affine, "mm")
    mf.io.write(tmp_path / "image.nii", image)
    fine = affine @ np.diag([1 / scale] * 3 + [1.0])
    fine[:3, 3] = np.diag(affine)[:3] * (1 / scale - 1) / 2
    target = mf.io.Volume(array, tuple(v / scale for v in image.voxel_size), fine, "mm")
    mf.io.write(tmp_path / "target.nii", target)
    mirrored = fine @ np.diag([-1.0, 1, 1, 1])
    mirrored[:3, 3] = fine[:3, 3] + fine[:3, 0] * (shape[2] - 1)
    mf.io.write(tmp_path / "flipped.nii", mf.io.Volume(array[:, :, ::-1], target.voxel_size, mirrored, "mm"))
    paths = [tmp_path / f"{name}.nii" for name in ("image", "target", "flipped")]
    x, y = nn.PatchSampler(paths[:1], paths[1:2], (4, 4, 4), 1).pair(0, np.random.default_rng(1))
    np.testing.assert_array_equal(x, y[:, ::scale, ::scale, ::scale])
    with pytest.raises(ValueError, match=r"targets\[0\]: lies .* away from the image"):
        nn.PatchSampler(paths[:1], paths[2:], (4, 4, 4), 1).pair(0, np.random.default_rng(1))
    nn.PatchSampler(paths[:1], [array], (4, 4, 4), 1).pair(0, np.random.default_rng(1))  # it does not say


# ---------------------------------------------------------------- applying, files, layouts


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_tiles_give_the_same(scale, ndim, rng, tol):
    net = nn.DeconvNet(scale=scale, filters=4, ndim=ndim, residual=True, seed=2)
    for weight in net.named_weights().values():
        weight[...] = rng.standard_normal(weight.shape)
    x = rng.random((2, 1, *(11, 23, 19)[:ndim])).astype(np.float32)
    whole = net.predict(x)
    assert whole.shape == (2, 1, *(scale * n for n in x.shape[2:]))
    tiled = net.predict(x, batch_size=1, tile=5)
    assert np.abs(tiled - whole).max() < tol("backends", np.float32) * np.abs(whole).max()


def test_tiles_follow_strides(rng):
    layers = [nn.Conv(3, 3, 2), nn.Conv(3, 3), nn.ConvTranspose(1, 4, 2)]
    net = nn.Sequential(layers, dtype="float64", seed=4)
    x = rng.random((1, 1, 26, 30))
    np.testing.assert_allclose(net.predict(x, tile=(5, 7)), net.predict(x), atol=1e-12)
    norm = nn.Sequential([nn.Conv(2), nn.InstanceNorm()])
    with pytest.raises(ValueError, match=r"tile: .*whole images"):
        norm.predict(x, tile=8)


PERIODIC = {
    "conv": lambda: nn.Sequential([nn.Conv(4, 5, padding_mode="circular"), nn.Conv(1)]),
    "transpose": lambda: nn.Sequential([nn.ConvTranspose(1, 3, padding_mode="circular")]),
    "blur": lambda: nn.Sequential([nn.FixedBlur(PSF, "wrap")]),
    "rl": lambda: nn.RLNet(PSF, boundary="wrap", filters=2),
}


@pytest.mark.parametrize("name", PERIODIC)
def test_tiles_know_no_other_edge(name, rng):
    net, x = PERIODIC[name](), rng.random((1, 1, 40, 33), np.float32)
    with pytest.raises(ValueError, match=r"tile: got 8, expected None: layer '\w+' \(\w+\) looks at whole"):
        net.predict(x, tile=8)
    assert net.predict(x).shape == x.shape and "the whole image" in net.summary()
    alone = nn.Sequential([nn.Conv(1, 1, padding_mode="circular"), nn.FixedBlur(np.ones((1, 1)), "wrap")])
    np.testing.assert_allclose(alone.predict(x, tile=8), alone.predict(x), atol=1e-6)  # nothing beyond


MISFITS = {
    "valid": lambda: [nn.Conv(2), nn.Conv(1, 3, padding="valid", name="odd")],
    "wide": lambda: [nn.Conv(1, 3, padding=3, name="odd"), nn.Conv(1)],
    "enlarged": lambda: [nn.ConvTranspose(1, 3, 2, padding=1, name="odd")],
    "rounded": lambda: [nn.Conv(4, 3, 2), nn.ConvTranspose(1, 4, 2, name="odd")],  # an odd axis
}


@pytest.mark.parametrize("name", MISFITS)
def test_tiles_that_cannot_be_joined_are_refused(name, rng):
    net, x = nn.Sequential(MISFITS[name]()), rng.random((1, 1, 16, 33), np.float32)
    layer = net.layers[-1 if name != "wide" else 0]
    with pytest.raises(ValueError, match=rf"tile: layer 'odd' \({type(layer).__name__}\) makes "):
        net.predict(x, tile=3)
    net.predict(x)
    evened = nn.Sequential([nn.Conv(1, 3, padding="valid"), nn.Conv(1, 3, padding=2)], seed=2)
    np.testing.assert_allclose(evened.predict(x, tile=3), evened.predict(x), atol=1e-6)


def test_predict_follows_the_image(rng):
    net = tiny()
    x = rng.random((3, 1, 9, 8))
    assert net.predict(x).dtype == np.float64
    assert net.predict((255 * x).astype(np.uint8)).dtype == np.float32
    np.testing.assert_array_equal(net.predict(x, batch_size=2), x)  # the last layer starts at zero
    np.testing.assert_array_equal(net.predict((255 * x).astype(np.uint8))[0], (255 * x).astype(np.uint8)[0])


def every_layer():
    image = nn.Input(2)
    signal = nn.Conv(4, 3, activation="leaky_relu")(image)
    signal = nn.GroupNorm(2)(nn.LeakyReLU(0.3)(signal))
    inner = nn.Input(4)
    block = nn.Graph(inner, nn.Softplus()(nn.Conv(4, (3, 1))(inner)), recompute=True, name="block")
    signal = nn.InstanceNorm(affine=False)(block(block(signal)))
    signal = nn.Concat()(signal, image)
    return nn.Model(image, nn.ConvTranspose(1, 4, 2)(signal), seed=3)


@pytest.mark.parametrize(
    "make",
    [tiny, every_layer, lambda: nn.Sequential([nn.Conv(3, activation="relu"), nn.UpSampling(2, "linear")])],
)
def test_saved_networks_are_the_same(make, tmp_path, rng):
    net = make()
    for name, weight in net.named_weights().items():
        weight[...] = rng.random(weight.shape) if "psf" in name else rng.standard_normal(weight.shape)
    net.notes["scale"] = 2.5
    net.save(tmp_path / "net.safetensors")
    again = nn.Model.load(tmp_path / "net.safetensors")
    assert type(again) is type(net) and again.notes == {"scale": 2.5}
    x = rng.random((1, net.channels, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(x), net.predict(x))
    assert again.summary() == net.summary()
    with pytest.raises(FileExistsError):
        net.save(tmp_path / "net.safetensors")


def test_a_frozen_graph_stays_as_it_is(rng):
    """And what is around it does not; weight decay would show."""
    start, image = nn.Input(1), nn.Input(1)
    block = nn.Graph(start, nn.Conv(1)(nn.Conv(2)(start)), name="block")
    net = nn.Model(image, nn.Conv(1, name="own")(block(image)), seed=2)
    block.trainable = False
    before = net.get_weights()
    x = rng.random((4, 1, 8, 8), np.float32)
    net.compile(nn.SGD(0.1, weight_decay=0.5)).fit(x, x, 2, 4)
    same = [np.array_equal(one, other) for one, other in zip(before, net.get_weights(), strict=True)]
    assert same == [True] * 4 + [False] * 2
    assert "10 of them trained" in net.summary() and net.summary().count("(frozen)") == 1


FREEZABLE = {
    "deconv": tiny,
    "learnt": lambda: nn.RLNet(ndim=2, filters=2),
    "levels": lambda: nn.RLNet(PSF, filters=2, levels=1),
    "sequential": lambda: nn.Sequential([nn.Conv(2), nn.Conv(1)]),
}


@pytest.mark.parametrize("name", FREEZABLE)
def test_what_is_frozen_stays_so(name, tmp_path):
    net = FREEZABLE[name]()
    layers = [layer for _, layer in net.members() if isinstance(layer, nn.Graph) or layer.shapes()]
    for number in (0, -1):  # the first is a graph or has a PSF: frozen or not from the start
        layers[number].trainable = not layers[number].trainable
    flags = [layer.trainable for _, layer in net._freezable()]
    net.save(tmp_path / "net.safetensors")
    made = [nn.Model.load(tmp_path / "net.safetensors")]
    if name == "levels":
        made.append(net.with_psf(PSF))
    for other in made:
        assert [layer.trainable for _, layer in other._freezable()] == flags
        assert [layer.name for layer in other.trained_leaves()] == [la.name for la in net.trained_leaves()]
    net.trainable = False
    net.save(tmp_path / "net.safetensors", overwrite=True)
    assert not nn.Model.load(tmp_path / "net.safetensors").trained()


def test_a_layer_used_twice_is_saved_once(tmp_path, rng):
    conv = nn.Conv(1, 3, name="twice")
    net = nn.Sequential([conv, nn.ReLU(), conv], seed=2)
    net.save(tmp_path / "net.safetensors")
    again = nn.Sequential.load(tmp_path / "net.safetensors")
    x = rng.random((1, 1, 9, 8)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(x), net.predict(x))
    assert len(again.get_weights()) == 2


def test_options_of_numpy_are_saved(tmp_path):
    three, two = np.int64(3), np.int64(2)
    around = [(np.int64(0), two), np.array([1, 1])]
    layers = [nn.Conv(three, three, padding=around), nn.Conv(2, np.array([3, 1]), dilation=(two, 1))]
    layers += [nn.UpSampling(two), nn.UpSampling((two, 1)), nn.ConvTranspose(1, 4, two)]
    x, y = blurred_pairs(2)
    for net in (
        nn.Sequential(layers, channels=np.int64(1), ndim=two),
        nn.DeconvNet(np.int64(1), three, two, np.int64(1)),
        nn.RLNet(PSF, two, three, two),
    ):
        net.save(tmp_path / "net.safetensors", overwrite=True)
        np.testing.assert_array_equal(nn.Model.load(tmp_path / "net.safetensors").predict(x), net.predict(x))
    net.notes["peak"] = np.float32(1)
    with pytest.raises(TypeError, match=r"notes: got {'peak': .*}, expected what JSON knows"):
        net.save(tmp_path / "other.safetensors")
    epochs = []
    with pytest.raises(TypeError, match="notes: got"):
        net.compile().fit(
            x, y, 2, 2, checkpoint=tmp_path / "c.safetensors", callbacks=[lambda e, _: epochs.append(e)]
        )
    assert not epochs  # not after an epoch's work


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    tiny().save(path)
    data = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        nn.Model.load(tmp_path / "other.safetensors")
    for name, content, match in (
        ("short", data[:-5], "not a whole safetensors file"),
        ("text", b"not a network at all", "not a whole safetensors file"),
        ("flipped", data[:-3] + bytes([data[-3] ^ 8]) + data[-2:], "checksum"),
        ("described", data.replace(b'\\"filters\\": 4', b'\\"filters\\": 5'), "checksum"),
        ("noted", data.replace(b'"notes":"{}"', b'"notes":"[]"'), "checksum"),
    ):
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            nn.Model.load(bad)
    foreign = tmp_path / "foreign.safetensors"
    from safetensors.numpy import save_file

    # Files written earlier: the checksum is that of the weights alone.
    from medeconv_fast.nn._storage import _digest, read_tensors

    tensors, metadata = read_tensors(path)
    save_file(tensors, foreign, metadata | {"sha256": _digest(tensors, {})})
    assert nn.Model.load(foreign).notes == {}
    save_file({"a": np.zeros(3)}, foreign)
    with pytest.raises(ValueError, match=r"format None, expected 'medeconv_fast.nn 1'"):
        nn.Model.load(foreign)
    nn.Sequential([nn.Conv(1)]).save(tmp_path / "sequential.safetensors")
    with pytest.raises(ValueError, match="architecture 'Sequential', expected 'DeconvNet'"):
        nn.DeconvNet.load(tmp_path / "sequential.safetensors")
    assert "pickle" not in json.dumps(data[:2000].decode("latin1"))


def test_weights_in_both_layouts(rng):
    net = nn.DeconvNet(scale=2, filters=3, channels=2)
    torch, keras = net.get_weights(), net.get_weights("keras")
    assert [w.shape for w in torch] == [(3, 2, 3, 3), (3,), (3, 2, 4, 4), (2,)]
    assert [w.shape for w in keras] == [(3, 3, 2, 3), (3,), (4, 4, 2, 3), (2,)]
    np.testing.assert_array_equal(keras[0][1, 2], torch[0][:, :, 1, 2].T)
    other = nn.DeconvNet(scale=2, filters=3, channels=2, seed=9)
    other.set_weights(keras, "keras")
    for one, same in zip(torch, other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)
    with pytest.raises(ValueError, match="got 3 arrays, expected 4"):
        other.set_weights(torch[:3])
    with pytest.raises(ValueError, match=r"'encoder.weight' of shape \(3, 3, 2, 3\), expected \(3, 2, "):
        other.set_weights(keras)
    torch[1][0] = np.nan
    with pytest.raises(ValueError, match=r"encoder.bias: 1 of 3 values are not finite"):
        other.set_weights(torch)
    torch[1] = np.array([1e300, 0, 0])
    with pytest.raises(ValueError, match=r"encoder.bias in float32: 1 of 3 values are not finite"):
        other.set_weights(torch)
    np.testing.assert_array_equal(other.get_weights()[1], 0)
    with pytest.raises(TypeError, match="weights: got None"):
        other.set_weights(None)


def test_summary_counts():
    text = nn.DeconvNet().summary()
    assert "1217 weights, 1217 of them trained" in text  # 64·9 + 64 and 64·9 + 1
    assert "encoder" in text and "64x1x3x3" in text


# ---------------------------------------------------------------- bad input


def test_diverging_training_stops_with_good_weights():
    x, y = blurred_pairs(8)
    net = tiny(residual=False).compile("sgd", "mse", learning_rate=1e4)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"batch \d of epoch \d"):
        net.fit(1e3 * x, 1e3 * y, 50, 4)
    assert all(np.isfinite(w).all() for w in net.get_weights())
    with np.errstate(all="ignore"):
        assert np.isfinite(net.predict(x)).all()


def test_blur_learns_a_filter_without_a_positive_sum(rng, tmp_path):
    """A Laplacian, whose sum is 0: beside it training meets negative ones."""
    point, laplacian = np.pad([[1.0]], 1), np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]])
    x = rng.standard_normal((32, 1, 12, 12)).astype(np.float32)
    y = nn.Sequential([nn.FixedBlur(laplacian, normalize_psf=False)]).predict(x)
    blur = nn.FixedBlur(point, trainable=True, normalize_psf=False)
    net = nn.Sequential([blur]).compile("adam", learning_rate=5e-2)
    net.fit(x, y, 60, 8)
    assert np.abs(blur.weights["psf"] - laplacian).max() < 0.05
    assert blur.weights["psf"].sum() < 0.1
    blur.weights["psf"] -= 0.1  # well below 0
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(nn.Model.load(tmp_path / "net.safetensors").predict(x), net.predict(x))


def test_step_whose_filter_loses_its_sum_stops_with_good_weights():
    """It divides by that sum."""
    x, y = blurred_pairs(8)
    image = nn.Input(1)
    step = nn.RichardsonLucyStep(np.ones((3, 3)), trainable=True)
    net = nn.Model(image, step(image, image)).compile("sgd", learning_rate=1e3)
    with pytest.raises(FloatingPointError, match=r"batch \d of epoch \d .*: psf: .* expected a positive sum"):
        net.fit(x, y, 50, 4)
    assert step.weights["psf"].sum() > 0
    assert np.isfinite(net.predict(x)).all()


def test_nan_from_a_sampler_names_the_batch():
    volume = np.ones((4, 16, 16), np.float32)
    volume[2] = np.nan
    net = tiny().compile()
    before = net.get_weights()
    sampler = nn.PatchSampler([volume], [volume], (8, 8), samples=16)
    with pytest.raises(FloatingPointError, match=r"the loss of batch \d of epoch 1 \(samples .*\) is nan"):
        net.fit(sampler, batch_size=8)
    assert all(np.isfinite(w).all() for w in net.get_weights())
    assert [w.shape for w in before] == [w.shape for w in net.get_weights()]
    whole = nn.PatchSampler([volume[0]], [volume[0]], (8, 8), samples=16)
    told = r"samples \d.* of the data to measure on is nan. x of this batch: .* not finite"
    with pytest.raises(ValueError, match=told):
        net.fit(whole, None, 1, 8, sampler)
    with pytest.raises(ValueError, match=told):
        net.evaluate(sampler)


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_the_datas_fault(name, value):
    """No learning rate mends them, and as arrays they are a ValueError, too."""
    good, bad = np.ones((4, 16, 16), np.float32), np.ones((4, 16, 16), np.float32)
    bad[2, 3, 5] = value
    sampler = nn.PatchSampler(*([bad], [good])[:: 1 if name == "x" else -1], (16, 16), samples=16)
    words = rf"is (nan|inf); .*\. {name} of this batch: \d of 2048 values are not finite.*\(N, C, y, x\)"
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=words) as found:
        tiny().compile().fit(sampler, batch_size=8)
    assert "learning rate" not in str(found.value)
    x, y = blurred_pairs(8)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="learning rate") as diverged:
        tiny(residual=False).compile("sgd", "mse", learning_rate=1e4).fit(1e3 * x, 1e3 * y, 50, 4)
    assert not isinstance(diverged.value, ValueError)


def test_gradients_of_a_users_loss_are_checked(rng):
    """Whatever their order in memory, and refused where they are no gradients."""
    x, y = blurred_pairs(4)

    def loss(order):
        def square(prediction, target, engine, weights):
            difference = prediction - target
            grad = (2 / difference.size) * difference.astype(np.float64)
            return float(np.square(difference).mean()), np.array(grad, order=order)

        return square

    made = []
    for order in "CF":
        net = nn.Sequential([nn.Conv(3, activation="relu"), nn.Conv(1, activation="softplus")], seed=1)
        net.compile("sgd", loss(order), learning_rate=0.1).fit(x, y, 2, 4)
        made.append(np.concatenate([w.ravel() for w in net.get_weights()]))
    np.testing.assert_array_equal(made[0], made[1])
    net = tiny().compile(loss=lambda p, t, engine, weights: (0.0, 1.0))
    with pytest.raises(ValueError, match=r"loss: got a gradient float, expected an array of shape \(4, 1,"):
        net.fit(x, y, 1, 4)
    for wrong in (0.5, (np.ones(4), np.ones(4)), (None, x), None):
        net.compile(loss=lambda p, t, engine, weights, made=wrong: made)
        for use in (net.fit, net.evaluate):
            with pytest.raises(TypeError, match=r"(?s)loss: got .* from it, expected \(value, gradient\)"):
                use(x, y, batch_size=4)


def test_a_users_loss_takes_four_arguments():
    with pytest.raises(
        TypeError, match=r"arguments \(p, t\), expected .*\(prediction, target, engine, weights\)"
    ):
        tiny().compile(loss=lambda p, t: (0.0, p - t))


def test_negative_images_are_not_trained_on_where_none_are_predicted(rng):
    x = rng.random((4, 1, 16, 16)).astype(np.float32)
    net = nn.RLNet(PSF, filters=2).compile()
    bad = x - 0.5
    with pytest.raises(ValueError, match=r"x: .* values are negative"):
        net.fit(bad, x, 1, 4)
    with pytest.raises(ValueError, match=r"x: .* values are negative"):
        net.evaluate(bad, x)
    with pytest.raises(ValueError, match=r"validation_data\[0\]: .* values are negative"):
        net.fit(x, bad, 1, 4, (bad, x))
    net.fit(x, bad, 1, 4)  # targets may be anything
    shape = x.shape[2:]
    refused = (
        nn.PatchSampler([bad[0, 0]], [x[0, 0]], shape, 4),
        nn.SimulatedPairs([bad[0, 0]], PSF, shape, 4, noise="gaussian", sigma=0.1),
    )
    for pairs in refused:
        with pytest.raises(ValueError, match=r"x: sample \d: .* values are negative"):
            net.fit(pairs, None, 1, 4)
        with pytest.raises(ValueError, match=r"x: sample \d: .* values are negative"):
            net.fit(x, x, 1, 4, pairs)
    with pytest.raises(ValueError, match=r"x: sample \d: .* values are negative"):
        net.fit(x, x, 1, 4, augment=lambda x, y, generator: (x - 0.5, y))
    with pytest.raises(ValueError, match=r"images\[1\]: .* values are negative"):
        nn.fit_without_truth(net, [x[0, 0], bad[0, 0]], PSF, 1, 4, patch=shape)


def test_noise_that_is_drawn_makes_no_image_negative_where_none_may_be(rng, monkeypatch):
    x = np.zeros((4, 1, 16, 16), np.float32)
    x[..., 4:12, 4:12] = 1
    simulated = nn.SimulatedPairs([x[0, 0]], PSF, x.shape[2:], 4, noise="gaussian", sigma=0.2)
    forward, seen = nn.RLNet.forward, []

    def noted(self, inputs, *rest):
        seen.append(inputs[0].copy())
        return forward(self, inputs, *rest)

    monkeypatch.setattr(nn.RLNet, "forward", noted)
    net = nn.RLNet(PSF, filters=2).compile()
    net.fit(x, x, 1, 4, augment=nn.Augmentation(noise=0.2))
    net.fit(simulated, None, 1, 4)
    for images in seen:
        assert images.min() == 0 and 0.2 < (images == 0).mean() < 0.6  # half of the noise on next to 0


def test_bad_data_is_refused(rng):
    net = tiny().compile()
    x = rng.random((4, 1, 8, 8)).astype(np.float32)
    nan = x.copy()
    nan[1, 0, 2, 3] = np.nan
    for arguments, error, match in (
        ((x[:, 0], x), ValueError, r"x: got 3 axes .*\(N, C, y, x\)"),
        ((x[:0], x[:0]), ValueError, "x: .*empty data set"),
        ((x, x[:3]), ValueError, "y: got 3 samples, expected 4"),
        ((np.repeat(x, 2, 1), x), ValueError, "x: got 2 channels"),
        (
            (nan, x),
            ValueError,
            r"x: 1 of 256 values are not finite .* first at index \(N, C, y, x\) = \(1, 0, 2",
        ),
        (
            (1e300 * x.astype(float), x),
            ValueError,
            r"x: the largest value is .*e\+299, expected .* in float32",
        ),
        ((x, 1e300 * x.astype(float)), ValueError, "y: the largest value is"),
        ((x, None), TypeError, "y: got None"),
        ((x, x[..., :6], 1, 4), ValueError, r"y: got samples of shape \(1, 8, 6\), expected \(1, 8, 8\)"),
        ((x, x, 1, 5), ValueError, "batch_size: got 5, expected at most 4"),
        ((x, x, 0), ValueError, "epochs"),
        ((x, x, 1, 2, (x,)), ValueError, "validation_data: got 1 values"),
        ((x.astype(complex), x), TypeError, "x: got complex"),
    ):
        with pytest.raises(error, match=match):
            net.fit(*arguments)
    with pytest.raises(RuntimeError, match="not compiled"):
        tiny().fit(x, x)
    for arguments in (("lbfgs",), ("adam", "hinge")):
        with pytest.raises(ValueError, match=f"got '{arguments[-1]}'"):
            net.compile(*arguments)
    with pytest.raises(TypeError, match=r"targets\[0\]: got a masked array"):
        nn.PatchSampler([x[0, 0]], [np.ma.masked_less(x[0, 0], 0.5)], (4, 4))
    with pytest.raises(ValueError, match="empty data set"):
        nn.PatchSampler([], [], (8, 8))
    with pytest.raises(ValueError, match=r"patch: got \(9, 9\), expected at most \(8, 8\)"):
        net.fit(nn.PatchSampler(list(x[:, 0]), list(x[:, 0]), (9, 9), 8), batch_size=8)
    with pytest.raises(ValueError, match="samples: got 3, expected at least 4"):
        nn.PatchSampler(list(x[:, 0]), list(x[:, 0]), (4, 4), 3)
    with pytest.raises(ValueError, match=r"y: got a target of \(9, 8\), expected a whole multiple"):
        nn.Augmentation(crop=(4, 4))(x[0], np.zeros((1, 9, 8)), rng)
    with pytest.raises(ValueError, match="images: got none"):
        nn.fit_without_truth(net, [], np.ones((3, 3)), patch=(8, 8))
    with pytest.raises(ValueError, match="resume"):
        net.fit(x, x, batch_size=4, resume=True)
    with pytest.raises(ValueError, match=r"x: .* first at index \(N, C, y, x\) = \(1, 0, 2, 3\)"):
        net.predict(nan)
    for callbacks in (["stop"], None, nn.EarlyStopping(), [nn.EarlyStopping]):
        with pytest.raises(TypeError, match="callbacks: got"):
            net.fit(x, x, batch_size=4, callbacks=callbacks)
    with pytest.raises(TypeError, match="checkpoint: got 5"):
        net.fit(x, x, batch_size=4, checkpoint=5)
    for use in (nn.Model.load, net.save, net.to_onnx):
        with pytest.raises(TypeError, match="path: got None"):
            use(None)
    with pytest.raises(ValueError, match="dtype: got 'foo', expected 'float32' or 'float64'"):
        tiny(dtype="foo")
    with pytest.raises(ValueError, match="scale: got 3"):
        nn.DeconvNet(scale=3)
    frozen, whole = tiny(), tiny()
    for layer in frozen.layers:
        layer.trainable = False
    whole.trainable = False
    for net in (frozen, whole):
        with pytest.raises(ValueError, match="frozen"):
            net.compile().fit(x, x, batch_size=4)
        assert "0 of them trained" in net.summary() and net.summary().count("(frozen)") == 2


# ---------------------------------------------------------------- little or no data


def scene(seed, size=48):
    rng = np.random.default_rng(seed)
    return np.kron(rng.random((size // 8, size // 8)) ** 3, np.ones((8, 8)))


PSF = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))


def test_simulated_pairs_are_the_model():
    truth = scene(0)
    blurred = mf.Blur(PSF, truth.shape, boundary="reflect").forward(truth)
    for options in (
        {"noise": None},
        {"noise": "poisson", "photons": 400.0},
        {"noise": "gaussian", "sigma": (0.01, 0.02)},
    ):
        pairs = nn.SimulatedPairs([truth], PSF, truth.shape, 8, **options)
        x, y = pairs.pair(0, np.random.default_rng(1))
        again, _ = pairs.pair(0, np.random.default_rng(1))
        other, _ = pairs.pair(0, np.random.default_rng(2))
        np.testing.assert_array_equal(y[0], truth)
        np.testing.assert_array_equal(x, again)
        if options["noise"] is None:
            np.testing.assert_allclose(x[0], blurred, rtol=1e-12)
            continue
        assert (x != other).any()
        variance = np.square(x[0] - blurred).mean()
        if options["noise"] == "poisson":
            assert variance == pytest.approx(blurred.mean() * blurred.max() / 400, rel=0.1)
        else:
            assert 0.01**2 * 0.9 < variance < 0.02**2 * 1.1
    pairs = nn.SimulatedPairs(
        [truth, truth / 10], PSF, truth.shape, 8, noise="gaussian", sigma=0.5, units=(1.0, 10.0)
    )
    for number, unit in enumerate((1, 10)):
        x, _ = pairs.pair(number, np.random.default_rng(1))
        assert (x[0] * unit - blurred).std() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="units: got 1 numbers, expected 2, one per volume"):
        nn.SimulatedPairs([truth, truth], PSF, (8, 8), units=[1.0])
    with pytest.raises(ValueError, match=r"truths\[0\]: .*negative"):
        nn.SimulatedPairs([truth - 1], PSF, (8, 8))
    with pytest.raises(ValueError, match="sigma: got None"):
        nn.SimulatedPairs([truth], PSF, (8, 8), noise="gaussian")
    with pytest.raises(ValueError, match=r"photons: got 1e\+30, expected at most 9e\+18"):
        nn.SimulatedPairs([truth], PSF, (8, 8), photons=1e30)


def test_training_on_simulated_pairs_gains():
    net = nn.RLNet(PSF, steps=2, filters=4, seed=1).compile(learning_rate=5e-3)
    image = mf.simulate(scene(9), PSF, photons=300, seed=5)
    before = mf.metrics.psnr(scene(9), net.predict(image[None, None])[0, 0])
    net.fit(nn.SimulatedPairs([scene(0), scene(1)], PSF, (24, 24), 64, photons=300), None, 6, 8)
    after = mf.metrics.psnr(scene(9), net.predict(image[None, None])[0, 0])
    assert after > before + 0.5  # on a scene that was not trained on


def test_self_supervision_sees_no_truth_and_gains():
    """A bare network learns to sharpen and to leave the noise from two noisy, blurred images."""
    images = [mf.simulate(scene(s), PSF, photons=300, seed=s) for s in (0, 1)]
    net = nn.DeconvNet(filters=16, seed=1)
    x = np.array(images)[:, None].astype(np.float32)
    before = [mf.metrics.psnr(scene(s), net.predict(x)[s, 0]) for s in (0, 1)]
    history = nn.fit_without_truth(net, images, PSF, 10, 8, patch=(32, 32), samples=64, learning_rate=5e-3)
    assert history["loss"][-1] < history["loss"][0]
    after = [mf.metrics.psnr(scene(s), net.predict(x)[s, 0]) for s in (0, 1)]
    assert min(np.subtract(after, before)) > 0.5
    with pytest.raises(ValueError, match="scale 1"):
        nn.fit_without_truth(nn.DeconvNet(scale=2), images, PSF, patch=(16, 16))
    with pytest.raises(ValueError, match="masked: got 1"):
        nn.fit_without_truth(net, images, PSF, patch=(16, 16), masked=1)


def test_self_supervision_resumes_exactly(tmp_path):
    image = mf.simulate(scene(2), PSF, photons=300, seed=1)
    options = {"patch": (24, 24), "samples": 16, "checkpoint": tmp_path / "c.safetensors", "resume": True}

    def run(epochs):
        net = nn.RLNet(PSF, filters=2)
        nn.fit_without_truth(net, [image], PSF, epochs, 4, **options)
        return net

    run(1)
    resumed = run(3)
    whole = nn.Model.load(tmp_path / "c.safetensors")  # the network and the blur behind it
    (tmp_path / "c.safetensors").unlink()
    for one, other in zip(run(3).get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = image[None, None].astype(np.float32)
    blur = mf.Blur(PSF, image.shape, boundary="reflect")
    np.testing.assert_allclose(whole.predict(x)[0, 0], blur.forward(resumed.predict(x)[0, 0]), rtol=1e-4)


def test_penalty_gradient_by_finite_differences(rng, tol):
    from medeconv_fast.nn._without_truth import _Penalized

    layer = _Penalized(0.7)
    for shape in ((2, 1, 9), (1, 2, 5, 6), (2, 1, 4, 5, 3)):
        x, direction = rng.random(shape), rng.standard_normal(shape)

        def value(x):
            steps = [np.diff(x, axis=a, append=np.take(x, [-1], a)) for a in range(2, x.ndim)]
            return 0.7 * np.sqrt(sum(s * s for s in steps) + 1e-6).mean()

        expected = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
        grad = layer.gradient(x)
        scale = np.linalg.norm(grad) * np.linalg.norm(direction)
        assert abs((grad * direction).sum() - expected) < tol("finite_differences") * scale


def test_masks_hide_what_is_compared():
    from medeconv_fast.nn._training import make_batch
    from medeconv_fast.nn._without_truth import _MaskedPatches

    image = np.arange(400.0).reshape(20, 20)
    x, y, mask = _MaskedPatches([image], (9, 11), 4, 0.2).pair(0, np.random.default_rng(0))
    hidden = mask.astype(bool)
    assert 5 < hidden.sum() < 50
    np.testing.assert_array_equal(x[~hidden], y[~hidden])
    # On a ramp the mean of the neighbours is the value; noise on the value itself leaves no trace.
    image[1::2, 1::2] += np.random.default_rng(1).normal(0, 50, (10, 10))
    # Augmentation comes first: what is hidden is what is compared, and nothing else.
    pairs = _MaskedPatches([np.random.default_rng(3).random((20, 20))], (12, 12), 8, 0.1)
    x, y, mask = make_batch(tiny(), pairs, range(8), (0, 0), nn.Augmentation())
    np.testing.assert_array_equal(x != y, mask == 1)
    noisy, _, same = _MaskedPatches([image], (20, 20), 4, 0.2).pair(0, np.random.default_rng(0))
    inside = np.zeros((1, 20, 20), bool)
    inside[:, 1:-1:2, 1:-1:2] = same[:, 1:-1:2, 1:-1:2] > 0
    assert inside.sum() > 5
    np.testing.assert_allclose(noisy[inside], np.arange(400.0).reshape(1, 20, 20)[inside])


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (4, 2, 5), (16, 3, 1, 1, 1), (6, 6, 2, 2)])
def test_muons_steps_are_the_orthogonal_factor(shape, dtype, rng, tol):
    """SciPy's polar decomposition of the mean that looks ahead, as long as Adam's steps are."""
    polar = pytest.importorskip("scipy.linalg", reason="SKIPPED: scipy is not installed").polar
    start, first, second = rng.standard_normal((3, *shape)).astype(dtype)
    weight = start.copy()
    made = nn.Muon(0.1, momentum=0.9)
    made.reset([weight])
    expected, mean = start.astype(np.float64), np.zeros(shape)
    for grad in (first, second):
        made.update([weight], [grad.copy()])
        mean = 0.9 * mean + grad
        matrix = (grad + 0.9 * mean).reshape(shape[0], -1)
        unitary = polar(matrix)[0]
        np.testing.assert_allclose(np.linalg.svd(unitary)[1], 1)
        expected -= 0.1 * 0.2 * np.sqrt(max(matrix.shape)) * unitary.reshape(shape)
        np.testing.assert_allclose(weight, expected, atol=1e-4 if dtype == np.float32 else 1e-9)


def test_muon_leaves_biases_and_single_channels_to_adam(rng):
    shapes = [(8,), (1, 8, 3, 3), (8, 1, 3, 3)]
    weights = [rng.standard_normal(shape) for shape in shapes]
    ours, theirs = [[w.copy() for w in weights] for _ in range(2)]
    for optimizer, own in ((nn.Muon(0.01), ours), (nn.Adam(0.01), theirs)):
        optimizer.reset(own)
        for seed in range(3):
            grads = np.random.default_rng(seed)
            optimizer.update(own, [grads.standard_normal(shape) for shape in shapes])
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_muon_stands_still_without_a_gradient():
    weight = np.ones((4, 3, 3, 3), np.float32)
    made = nn.Muon(0.1)
    made.reset([weight])
    made.update([weight], [np.zeros_like(weight)])
    np.testing.assert_array_equal(weight, 1)


def test_muon_trains_and_resumes(tmp_path):
    x, y = blurred_pairs(8)
    path = tmp_path / "c.safetensors"

    def run(epochs):
        net = tiny().compile("muon", learning_rate=1e-2)
        return net, net.fit(x, y, epochs, 4, checkpoint=path, resume=True)

    run(2)
    resumed, history = run(6)
    path.unlink()
    whole, _ = run(6)
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
