"""Train a network that sharpens and enlarges slices, and measure it on scans that it has not seen.

    python examples/train_net.py                              # a few seconds
    python examples/train_net.py --picture docs/nets.png

The scans ship in the wheels of nibabel and pydicom. Every slice is taken for the truth; its image is blurred
(Gaussian of sigma 1.2 pixels), averaged over 2 x 2 pixels, and gets noise of 1 % of the range. Three scans
are trained on, three others measured. For research, not a medical device.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pydicom

import medeconv_fast as mf
from medeconv_fast.demo import scan_path

SIGMA = 1.2  # pixels of the truth
NOISE = 0.01  # of the range
PATCH = 24  # pixels of the image


def dicom(name: str) -> np.ndarray:
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    array = np.asarray(mf.io.read(path).array, np.float32)
    return array.reshape(-1, *array.shape[-2:])


def to_unit(slices: np.ndarray, *, hounsfield: bool = False) -> list[np.ndarray]:
    """Slices on a scale of about 0 to 1: CT from -1000 to 1000 HU, others up to their 99.9th percentile."""
    if hounsfield:
        return [(np.clip(s, -1000, 1000) + 1000) / 2000 for s in slices]
    return [(s - s.min()) / (np.percentile(s, 99.9) - s.min()) for s in slices]


def training_scans() -> list[np.ndarray]:
    brain = mf.io.read(scan_path("example4d.nii.gz")).array[0]
    head = mf.io.read(scan_path("anatomical.nii")).array
    return to_unit(brain) + to_unit(head) + to_unit(dicom("693_J2KI.dcm"), hounsfield=True)


def test_scans() -> dict[str, np.ndarray]:
    return {
        "MR, examples_overlay": to_unit(dicom("examples_overlay.dcm"))[0],
        "MR, MR_small": to_unit(dicom("MR_small.dcm"))[0],
        "CT, CT_small": to_unit(dicom("CT_small.dcm"), hounsfield=True)[0],
    }


def image_of(truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The image of a slice, and the slice itself cut to an even size."""
    truth = truth[: truth.shape[0] // 2 * 2, : truth.shape[1] // 2 * 2].astype(np.float32)
    psf = mf.psf.gaussian(fwhm=SIGMA * 2 * np.sqrt(2 * np.log(2)), voxel_size=(1.0, 1.0))
    blurred = mf.Blur(psf, truth.shape, boundary="reflect").forward(truth)
    pooled = blurred.reshape(truth.shape[0] // 2, 2, truth.shape[1] // 2, 2).mean((1, 3))
    noise = np.random.default_rng(seed).normal(0, NOISE, pooled.shape)
    return (pooled + noise).astype(np.float32), truth


def pairs(slices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping patches, (N, 1, y, x)."""
    x, y = [], []
    for number, truth in enumerate(slices):
        image, truth = image_of(truth, number)
        for i in range(0, image.shape[0] - PATCH + 1, PATCH // 2):
            for j in range(0, image.shape[1] - PATCH + 1, PATCH // 2):
                x.append(image[i : i + PATCH, j : j + PATCH])
                y.append(truth[2 * i : 2 * (i + PATCH), 2 * j : 2 * (j + PATCH)])
    return np.array(x)[:, None], np.array(y)[:, None]


def cubic(image: np.ndarray) -> np.ndarray:
    """Cubic splines on the same grid of pixel centres."""
    from scipy import ndimage

    made: np.ndarray = ndimage.zoom(image, 2, order=3, mode="nearest", grid_mode=True)
    return made


def gains(net: mf.nn.DeconvNet) -> dict[str, tuple[float, float]]:
    """PSNR of cubic interpolation and of the network, per scan."""
    found = {}
    for name, scan in test_scans().items():
        image, truth = image_of(scan, 99)
        predicted = net.predict(image[None, None])[0, 0]
        found[name] = (mf.metrics.psnr(truth, cubic(image)), mf.metrics.psnr(truth, predicted))
    return found


def show_limit(name: str) -> None:
    """What the network gains on a scan when it is trained on that very scan, with other noise."""
    scan = test_scans()[name]
    x, y = pairs([scan] * 32)  # each with noise of its own
    net = mf.nn.DeconvNet(scale=2)
    net.compile(mf.nn.Adam(mf.nn.CosineDecay(3e-3, 600)), "mse")
    net.fit(x, y, epochs=-(-600 // -(-len(x) // 32)), batch_size=32)
    image, truth = image_of(scan, 99)
    before = mf.metrics.psnr(truth, cubic(image))
    after = mf.metrics.psnr(truth, net.predict(image[None, None])[0, 0])
    print(f"{name}, trained on itself: cubic {before:.2f} dB, network {after:.2f} dB ({after - before:+.2f})")


def draw(net: mf.nn.DeconvNet, path: str) -> None:
    from matplotlib.figure import Figure

    image, truth = image_of(test_scans()["MR, examples_overlay"], 99)
    planes = {
        "truth": truth,
        "image (2 x 2 pixels)": np.kron(image, np.ones((2, 2))),
        "cubic": cubic(image),
        "DeconvNet": net.predict(image[None, None])[0, 0],
    }
    figure = Figure(figsize=(12, 3.4), dpi=100, layout="constrained")
    for panel, (name, plane) in zip(figure.subplots(1, 4), planes.items(), strict=True):
        panel.imshow(plane[60:220, 140:340], cmap="gray", vmin=0, vmax=1)
        score = "" if name == "truth" else f"\n{mf.metrics.psnr(truth, plane):.1f} dB"
        panel.set_title(name + score, fontsize=9)
        panel.set_axis_off()
    figure.savefig(path)


def show(title: str, net: mf.nn.DeconvNet) -> None:
    print(title)
    found = gains(net)
    for name, (before, after) in found.items():
        print(f"    {name:22} cubic {before:.2f} dB, network {after:.2f} dB ({after - before:+.2f})")
    errors = np.array([[10 ** (-db / 10) for db in both] for both in found.values()])  # over ranges squared
    before, after = -10 * np.log10(errors.mean(0))
    print(f"    {'pooled':22} cubic {before:.2f} dB, network {after:.2f} dB ({after - before:+.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", metavar="PNG")
    parser.add_argument("--limit", action="store_true", help="train on the measured CT slice itself instead")
    arguments = parser.parse_args()
    if arguments.limit:
        show_limit("CT, CT_small")
        return

    x, y = pairs(training_scans())
    print(f"{len(x)} patches of {PATCH} x {PATCH} pixels")
    begun = time.monotonic()
    net = mf.nn.DeconvNet(scale=2)
    net.compile(optimizer="adam", loss="mse")
    net.fit(x, y, epochs=10, batch_size=32)
    show(f"10 epochs of batches of 32 ({time.monotonic() - begun:.1f} s)", net)
    updates = 40 * -(-len(x) // 32)
    net.compile(mf.nn.Adam(mf.nn.CosineDecay(3e-3, updates)), "mse")
    net.fit(x, y, epochs=40, batch_size=32, augment=mf.nn.Augmentation())
    show(f"40 more, with flips and turns, at a rate that falls ({time.monotonic() - begun:.1f} s)", net)
    if arguments.picture:
        draw(net, arguments.picture)


if __name__ == "__main__":
    main()
