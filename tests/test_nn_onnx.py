"""Networks written as ONNX: onnxruntime makes the same of an image."""

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import nn
from medeconv_fast.nn._blur_layers import BOUNDARIES

onnx = pytest.importorskip("onnx", reason="SKIPPED: onnx is not installed (extra onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="SKIPPED: onnxruntime is not installed (extra onnx)")


def by_onnxruntime(net, path, x):
    net.to_onnx(path)
    model = onnx.load(path)
    assert model.ir_version == 8 and [o.version for o in model.opset_import] == [17]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"image": x})
    return result


def graph(ndim):
    image = nn.Input(2, ndim)
    signal = nn.Conv(4, 3, activation="leaky_relu")(image)
    signal = nn.GroupNorm(2)(nn.LeakyReLU(0.3)(signal))
    inner = nn.Input(4, ndim)
    block = nn.Graph(inner, nn.Softplus()(nn.Conv(4, 3, padding_mode="replicate")(inner)), name="block")
    signal = nn.InstanceNorm(affine=False)(block(block(signal)))
    signal = nn.Conv(4, 4, padding_mode="circular")(nn.Conv(4, 3, padding_mode="reflect")(signal))
    signal = nn.Concat()(signal, nn.Multiply()(image, image), nn.LocalDeviation(5)(image))
    small = nn.Conv(4, 3, 2, groups=4)(signal)
    large = nn.ConvTranspose(2, 3, 2, activation="relu")(small)
    return nn.Model(image, nn.Divide(0.1)(nn.Add("relu")(large, image, image), image), seed=3)


def blurring(ndim, boundary):
    psf = np.arange(1.0, 1 + 4 * 3 ** (ndim - 1)).reshape((4, 3, 3)[:ndim])
    image = nn.Input(2, ndim)
    blurred = nn.FixedBlur(psf, boundary)(image)
    step = nn.RichardsonLucyStep(psf, np.ones((3,) * ndim), boundary, background=0.1)
    return nn.Model(image, step(blurred, image))


def gaussian(ndim):
    return mf.psf.gaussian(fwhm=(2.0,) * ndim, voxel_size=(1.0,) * ndim)


NETS = {
    "deconv1": lambda: nn.DeconvNet(filters=6, residual=False),
    "deconv2": lambda: nn.DeconvNet(scale=2, filters=6),
    "deconv4_3d": lambda: nn.DeconvNet(scale=4, filters=3, ndim=3),
    "deconv2_1d": lambda: nn.DeconvNet(scale=2, filters=3, ndim=1),
    "nearest": lambda: nn.Sequential([nn.UpSampling(2), nn.Conv(1), nn.UpSampling((3, 1), "linear")]),
    "graph1": lambda: graph(1),
    "graph2": lambda: graph(2),
    "graph3": lambda: graph(3),
    "learnt": lambda: nn.RLNet(ndim=2, steps=2, filters=4),
    "known": lambda: nn.RLNet(gaussian(3), filters=4),
    "levels2": lambda: nn.RLNet(gaussian(2), filters=4, levels=2),
    "levels3": lambda: nn.RLNet(gaussian(3), steps=1, filters=3, levels=1, finishing=1),
    "matched": lambda: nn.RLNet(gaussian(2), filters=4, back_projector="matched", boundary="zero"),
    **{f"blur_{b}": (lambda b=b: blurring(2, b)) for b in BOUNDARIES},
    "blur_3d": lambda: blurring(3, "mirror"),
}


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_makes_the_same(name, tmp_path, rng, tol):
    net = NETS[name]()
    for key, weight in net.named_weights().items():
        if not key.endswith((".psf", ".back")):
            weight += (0.1 * rng.standard_normal(weight.shape)).astype(np.float32)
    sizes = {"graph2": ((8, 12, 10), (14, 8, 16)), "levels2": ((8, 12), (13, 11)), "levels3": ((13, 12, 11),)}
    for size in sizes.get(name, ((8, 12, 10),)):
        x = (1 + rng.random((2, net.channels, *size[: net.ndim]))).astype(np.float32)
        path = tmp_path / f"{size[0]}.onnx"
        expected = net.predict(x)
        got = by_onnxruntime(net, path, x)
        assert got.shape == expected.shape and got.dtype == np.float32
        assert np.abs(got - expected).max() < tol("nn_onnx", np.float32) * np.abs(expected).max()


def test_images_shorter_than_filters_reach_fail(tmp_path):
    """ONNX cuts slices short without a word, and spreads what is too short over all else."""
    long, short = np.ones((9, 1)) / 9, np.ones((3, 1)) / 3
    image = nn.Input(1, 2)
    nets = {
        "blur": nn.Model(image, nn.FixedBlur(long, "reflect")(image)),
        "step": nn.Model(image, nn.RichardsonLucyStep(short, long, "reflect")(image, image)),
        "ring": nn.Model(image, nn.Add()(image, nn.Conv(1, (9, 1), padding_mode="circular")(image))),
    }
    for name, net in nets.items():
        x = np.ones((1, 1, 4, 2), np.float32)
        got = by_onnxruntime(net, tmp_path / f"{name}.onnx", x)
        np.testing.assert_allclose(got, net.predict(x), rtol=1e-5)
        for length in (1, 2, 3):
            with pytest.raises(Exception, match=r"Reshape|[Dd]imension|[Ss]hape"):
                by_onnxruntime(net, tmp_path / f"{name}_{length}.onnx", x[:, :, :length])


def test_what_onnx_does_not_have_is_refused(tmp_path):
    circular = nn.Sequential([nn.ConvTranspose(1, 4, 2, padding_mode="circular", name="ring")])
    with pytest.raises(NotImplementedError, match="ring: padding_mode='circular'"):
        circular.to_onnx(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    nn.DeconvNet().to_onnx(tmp_path / "a.onnx")
    with pytest.raises(FileExistsError):
        nn.DeconvNet().to_onnx(tmp_path / "a.onnx")
