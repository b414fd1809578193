"""Restores a scan blurred by a Gaussian of known width, and stops when little changes any more.

    python examples/restore_scan.py scan.nii.gz restored.nii.gz 6 4 4

The three numbers are the blur's full widths at half maximum in mm, in the order z y x. For research, not a
medical device.
"""

import sys

import numpy as np

import medeconv_fast as mf


def main(source: str, destination: str, *widths: str) -> None:
    scan = mf.io.read(source).to_unit("mm")
    mf.io.check_writable(destination)  # now, not after the work
    if scan.axes != "zyx":
        raise SystemExit(f"{source}: axes {scan.axes}, expected one volume (z, y, x)")
    psf = mf.psf.gaussian(fwhm=[float(width) for width in widths], voxel_size=scan.voxel_size)

    previous = np.asarray(scan.array, dtype=np.float32)

    def settled(iteration: int, estimate: np.ndarray) -> bool:
        """True, which ends the run, when an iteration changes less than half a per cent."""
        nonlocal previous
        change = np.linalg.norm(estimate - previous) / np.linalg.norm(previous)
        previous = estimate
        return bool(change < 0.005)

    restored, info = mf.richardson_lucy(
        scan.array, psf, num_iter=200, negative="clip", callback=settled, return_info=True
    )
    mf.io.write(destination, scan.with_array(restored))
    print(
        f"{info.num_iter} iterations (stopped by {info.stopped_by}) in {info.seconds:.2f} s, {info.backend}"
    )
    print(f"{info.settings['clipped']} negative values were set to 0")


if __name__ == "__main__":
    if len(sys.argv) != 6:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
