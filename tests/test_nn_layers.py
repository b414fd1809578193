"""Layers of networks: gradients against finite differences in float64, values against formulas
written out.
"""

import concurrent.futures
import copy
import pickle
import sys

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf
from medeconv_fast import nn
from medeconv_fast.nn._engine import Engine
from medeconv_fast.nn._layer import Gradients

SMALL = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}


def weighted(net, inputs, weight, engine):
    return float((net.forward(inputs, engine, None) * weight).sum())


def check_gradients(net, inputs, rng, bound, engine=None, step=1e-5):
    """Every input and every weight: the backward pass against central differences along random directions.

    A direction moves all values of one array, so that no entry is left out.
    """
    engine = engine or Engine()
    leaves = [(layer, name) for _, layer in net.leaves() if layer.trainable for name in layer.shapes()]
    tape = {}
    out = net.forward(inputs, engine, tape)
    weight = rng.standard_normal(out.shape)
    gradients = Gradients()
    to_inputs = net.backward(weight.copy(), tape, engine, gradients, (True,) * len(inputs))
    arrays = list(inputs) + [layer.weights[name] for layer, name in leaves]
    grads = list(to_inputs) + [gradients.of(layer, name) for layer, name in leaves]
    for array, grad in zip(arrays, grads, strict=True):
        assert grad.shape == array.shape
        assert np.abs(grad).max() > 0
        for _ in range(3):
            direction = rng.standard_normal(array.shape)
            original = array.copy()
            array += step * direction
            high = weighted(net, inputs, weight, engine)
            array[...] = original - step * direction
            low = weighted(net, inputs, weight, engine)
            array[...] = original
            expected = (high - low) / (2 * step)
            scale = np.linalg.norm(grad) * np.linalg.norm(direction)
            assert abs(float((grad * direction).sum()) - expected) < bound * scale


def initialized(inputs, output, seed=3):
    """A graph with random weights of float64, biases and scales included."""
    net = nn.Graph(inputs, output)
    rng = np.random.default_rng(seed)
    for _, layer in net.leaves():
        layer.initialize(rng, np.dtype(np.float64))
        for name, array in layer.weights.items():
            layer.weights[name] = array + 0.2 * rng.standard_normal(array.shape)
    return net


LAYERS = {
    "conv": lambda: nn.Conv(3, 3),
    "conv_relu": lambda: nn.Conv(4, 3, activation="relu"),
    "conv_leaky": lambda: nn.Conv(4, 3, activation="leaky_relu"),
    "conv_softplus": lambda: nn.Conv(4, 3, activation="softplus"),
    "conv_strided": lambda: nn.Conv(2, 3, 2, padding=1, bias=False),
    "conv_dilated_groups": lambda: nn.Conv(4, 2, dilation=2, groups=2, padding="valid"),
    "conv_replicate": lambda: nn.Conv(2, 3, padding_mode="replicate"),
    "transpose": lambda: nn.ConvTranspose(3, 3),
    "transpose_strided": lambda: nn.ConvTranspose(3, 4, 2, activation="relu"),
    "transpose_narrow": lambda: nn.ConvTranspose(2, 1, 2),
    "nearest": lambda: nn.UpSampling(2),
    "linear": lambda: nn.UpSampling(3, "linear"),
    "cubic": lambda: nn.UpSampling(2, "cubic"),
    "relu": lambda: nn.ReLU(),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "softplus": lambda: nn.Softplus(),
    "deviation": lambda: nn.LocalDeviation(3),
    "group_norm": lambda: nn.GroupNorm(2),
    "group_norm_plain": lambda: nn.GroupNorm(1, affine=False),
    "instance_norm": lambda: nn.InstanceNorm(),
}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_finite_differences(name, ndim, rng, tol):
    image = nn.Input(4, ndim)
    net = initialized(image, LAYERS[name]()(image))
    x = rng.standard_normal((2, 4, *SMALL[ndim]))
    x[np.abs(x) < 1e-3] = 0.1  # away from the kink of ReLU
    check_gradients(net, [x], rng, tol("finite_differences"))


def test_crop_and_its_transpose(rng, tol):
    """After a stride has rounded odd lengths up."""
    image = nn.Input(2)
    halves = nn.Conv(3, 2, 2, [(0, 1), (0, 1)])(image)
    net = initialized(image, nn.Crop()(nn.ConvTranspose(1, 4, 2)(halves), image))
    for shape in ((7, 10), (8, 9)):
        x = rng.standard_normal((2, 2, *shape))
        assert net.forward([x], Engine(), None).shape == (2, 1, *shape)
        check_gradients(net, [x], rng, tol("finite_differences"))
    one, two = nn.Input(1), nn.Input(1)
    small = nn.Graph([one, two], nn.Crop(name="c")(one, two))
    with pytest.raises(ValueError, match=r"layer 'c' \(Crop\): got inputs of shapes"):
        small.forward([x[:, :1, :4], x[:, :1]], Engine(), None)


@pytest.mark.parametrize("joined", [nn.Add, nn.Concat, lambda: nn.Add("relu"), lambda: nn.Add("softplus")])
def test_gradients_of_joining_layers(joined, rng, tol, backend):
    one, two = nn.Input(2), nn.Input(2)
    conv = nn.Conv(2, 3)
    net = initialized([one, two], joined()(conv(one), two, conv(two), one))  # shared weights
    inputs = [rng.standard_normal((2, 2, 6, 5)) for _ in range(2)]
    check_gradients(net, inputs, rng, tol("finite_differences"), Engine(backend))


def test_sum_and_activation_of_it_in_one_pass(rng):
    one, two = nn.Input(2), nn.Input(2)
    fused = nn.Graph([one, two], nn.Add("leaky_relu")(one, two))
    apart = nn.Graph([one, two], nn.LeakyReLU()(nn.Add()(one, two)))
    inputs = [rng.standard_normal((2, 2, 6, 5)).astype(np.float32) for _ in range(2)]
    np.testing.assert_array_equal(*(net.forward(inputs, Engine(), None) for net in (fused, apart)))
    with pytest.raises(ValueError, match="activation: got 'tanh'"):
        nn.Add("tanh")


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "softplus"])
def test_sum_in_the_pass_of_a_convolution(activation, rng, monkeypatch, backend):
    """Where no backward pass follows: to the bit the same, and only where its result has no other use."""
    joined = []
    for kind in (nn.Conv, nn.ConvTranspose):
        original = kind.forward_added
        monkeypatch.setattr(
            kind, "forward_added", lambda self, *a, own=original: joined.append(1) or own(self, *a)
        )
    start, engine = nn.Input(2), Engine(backend)

    def both(output, size=(8, 9)):
        net = initialized([start], output)
        x = rng.standard_normal((2, 2, *size)).astype(np.float32)
        before, joined[:] = net.forward([x], engine, {}), []
        assert not joined  # with a tape every result is wanted
        np.testing.assert_array_equal(net.forward([x], engine, None), before)
        return len(joined)

    wide = nn.Conv(4, 1)(start)
    assert both(nn.Add(activation)(wide, nn.Conv(4, 3)(start))) == 1
    assert both(nn.Add(activation)(nn.Conv(4, 3)(start), nn.Conv(4, 1)(start))) == 1
    small = nn.Conv(3, 2, 2, [(0, 1)] * 2)(start)
    larger = nn.ConvTranspose(4, 2, 2)(small)
    wide = nn.Conv(4, 1)(start)
    cut = nn.Crop()(larger, wide)
    output = nn.Add(activation)(wide, cut)
    for size in ((8, 10), (7, 10), (5, 3)):  # of some nothing is cut
        assert both(output, size) == 1
    circular = nn.ConvTranspose(4, 4, 2, padding_mode="circular")(small)  # folded
    assert both(nn.Add(activation)(wide, nn.Crop()(circular, wide)), (7, 10)) == 0
    whole = nn.ConvTranspose(4, 3, 1)(start)  # two rows less are no rounding of a stride
    fewer = nn.Conv(4, 3, padding="valid")(start)
    assert both(nn.Add(activation)(fewer, nn.Crop()(whole, fewer))) == 0
    again = nn.Conv(4, 3)(start)
    assert both(nn.Add(activation)(nn.ReLU()(again), again)) == 0  # used twice
    assert both(nn.Add(activation)(start, nn.Conv(2, 3, activation="relu")(start))) == 0
    assert both(nn.Add(activation)(start, start)) == 0
    three = nn.Add(activation)(start, nn.Conv(2, 3)(start), start)
    assert both(three) == 0


def test_sum_in_the_pass_of_a_convolution_after_a_cut(rng):
    start = nn.Input(2)
    wide = nn.Conv(4, 1)(start)
    larger = nn.ConvTranspose(4, 2, 2)(nn.Conv(3, 2, 2, [(0, 1)] * 2)(start))
    net = initialized([start], nn.Add("relu")(wide, nn.Crop()(larger, wide)))
    for size in ((8, 10), (7, 10), (5, 3)):
        x = rng.standard_normal((1, 2, *size)).astype(np.float32)
        np.testing.assert_array_equal(net.forward([x], Engine(), None), net.forward([x], Engine(), {}))
    one, two = nn.Input(2), nn.Input(2)
    net = initialized([one, two], nn.Add(name="a")(two, nn.Conv(2, 3)(one)))
    with pytest.raises(ValueError, match=r"layer 'a' \(Add\): got inputs of shapes"):
        net.forward([x, x[..., :2]], Engine(), None)


def test_sum_with_what_is_cut_to_another_size_is_refused(rng):
    start = nn.Input(2)

    def up():
        return nn.ConvTranspose(2, 2, 2)(nn.Conv(2, 2, 2, [(0, 1)] * 2)(start))

    net = initialized([start], nn.Add(name="a")(up(), nn.Crop()(up(), start)))
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    for tape in (None, {}):
        with pytest.raises(ValueError, match=r"layer 'a' \(Add\): got inputs of shapes"):
            net.forward([x], Engine(), tape)
    one, two = nn.Input(2), nn.Input(2)
    net = initialized([one, two], nn.Add(name="a")(two, nn.Conv(2, 3)(one)))
    with pytest.raises(ValueError, match=r"layer 'a' \(Add\): got inputs of shapes .* expected one number"):
        net.forward([x, np.concatenate([x, x])], Engine(), None)


def test_layers_that_override_forward_are_asked(rng):
    class Twice(nn.Conv):
        def forward(self, inputs, engine, tape):
            return 2 * super().forward(inputs, engine, tape)

    class Brighter(nn.FixedBlur):
        def forward(self, inputs, engine, tape):
            return 1 + super().forward(inputs, engine, tape)

    start = nn.Input(2)
    x = rng.standard_normal((1, 2, 5, 6)).astype(np.float32)
    summed = nn.Add()(start, Twice(2, 3)(start))
    beside = nn.Concat()(start, Brighter(np.ones((3, 3)))(start))
    for output in (summed, beside):
        net = initialized([start], output)
        np.testing.assert_array_equal(net.forward([x], Engine(), None), net.forward([x], Engine(), {}))


def test_deviation_in_a_window_so_wide_that_transforms_take_it(rng):
    x = np.zeros((1, 1, 2000, 64), np.float32)
    x[0, 0, :3, :3] = 1000 * rng.random((3, 3))
    start = nn.Input(1)
    made = nn.Model(start, nn.LocalDeviation(801)(start)).predict(x)
    assert np.isfinite(made).all()
    assert made[0, 0, 1900].max() < 1e-3 * made.max()


def test_layers_of_one_network_in_several_threads():
    start = nn.Input(1)
    step = nn.RichardsonLucyStep(np.ones((3, 3)))
    net = nn.Model(start, nn.Concat()(step(start, start), start), num_threads=1)

    def sizes(seed):
        draw = np.random.default_rng(seed)
        for _ in range(60):
            net.predict(draw.random((1, 1, *draw.integers(4, 30, 2))).astype(np.float32))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(sizes, range(4)))
    finally:
        sys.setswitchinterval(before)


def test_sum_in_the_pass_of_a_graphs_last_convolution(rng):
    inner = nn.Input(2)
    last = nn.Conv(2, 3)(nn.Conv(3, 3, activation="relu")(inner))
    start = nn.Input(2)
    for ends_with, joined in ((last, True), (nn.ReLU()(last), False), (nn.Add()(inner, last), False)):
        part = nn.Graph(inner, ends_with, name="part")
        net = initialized([start], nn.Add("relu", name="sum")(start, part(start)))
        assert bool(net._joins) == joined
        x = rng.standard_normal((2, 2, 7, 6)).astype(np.float32)
        np.testing.assert_array_equal(net.forward([x], Engine(), None), net.forward([x], Engine(), {}))


@pytest.mark.parametrize("images", [1, 2])
def test_concatenated_results_are_written_where_they_lie(images, rng, backend):
    """Of one image without a tape, whatever else uses them; what is not written there is copied."""
    psf = np.ones((3, 3)) / 9
    start = nn.Input(2)
    blurred = nn.FixedBlur(psf)(start)
    again = nn.FixedBlur(psf, "zero")(blurred)
    step = nn.RichardsonLucyStep(psf)(again, start)
    noise = nn.LocalDeviation(3)(step)
    everything = nn.Concat()(start, step, blurred, noise, nn.ReLU()(start), blurred, again)
    outputs = {
        "one": everything,
        "two": nn.Concat()(everything, step, nn.Concat()(noise, again)),
        "sum": nn.Add()(nn.Concat()(blurred, start), nn.Concat()(again, blurred)),
    }
    x = rng.random((images, 2, 9, 8)).astype(np.float32)
    for name, output in outputs.items():
        net = initialized([start], output)
        before = x.copy()
        made = net.forward([x], Engine(backend), None)
        np.testing.assert_allclose(made, net.forward([x], Engine(backend), {}), rtol=2e-6, err_msg=name)
        np.testing.assert_array_equal(x, before)
    one, two = nn.Input(2), nn.Input(2)
    net = initialized([one, two], nn.Concat(name="c")(nn.FixedBlur(psf)(one), nn.FixedBlur(psf)(two)))
    with pytest.raises(ValueError, match=r"layer 'c' \(Concat\): got inputs of shapes"):
        net.forward([x[:1], x[:1, :, :5]], Engine(backend), None)


@pytest.mark.parametrize("slope", [0.01, 1.0, 3.0])
def test_leaky_relu_is_its_definition(slope, dtype, rng):
    """To the bit, not only where values are finite: NaN stays, and its gradient is not lost."""
    layer, x, grad = nn.LeakyReLU(slope), rng.standard_normal(4096).astype(dtype), rng.standard_normal(4096)
    x[:4], grad = (0, np.inf, -np.inf, np.nan), grad.astype(dtype)
    result, back = x.copy(), grad.copy()
    layer.apply(result)
    layer.differentiate(back, result)
    np.testing.assert_array_equal(result, np.where(x <= 0, x * dtype.type(slope), x))
    np.testing.assert_array_equal(back, np.where(x <= 0, grad * dtype.type(slope), grad))
    assert result.dtype == back.dtype == dtype


def test_crop_that_cuts_nothing_gives_an_array_of_its_own(rng):
    image = nn.Input(1)
    x = rng.random((1, 1, 6, 5), np.float32)
    assert not np.shares_memory(nn.Model(image, nn.Crop()(image, image)).predict(x), x)


PSF = np.array([[1.0, 2, 1], [2, 5, 3], [1, 2, 1], [0, 1, 0]])  # of even and odd length, not symmetric


def psf_of(ndim):
    return {1: PSF[1], 2: PSF, 3: np.stack([PSF, 2 * PSF[::-1], PSF])}[ndim]


@pytest.mark.parametrize("boundary", ["reflect", "zero", "nearest", "mirror", "wrap"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("engine", ["spectral", "direct"])
def test_gradients_of_fixed_blur(ndim, boundary, engine, rng, tol):
    image = nn.Input(2, ndim)
    net = initialized(image, nn.FixedBlur(psf_of(ndim), boundary, engine, trainable=True)(image))
    x = rng.standard_normal((2, 2, *(8, 6, 7)[:ndim]))
    (layer,) = net.layers
    expected = mf.Blur(layer.weights["psf"], x.shape[2:], boundary=boundary, normalize_psf=False)
    got = net.forward([x], Engine(), None)
    np.testing.assert_allclose(got[1, 1], expected.forward(x[1, 1]), atol=1e-12)
    check_gradients(net, [x], rng, tol("finite_differences"))


@pytest.mark.parametrize("engine", ["auto", "spectral", "direct"])
@pytest.mark.parametrize("taps", [np.outer([1, 0, -1], [1, 2, 1]), -PSF, 0 * PSF])
def test_filters_without_a_positive_sum(taps, engine, backend, rng, tol, relative_error):
    """Of layers that do not normalise; `Blur` goes on refusing them."""
    image = nn.Input(1)
    net = initialized(
        image, nn.FixedBlur(taps, "nearest", engine, trainable=True, normalize_psf=False)(image)
    )
    net.layers[0].weights["psf"][...] = taps
    x = rng.standard_normal((2, 1, 9, 8))
    made = net.forward([x], Engine(backend), None)
    if not taps.any():
        assert not made.any()
        return
    if taps.shape[0] % 2:
        expected = ndimage.convolve(x, taps[None, None].astype(float), mode="nearest")
        assert relative_error(made, expected) < tol("forward", np.float64)
    check_gradients(net, [x], rng, tol("finite_differences"), Engine(backend))
    for make in (
        lambda: mf.Blur(taps, (9, 8), normalize_psf=False),
        lambda: nn.FixedBlur(taps),
        lambda: nn.RichardsonLucyStep(taps, normalize_psf=False),
    ):
        refused(ValueError, "psf: .*expected a positive sum", make)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("boundary", ["reflect", "zero"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradients_of_richardson_lucy_step(ndim, boundary, back, rng, tol):
    psf = psf_of(ndim)
    other = np.arange(1.0, 1 + 3**ndim).reshape((3,) * ndim) if back else None
    estimate, image = nn.Input(1, ndim), nn.Input(1, ndim)
    step = nn.RichardsonLucyStep(psf, other, boundary, background=0.3, trainable=True)
    net = nn.Graph([estimate, image], step(estimate, image))
    step.initialize(rng, np.dtype(np.float64))
    inputs = [0.5 + rng.random((2, 1, *(8, 6, 7)[:ndim])) for _ in range(2)]
    check_gradients(net, inputs, rng, tol("finite_differences"))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_richardson_lucy_step_is_an_iteration(ndim, rng, tol, backend, dtype):
    """Of the library's own algorithm, three times in a row, matched and not."""
    psf = mf.psf.gaussian(fwhm=(2.5,) * ndim, voxel_size=(1.0,) * ndim)
    y = (1 + rng.random((12, 9, 10)[:ndim])).astype(dtype)
    for projector in ("matched", "wiener-butterworth"):
        options = {"back_projector": projector, "dtype": dtype, "backend": backend}
        net = nn.RLNet(psf, steps=3, **options)
        expected = mf.richardson_lucy(
            y, psf, 3, boundary="reflect", initial="image", back_projector=projector, backend=backend
        )
        got = net.predict(y[None, None])[0, 0]  # the corrections start at zero
        assert np.linalg.norm(got - expected) < tol("transcription", dtype) * np.linalg.norm(expected)
        deeper = nn.RLNet(psf, steps=3, filters=2, levels=2, **options)  # odd lengths are cut again
        np.testing.assert_array_equal(deeper.predict(y[None, None])[0, 0], got)
        finished = nn.RLNet(psf, steps=3, filters=2, levels=1, finishing=2, **options)
        expected = mf.richardson_lucy(y, psf, 2, boundary="reflect", initial=got, backend=backend)
        ended = finished.predict(y[None, None])[0, 0]
        assert np.linalg.norm(ended - expected) < tol("transcription", dtype) * np.linalg.norm(expected)


@pytest.mark.parametrize("boundary", ["reflect", "zero", "nearest", "wrap"])
@pytest.mark.parametrize("back", [None, (5, 3), (7, 5)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_richardson_lucy_step_is_the_same_with_and_without_a_tape(
    boundary, back, symmetric, rng, tol, backend, dtype
):
    """One operator for both ways or two, with what lies between them padded or not."""
    psf = np.outer([1, 2, 3, 2, 1], [2, 4, 3, 4, 2]) + 0.1 * np.eye(5)[:, ::-1]
    if symmetric:
        psf = psf + psf[::-1] + psf[:, ::-1] + psf[::-1, ::-1]
    way = None if back is None else 1 + rng.random(back)
    step = nn.RichardsonLucyStep(psf, way, boundary, floor=0.01, engine="spectral")
    estimate, image = nn.Input(1, 2), nn.Input(1, 2)
    step(estimate, image)
    step.initialize(rng, dtype)
    x, y = ((1 + rng.random((2, 1, 18, 21))).astype(dtype) for _ in range(2))
    made, taped = (step.forward([x, y], Engine(backend), tape) for tape in (None, {}))
    assert np.linalg.norm(made - taped) < tol("transcription", dtype) * np.linalg.norm(taped)


def test_what_a_correction_knows(rng, tol):
    """Image, iterations, noise; and the image through Wiener filters, here by division of whole spectra."""
    psf = mf.psf.gaussian(fwhm=(2.2, 2.8), voxel_size=(1.0, 1.0), shape=(13, 15))
    net = nn.RLNet(psf, steps=2, levels=1, boundary="wrap", dtype="float64")
    assert net.known is not None and net.known.channels == 8
    y = 1 + rng.random((48, 50))
    known = nn.Model(net.inputs[0], net.known, dtype="float64").predict(y[None, None])[0]
    np.testing.assert_array_equal(known[0], y)
    for number in (1, 2):
        options = {"boundary": "wrap", "initial": "image", "back_projector": "wiener-butterworth"}
        expected = mf.richardson_lucy(y, psf, number, **options)
        np.testing.assert_allclose(known[number], expected, rtol=1e-2)  # the network's divisors are larger
    placed = np.zeros(y.shape)
    placed[:13, :15] = psf
    spectrum = np.fft.fft2(np.roll(placed, (-6, -7), (0, 1)))
    for channel, balance in ((4, 1e-1), (5, 1e-2)):  # the others ring longer than their filters are
        transfer = (1 + balance) * spectrum.conj() / (np.abs(spectrum) ** 2 + balance)
        expected = np.fft.ifft2(np.fft.fft2(y) * transfer).real
        assert np.linalg.norm(known[channel] - expected) < 2e-3 * np.linalg.norm(expected - y)


@pytest.mark.parametrize("tile", [None, 24])
def test_a_result_that_cannot_be_is_warned_of(tile, rng, recwarn):
    """Blurred again it is farther from the image than the image itself: the network is not for that."""
    psf = mf.psf.gaussian(fwhm=(3.0, 2.5), voxel_size=(1.0, 1.0), shape=(11, 9))
    truth = rng.random((40, 44)) * (rng.random((40, 44)) > 0.5)
    truths = np.stack([truth, np.ones_like(truth)])
    images = mf.simulate(truths, psf[None], noise="poisson", photons=50, seed=1)
    net = nn.RLNet(psf, steps=2, levels=1, seed=3)
    net.predict(images[:, None], tile=tile)
    assert net.correction is not None
    last = net.correction.layers[-1].weights["weight"]
    last[...] = 0.02 * rng.standard_normal(last.shape)
    net.predict(images[:, None], tile=tile)
    assert not recwarn.list
    last *= 100
    for scale in (1e-6, 1.0, 1e6):
        with pytest.warns(UserWarning, match="predict: the network's result, blurred by the psf, is farther"):
            net.predict((scale * images)[:, None], batch_size=1, tile=tile)
    recwarn.clear()
    point = nn.RLNet(np.ones((1, 1)), steps=1, levels=1)  # no blur that could tell
    point.predict(images[:, None])
    assert not recwarn.list


def test_images_of_a_batch_do_not_know_each_other(rng):
    """The smallest divisor is that of each image, an image of zeros included."""
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    net = nn.RLNet(psf, steps=2)
    x = rng.poisson(0.3, (4, 1, 16, 17)).astype(np.float32)
    x[1] *= 1e4
    x[3] = 0
    together = net.predict(x)
    np.testing.assert_array_equal(together, [net.predict(one[None])[0] for one in x])
    assert not together[3].any() and np.isfinite(together).all()


def narrow(ndim):
    return mf.psf.gaussian(fwhm=(1.5,) * ndim, voxel_size=(1.0,) * ndim, shape=(5,) * ndim)


NETS = {
    "learnt": lambda: nn.RLNet(steps=3, filters=4, ndim=2, dtype="float64", seed=2),
    "known": lambda: nn.RLNet(narrow(2), steps=2, filters=4, dtype="float64", seed=2),
    "known_3d": lambda: nn.RLNet(narrow(3), steps=2, filters=3, depth=3, dtype="float64"),
    "levels": lambda: nn.RLNet(narrow(2), steps=2, filters=3, levels=2, depth=1, dtype="float64"),
    "levels_3d": lambda: nn.RLNet(narrow(3), steps=1, filters=2, levels=1, dtype="float64"),
    "finished": lambda: nn.RLNet(
        narrow(2), steps=1, filters=3, levels=1, depth=1, finishing=2, dtype="float64"
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_the_whole_rl_net(name, rng, tol):
    net = NETS[name]()
    for _, layer in net.leaves():
        if isinstance(layer, nn.RichardsonLucyStep):
            layer.trainable = True
        elif not isinstance(layer, nn.FixedBlur):
            for weight in layer.weights.values():
                weight += 0.02 * rng.standard_normal(weight.shape)  # divisors stay away from 0
    x = 1 + rng.random((2, 1, *(9, 8, 7)[: net.ndim]))
    # Thousands of ReLUs: a small step, so that none of them crosses its kink.
    check_gradients(net, [x], rng, tol("finite_differences"), step=1e-6)


def test_rl_net_counts_and_scales(rng):
    assert sum(w.size for w in nn.RLNet().named_weights().values()) == 15618
    psf, wide = (mf.psf.gaussian(fwhm=(f, f), voxel_size=(1.0, 1.0)) for f in (2.0, 4.0))
    net = nn.RLNet(psf, filters=4, dtype="float64")
    for name, weight in net.named_weights().items():
        if "iteration" not in name:
            weight[...] = 0.2 * rng.standard_normal(weight.shape)
    x = rng.random((1, 1, 14, 15))
    np.testing.assert_allclose(net.predict(1e4 * x), 1e4 * net.predict(x), rtol=1e-9)
    other = net.with_psf(wide)
    assert other.named_weights()["iteration_1.psf"].shape == wide.shape
    np.testing.assert_array_equal(
        other.named_weights()["features_1_1.weight"], net.named_weights()["features_1_1.weight"]
    )
    assert net.known is None and net.correction is None
    levels = nn.RLNet(psf, filters=4, levels=2, finishing=1, dtype="float64")
    for _, layer in levels.correction.leaves():
        for weight in layer.weights.values():
            weight[...] = 0.2 * rng.standard_normal(weight.shape)
    made = levels.predict(x)
    np.testing.assert_allclose(levels.predict(1e4 * x), 1e4 * made, rtol=1e-9)
    long = 1 + rng.random((1, 1, 151, 15))
    np.testing.assert_allclose(levels.predict(long, tile=(13, 15)), levels.predict(long), rtol=1e-9)
    np.testing.assert_array_equal(levels.with_psf(psf).predict(x), made)
    shared = levels.with_psf(wide, share=True)
    shared.correction.layers[0].weights["weight"] *= 2
    assert np.abs(levels.predict(x) - made).max() > 1e-3
    for options, match in (
        ({"levels": 5}, "levels: got 5"),
        ({"finishing": -1}, "finishing: got -1"),
        ({"levels": 1, "depth": 0}, "depth"),
        ({"levels": 0, "depth": 1}, "depth"),
    ):
        refused(ValueError, match, lambda options=options: nn.RLNet(psf, **options))
    refused(ValueError, "levels: got 1 without a psf", lambda: nn.RLNet(levels=1))
    refused(ValueError, "finishing: got 2 without a psf", lambda: nn.RLNet(finishing=2))
    refused(ValueError, "back_projector: got 'foo'", lambda: nn.RLNet(back_projector="foo"))
    refused(ValueError, r"x: 1 of 210 values are negative", lambda: net.predict(x - x.min() - 1e-9))
    with pytest.raises(ValueError, match="odd lengths"):
        net.with_psf(np.ones((4, 4)))
    with pytest.raises(ValueError, match="learnt the one blur"):
        nn.RLNet(ndim=2).with_psf(psf)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_networks_can_be_copied_and_sent(copied, used, rng):
    net = nn.RLNet(narrow(2), steps=2, filters=3, levels=1)
    net.correction.layers[-1].weights["weight"][...] = 0.1
    x = 1 + rng.random((1, 1, 12, 13))
    if used:  # operators are kept, which hold what a copy cannot
        net.predict(x)
    other = copied(net)
    np.testing.assert_array_equal(other.predict(x), net.predict(x))
    other.correction.layers[-1].weights["weight"] *= 2
    assert np.abs(other.predict(x) - net.predict(x)).max() > 1e-3


def test_recomputation_changes_nothing_but_memory(rng):
    def deep(recompute):
        start = nn.Input(2)
        block = nn.Graph(start, nn.Conv(2, 3, activation="softplus", name="c")(start), recompute=recompute)
        image = nn.Input(2)
        net = initialized(image, block(block(block(image))))
        check_tape = {}
        out = net.forward([x], Engine(), check_tape)
        gradients = Gradients()
        (grad,) = net.backward(np.ones_like(out), check_tape, Engine(), gradients, (True,))
        kept = [set(t) for t in check_tape["tapes"]] if "tapes" in check_tape else []
        (conv,) = (layer for _, layer in net.leaves())
        return out, grad, gradients.of(conv, "weight"), kept

    x = rng.standard_normal((1, 2, 9, 8))
    for one, other in zip(deep(False)[:3], deep(True)[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    start = nn.Input(2)
    net = nn.Graph(start, nn.Graph(i := nn.Input(2), nn.ReLU()(i), recompute=True)(start))
    tape = {}
    net.forward([x], Engine(), tape)
    assert [set(own) for own in tape["tapes"]] == [{"inputs"}]


def test_upsampling_reproduces_polynomials():
    """Of order 0, 1, 2 away from the edge, on the pixel centres of the finer grid."""
    n, factor = 12, 3
    coarse = np.arange(n, dtype=np.float64)
    fine = (np.arange(n * factor) + 0.5) / factor - 0.5
    for power, mode in ((0, "nearest"), (1, "linear"), (2, "cubic")):
        image = nn.Input(1, 1)
        net = nn.Graph(image, nn.UpSampling(factor, mode)(image))
        out = net.forward([(coarse**power)[None, None]], Engine(), None)[0, 0]
        np.testing.assert_allclose(out[9:-9], (fine**power)[9:-9], atol=1e-12)


def test_local_deviation_is_that_of_the_noise(rng, tol, dtype):
    """The formula by scipy; white noise gives its own deviation, a flat image 0 and no slope."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="SKIPPED: scipy is not installed")
    around = np.zeros((3, 3, 3))
    for axis in range(3):
        around[tuple(np.roll([0, 1, 1], axis))] = around[tuple(np.roll([2, 1, 1], axis))] = 1 / 6
    x = (5 + 0.3 * rng.standard_normal((2, 1, 40, 30, 32))).astype(dtype)
    image = nn.Input(1, 3)
    net = nn.Model(image, nn.LocalDeviation(name="noise")(image), dtype=dtype)
    got = net.predict(x)
    for one, made in zip(x[:, 0].astype(np.float64), got[:, 0], strict=True):
        detail = one - ndimage.correlate(one, around, mode="nearest")
        expected = np.sqrt(6 / 7 * ndimage.uniform_filter(detail**2, 9, mode="nearest"))
        assert np.linalg.norm(made - expected) < tol("formula", dtype) * np.linalg.norm(expected)
    assert got.mean() == pytest.approx(0.3, rel=0.05)
    tape = {}
    flat = net.forward([np.full((1, 1, 9, 9, 9), 2.0)], Engine(), tape)
    (grad,) = net.backward(np.ones_like(flat), tape, Engine(), Gradients(), (True,))
    assert np.abs(flat).max() < 1e-7 and np.isfinite(grad).all()
    refused(ValueError, "window: got 4, expected an odd", lambda: nn.LocalDeviation(4))


@pytest.mark.parametrize("images", [1, 2])
def test_local_deviation_of_any_scale(images, dtype, rng):
    """Squares of details may leave the dtype's range where the details do not; no bit is lost."""
    x = rng.random((images, 2, 12, 13)).astype(dtype)
    image = nn.Input(2)
    net = nn.Model(image, nn.LocalDeviation(3)(image), dtype=dtype)
    expected, tape = net.predict(x), {}
    for power in (-90, -40, 40, 90) if dtype == np.float32 else (-900, -300, 300, 900):
        factor = np.ldexp(dtype.type(1), power)
        factors = np.array([1, factor])[-images:, None, None, None].astype(dtype)  # each image by itself
        assert np.array_equal(net.predict(x * factors) / factors, expected)
        tape.clear()
        assert np.array_equal(net.forward([x * factors], Engine(), tape) / factors, expected)
        (grad,) = net.backward(np.ones_like(x), tape, Engine(), Gradients(), (True,))
        assert np.isfinite(grad).all() and np.abs(grad).max() > 0.01


def test_rl_net_gives_any_scale_the_result_of_that_scale(rng):
    pytest.importorskip("safetensors", reason="SKIPPED: safetensors is not installed")
    net = nn.RLNet.pretrained(mf.psf.gaussian((3.0, 3.0, 3.0), (1.0, 1.0, 1.0)))
    image = rng.poisson(50, (1, 1, 10, 12, 12)).astype(np.float32)
    expected = net.predict(image)
    for factor in (1e-26, 1e-18, 1e19, 1e26):
        made = net.predict(image * np.float32(factor)) / np.float32(factor)
        assert np.abs(made - expected).max() < 1e-5 * expected.max()
    for factor in (1e-31, 1e27):
        with pytest.raises(ValueError, match=r"x: the largest value is .*in float32"):
            net.predict(image * np.float32(factor))


def test_group_norm_is_its_formula(rng):
    x = 3 + 2 * rng.standard_normal((2, 4, 5, 6))
    image = nn.Input(4)
    net = nn.Model(image, nn.GroupNorm(2, eps=1e-3)(image), dtype="float64")
    out = net.predict(x)
    for sample in range(2):
        for group in range(2):
            part = x[sample, 2 * group : 2 * group + 2]
            expected = (part - part.mean()) / np.sqrt(part.var() + 1e-3)
            np.testing.assert_allclose(out[sample, 2 * group : 2 * group + 2], expected, atol=1e-12)


def test_all_backends_and_threads_agree(rng, tol, backend, dtype):
    net = nn.DeconvNet(scale=2, filters=8, residual=False, dtype=dtype, backend=backend)
    x = rng.random((2, 1, 40, 30)).astype(dtype)
    expected = nn.DeconvNet(scale=2, filters=8, residual=False, dtype=dtype, backend="reference").predict(x)
    got = net.predict(x)
    assert got.dtype == dtype
    assert np.linalg.norm(got - expected) < tol("backends", dtype) * np.linalg.norm(expected)


def test_pointwise_blocks_cover_everything(rng):
    x = rng.standard_normal((1, 1, 1031, 1033))
    image = nn.Input(1)
    net = nn.Graph(image, nn.ReLU()(image))
    for threads in (1, 2, 5):
        out = net.forward([x], Engine(num_threads=threads), None)
        np.testing.assert_array_equal(out, np.maximum(x, 0))


def refused(error, match, make):
    with pytest.raises(error, match=match):
        make()


def test_misfits_are_refused():
    image = nn.Input(4)
    refused(ValueError, r"layer Conv: groups: got 3.*channels, 4", lambda: nn.Conv(3, 3, groups=3)(image))
    refused(ValueError, "filters", lambda: nn.Conv(0))
    refused(TypeError, "padding_mode", lambda: nn.Conv(1, padding_mode=3))
    refused(ValueError, "activation: got 'tanh'", lambda: nn.Conv(1, activation="tanh"))
    refused(ValueError, r"layer 'n' \(GroupNorm\): groups: got 3", lambda: nn.GroupNorm(3, name="n")(image))
    refused(ValueError, "slope", lambda: nn.LeakyReLU(0))
    refused(ValueError, "mode: got 'quintic'", lambda: nn.UpSampling(2, "quintic"))
    refused(ValueError, r"\[4, 2\] channels", lambda: nn.Add()(image, nn.Conv(2)(image)))
    refused(ValueError, "scale", lambda: nn.Concat()(image, nn.UpSampling(2)(image)))
    refused(TypeError, "got 1 inputs, expected 2 or more", lambda: nn.Add()(image))
    refused(TypeError, "expected what nn.Input", lambda: nn.ReLU()(np.zeros((1, 4, 3, 3))))
    refused(ValueError, "another|among", lambda: nn.Graph(nn.Input(4), nn.ReLU()(image)))
    refused(ValueError, "does not depend", lambda: nn.Graph([image, nn.Input(1)], nn.ReLU()(image)))
    twins = [nn.Conv(1, name="a"), nn.ReLU("a"), nn.ReLU()]
    refused(ValueError, "two layers of the name 'a'", lambda: nn.Sequential(twins))
    assert not twins[2].name
    shared = nn.Conv(4, name="shared")

    def block(name):
        start = nn.Input(4)
        return nn.Graph(start, nn.ReLU()(shared(start)), name=name)

    two = block("one")(block("other")(image))
    refused(ValueError, r"'other.shared' and 'one.shared' are one layer", lambda: nn.Graph(image, two))
    conv = nn.Conv(2)
    conv(image)
    refused(ValueError, "as at its first use", lambda: conv(nn.Input(3)))
    paired = nn.Conv(4, 3, groups=2)
    refused(ValueError, "groups: got 2", lambda: nn.Sequential([paired], channels=3))
    assert nn.Sequential([paired], channels=4).channels == 4  # not used before


def test_trained_layers_go_into_another_network():
    """With their weights and names; layers that have none take the numbers that are left."""
    first = nn.Sequential([nn.Conv(1), nn.ReLU(), nn.Conv(1)], seed=1)
    second = nn.Sequential([nn.Conv(1, 5), *first.layers, nn.Conv(1)], seed=2)
    assert [layer.name for layer in second.layers] == ["conv_3", "conv_1", "relu_1", "conv_2", "conv_4"]
    np.testing.assert_array_equal(second.get_weights()[2], first.get_weights()[0])
    refused(
        ValueError,
        r"dtype: got 'float64', expected 'float32' as the weights that layer 'conv_1' \(Conv\) has",
        lambda: nn.Sequential([first.layers[0]], dtype="float64"),
    )


def test_a_shape_that_does_not_fit_names_the_layer(rng):
    net = nn.Sequential([nn.Conv(2, 3), nn.Conv(1, 9, padding="valid", name="wide")])
    with pytest.raises(ValueError, match=r"layer 'wide' \(Conv\): w: the kernel \(9, 9\)"):
        net.predict(rng.random((1, 1, 8, 8)))


def test_public_layers_are_documented():
    for name in nn.__all__:
        text = getattr(nn, name).__doc__ or ""
        assert len(text) > 30, name
    assert mf.nn is nn
