"""What blind Richardson-Lucy finds from several starts: the table of docs/methods/blind_richardson_lucy.md.

    python benchmarks/blind_accuracy.py

Images that come with scikit-image (means of 2 x 2 pixels) and single points, blurred by a Gaussian of 3
voxels, with Poisson noise.
"""

import itertools
import warnings

import numpy as np
import skimage.data

import medeconv_fast as mf

SHAPE = (15, 15)
OPTIONS = {"boundary": "reflect", "background": 1.0}


def halved(image: np.ndarray) -> np.ndarray:
    image = image[:600, :600] @ (0.299, 0.587, 0.114)
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean(axis=(1, 3))


def scenes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    points = np.zeros((200, 200))
    points[tuple(rng.integers(8, 192, (2, 150)))] = rng.random(150)
    return {
        "star field": halved(skimage.data.hubble_deep_field().astype(float)),
        "portrait": halved(skimage.data.astronaut().astype(float)),
        "single points": points,
    }


def best(truth: np.ndarray, image: np.ndarray, psf: np.ndarray, counts: tuple[int, ...]) -> float:
    """PSNR of plain Richardson-Lucy after the best of several numbers of iterations."""
    return max(mf.metrics.psnr(truth, mf.richardson_lucy(image, psf, n, **OPTIONS)) for n in counts)


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)  # some of these are to collapse
    known = mf.psf.gaussian(3.0, (1, 1), SHAPE)
    print("| image, photons at the peak | start | steps | sum of differences | PSNR: first → blind (true) |")
    print("|---|---|---|---|---|")
    for name, scene in scenes().items():
        for photons in (10_000, 200):
            truth = scene * (photons / scene.max())
            blurred = np.maximum(mf.convolve(truth, known, mode="same", boundary="reflect"), 0)
            image = np.random.default_rng(1).poisson(blurred + OPTIONS["background"]).astype(np.float32)
            limit = best(truth, image, known, (10, 30, 100))
            for start, (psf_steps, image_steps) in itertools.product((1.5, 4.5, 7.5), ((3, 1), (1, 5))):
                first = mf.psf.gaussian(start, (1, 1), SHAPE)
                estimate, psf = mf.blind_richardson_lucy(
                    image,
                    first,
                    30,
                    psf_iterations=psf_steps,
                    image_iterations=image_steps,
                    symmetry="axial",
                    **OPTIONS,
                )
                before, after = (float(np.abs(p - known).sum()) for p in (first, psf))
                print(
                    f"| {name}, {photons} | {start} | {psf_steps} and {image_steps} "
                    f"| {before:.2f} → {after:.2f} "
                    f"| {best(truth, image, first, (10, 30)):.1f} → {mf.metrics.psnr(truth, estimate):.1f} "
                    f"({limit:.1f}) |"
                )


if __name__ == "__main__":
    main()
