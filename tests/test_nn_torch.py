"""Training of networks against torch: the same weights, data and order give the same losses."""

import numpy as np
import pytest

from medeconv_fast import nn

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed (extra torch)")
pytestmark = pytest.mark.peers

UPDATES, BATCH = 50, 4


def torch_net(scale, filters, dtype):
    layers = [torch.nn.Conv2d(1, filters, 3, padding=1), torch.nn.ReLU()]
    if scale == 4:
        layers += [torch.nn.ConvTranspose2d(filters, filters, 4, 2, 1), torch.nn.ReLU()]
    kernel, stride, padding = (3, 1, 1) if scale == 1 else (4, 2, 1)
    layers.append(torch.nn.ConvTranspose2d(filters, 1, kernel, stride, padding))
    return torch.nn.Sequential(*layers).to(dtype)


@pytest.fixture
def data():
    rng = np.random.default_rng(11)
    return lambda scale, dtype: (
        rng.random((UPDATES * BATCH, 1, 12, 10)).astype(dtype),
        rng.random((UPDATES * BATCH, 1, 12 * scale, 10 * scale)).astype(dtype),
    )


OPTIMIZERS = {
    "adam": (lambda: nn.Adam(1e-3), lambda p: torch.optim.Adam(p, 1e-3)),
    "adamw": (lambda: nn.AdamW(1e-3), lambda p: torch.optim.AdamW(p, 1e-3)),
    "adam_decay": (
        lambda: nn.Adam(1e-3, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 1e-3, weight_decay=0.1),
    ),
    "sgd": (
        lambda: nn.SGD(0.05, 0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.05, 0.9, nesterov=True, weight_decay=0.01),
    ),
}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="SKIPPED: this torch has no Muon")
def test_muons_steps_point_where_torchs_do():
    """Torch's factor comes of five iterations, which leave singular values of 0.7 to 1.2."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((12, 45)).astype(np.float32)
    ours = [weight.copy().reshape(12, 5, 3, 3)]
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    theirs = torch.optim.Muon([parameter], 1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    made = nn.Muon(1e-2)
    made.reset(ours)
    for _ in range(4):
        before = ours[0].ravel().copy(), parameter.detach().numpy().ravel().copy()
        grad = rng.standard_normal(weight.shape).astype(np.float32)
        made.update(ours, [grad.copy().reshape(12, 5, 3, 3)])
        parameter.grad = torch.from_numpy(grad)
        theirs.step()
        steps = ours[0].ravel() - before[0], parameter.detach().numpy().ravel() - before[1]
        lengths = [np.linalg.norm(step) for step in steps]
        assert steps[0] @ steps[1] > 0.98 * lengths[0] * lengths[1]
        assert 0.8 < lengths[1] / lengths[0] < 1.2


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_loss_curve_is_torchs(scale, optimizer, dtype, data, tol):
    x, y = data(scale, dtype)
    net = nn.DeconvNet(scale=scale, filters=64, residual=False, dtype=dtype, seed=5)
    peer = torch_net(scale, 64, torch.from_numpy(x).dtype)
    with torch.no_grad():
        for parameter, weight in zip(peer.parameters(), net.get_weights(), strict=True):
            parameter.copy_(torch.from_numpy(weight))
    ours, theirs = OPTIMIZERS[optimizer]
    losses = []
    net.compile(ours(), "mse")
    # One batch is one epoch, so that the history has every update's loss.
    for start in range(0, len(x), BATCH):
        cut = slice(start, start + BATCH)
        losses += net.fit(x[cut], y[cut], 1, BATCH, shuffle=False)["loss"]
    made = theirs(peer.parameters())
    expected = []
    for start in range(0, len(x), BATCH):
        cut = slice(start, start + BATCH)
        made.zero_grad()
        loss = torch.nn.functional.mse_loss(peer(torch.from_numpy(x[cut])), torch.from_numpy(y[cut]))
        loss.backward()
        made.step()
        expected.append(loss.item())
    assert len(losses) == UPDATES
    assert expected[-1] < 0.9 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=tol("nn_torch", dtype))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_upsampling_is_torchs(mode, ndim, rng):
    x = rng.random((2, 3, *(5, 4, 6)[:ndim]))
    image = nn.Input(3, ndim)
    got = nn.Model(image, nn.UpSampling(3, mode)(image), dtype="float64").predict(x)
    names = {1: "linear", 2: "bilinear", 3: "trilinear"}
    options = {"mode": "nearest"} if mode == "nearest" else {"mode": names[ndim], "align_corners": False}
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=3, **options).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_group_norm_is_torchs(rng):
    x = rng.standard_normal((2, 6, 5, 7))
    image = nn.Input(6)
    for layer, theirs in (
        (nn.GroupNorm(3), lambda t: torch.nn.functional.group_norm(t, 3)),
        (nn.InstanceNorm(), torch.nn.functional.instance_norm),
    ):
        got = nn.Model(image, layer(image), dtype="float64").predict(x)
        np.testing.assert_allclose(got, theirs(torch.from_numpy(x)).numpy(), atol=1e-10)
