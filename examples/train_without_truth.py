"""Train a network on one blurred, noisy volume, without anything sharp, and compare with `restore`.

    python examples/train_without_truth.py                         # a scan that ships with nibabel
    python examples/train_without_truth.py pollen.tif --crop 64 192

The volume is taken for the truth, blurred by a Gaussian and given the noise of a number of photons; the truth
is only looked at to measure. For research, not a medical device.
"""

import argparse
import time

import numpy as np

import medeconv_fast as mf
from medeconv_fast.demo import scan_path

FWHM = (4.0, 3.0, 3.0)  # voxels


def trained(image: np.ndarray, psf: np.ndarray, rounds: int = 4) -> np.ndarray:
    """What a network that saw nothing but `image` makes of it."""
    unit = np.percentile(image, 99.9)
    net = mf.nn.RLNet(psf, steps=2, filters=8)
    patch = tuple(min(n, size) for n, size in zip(image.shape, (32, 48, 48), strict=True))
    for number in range(rounds):
        mf.nn.fit_without_truth(
            net,
            [image / unit],
            psf,
            3,
            4,
            patch=patch,
            samples=48,
            learning_rate=2e-3 / (1 + number),
            seed=number,
        )
    return unit * net.predict((image / unit)[None, None])[0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", nargs="?", default=scan_path("anatomical.nii"))
    parser.add_argument("--crop", type=int, nargs=2, help="first and last row and column")
    parser.add_argument("--photons", type=float, nargs="+", default=[50, 300, 2000])
    arguments = parser.parse_args()
    truth = mf.io.read(arguments.volume).array.astype(np.float32)
    if arguments.crop:
        part = slice(*arguments.crop)
        truth = truth[:, part, part]
    truth -= truth.min()
    psf = mf.psf.gaussian(fwhm=FWHM, voxel_size=(1.0, 1.0, 1.0))
    print("photons | image | restore | without truth, dB")
    for photons in arguments.photons:
        image = mf.simulate(truth, psf, noise="poisson", photons=photons, seed=3)
        begun = time.monotonic()
        made = [image, mf.restore(image, psf), trained(image, psf)]
        scores = " | ".join(f"{mf.metrics.psnr(truth, one):.2f}" for one in made)
        print(f"{photons:g} | {scores} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
