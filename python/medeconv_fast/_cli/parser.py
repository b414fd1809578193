"""The arguments of every command, with their help."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..algorithms._restore import NAMED
from . import preparing
from .session import UserError

DISCLAIMER = "For research, not a medical device."
METHODS = ("auto", "rl", "wiener", *NAMED)
BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")

# Options that take one number per axis, as separate words: "--fwhm-mm 6 4 4".
_PER_AXIS = (
    "--fwhm-mm",
    "--fwhm-um",
    "--voxel-size-mm",
    "--voxel-size-um",
    "--new-voxel-size-mm",
    "--new-voxel-size-um",
    "--shape",
    "--halo",
    "--patch",
    "--tile",
)


class _Parser(argparse.ArgumentParser):
    """Errors are raised, so that main() reports every error the same way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version; argparse itself would pass over a full disk in silence."""
        print(message, end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see '{self.prog} --help'")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def join_numbers(argv: Sequence[str]) -> list[str]:
    """Make one word of the numbers after a per-axis option.

    argparse cannot take "one to three numbers": it would swallow the file name that follows them.
    """
    joined: list[str] = []
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word not in _PER_AXIS:
            joined.append(word)
            continue
        first = at
        while at < len(argv) and at - first < 3 and _is_number(argv[at]):
            at += 1
        if at == first:
            joined.append(word)
        else:
            joined.append(f"{word}={','.join(argv[first:at])}")
    return joined


def _per_axis(text: str, accepts: Callable[[float], bool], expected: str) -> tuple[float, ...]:
    words = text.replace(",", " ").split()
    if not 1 <= len(words) <= 3 or not all(_is_number(word) for word in words):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected one number per axis (Z Y X), or one for all axes"
        )
    values = tuple(float(word) for word in words)
    if not all(math.isfinite(value) and accepts(value) for value in values):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
    return values


def lengths(text: str) -> tuple[float, ...]:
    """One to three positive numbers, separated by commas or spaces."""
    return _per_axis(text, lambda value: value > 0, "positive numbers")


def widths(text: str) -> tuple[float, ...]:
    """The same, where 0 means no blur along that axis."""
    return _per_axis(text, lambda value: value >= 0, "numbers of 0 or more")


def voxel_counts(text: str) -> tuple[int, ...]:
    values = lengths(text)
    if not all(value.is_integer() for value in values):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers of voxels")
    return tuple(int(value) for value in values)


def _number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not _is_number(text) or not math.isfinite(float(text)) or not accepts(float(text)):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return float(text)

    return parse


positive = _number(lambda value: value > 0, "a positive number")
non_negative = _number(lambda value: value >= 0, "a number of 0 or more")
fraction = _number(lambda value: 0 <= value < 1, "a number from 0 to less than 1")
real = _number(lambda value: True, "a number")


def count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of 1 or more")
    return int(text)


def seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of 0 or more")
    return int(text)


def balance(text: str) -> str | float:
    return (
        text if text == "auto" else _number(lambda value: value >= 0, "auto or a number of 0 or more")(text)
    )


# ---------------------------------------------------------------- groups of options


def _output(parser: argparse.ArgumentParser, *, series: bool = True) -> None:
    """`series`: whether it may be a derived DICOM series."""
    text = "file to write; its name gives the format"
    if series:
        text += ", without an ending a folder of DICOM files"
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=text)


def _general(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("general")
    group.add_argument(
        "--json",
        metavar="FILE",
        help="also write the result in machine-readable form; '-' for standard output",
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")
    group.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    group.add_argument("--debug", action="store_true", help="on an error, show where it was raised")


def _image(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where a file or folder holds more than one image")
    group.add_argument(
        "--series",
        metavar="S",
        help="DICOM folder: UID, number or description; TIFF, OME-Zarr: number, from 0",
    )
    group.add_argument(
        "--channel",
        choices=("red", "green", "blue", "luminance"),
        help="DICOM in colour: what to read of it (without it colour is refused)",
    )
    group.add_argument(
        "--frame", type=seed, metavar="N", help="DICOM file of many frames: one of them, counted from 0"
    )


def _voxel_size(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("voxel size, in the order of the axes (Z Y X), or one number for all")
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--voxel-size-mm", metavar="Z Y X", type=lengths, help="where the file does not say, in mm"
    )
    one.add_argument(
        "--voxel-size-um", metavar="Z Y X", type=lengths, help="where the file does not say, in µm"
    )
    group.add_argument(
        "--override-voxel-size",
        action="store_true",
        help="use the given voxel size even though the file says another; without it that is an error",
    )


def _psf(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("point spread function (PSF); one of these is needed")
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--psf",
        metavar="FILE",
        help="a measured or computed PSF; resampled where its voxel size is not the image's (without one it "
        "is taken as sampled on the grid of the image's file)",
    )
    one.add_argument(
        "--fwhm-mm", metavar="Z Y X", type=widths, help="Gaussian PSF, full width at half maximum in mm"
    )
    one.add_argument("--fwhm-um", metavar="Z Y X", type=widths, help="the same in µm")


def _compute(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument("--backend", default="auto", help="auto, or a name that 'medeconv backends' lists")
    group.add_argument(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda[:i]",
        help="where to compute; cuda is backend cuda on the GPU number i (default: auto, as --backend says)",
    )
    group.add_argument(
        "--threads", type=count, metavar="N", help="CPU threads (default: all that this process may use)"
    )


def halo(text: str) -> str | int | tuple[int, ...]:
    """auto, exact, or one whole number for all axes or each."""
    if text in ("auto", "exact"):
        return text
    values = _per_axis(text, lambda value: value >= 0 and value.is_integer(), "auto, exact or whole numbers")
    whole = tuple(int(value) for value in values)
    return whole[0] if len(whole) == 1 else whole


def _grid(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_argument_group(
        "images larger than memory",
        "Each of these options has the image restored in tiles: docs/volumes.md",
    )
    group.add_argument(
        "--memory", metavar="SIZE", help="what each process may take, such as 4GB (in tiles: the default)"
    )
    group.add_argument(
        "--halo",
        type=halo,
        metavar="auto|exact|N",
        help="voxels around each tile that are computed as well (default: auto, by PSF and iterations)",
    )
    group.add_argument(
        "--tile", type=voxel_counts, metavar="Z Y X", help="tiles' cores, instead of what memory allows"
    )
    group.add_argument(
        "--dtype", choices=("float32", "float16", "input"), help="of the result (default: float32)"
    )
    group.add_argument(
        "--scale", type=positive, metavar="S", help="with --dtype input: value of one step of the integers"
    )
    group.add_argument("--seed", type=seed, metavar="N", help="of the sample's places (default: 0)")
    return group


def _volumes(parser: argparse.ArgumentParser) -> None:
    group = _grid(parser)
    group.add_argument("--workers", type=count, metavar="N", help="work in so many processes (dask)")
    group.add_argument("--scheduler", metavar="ADDRESS", help="work on the cluster of this dask scheduler")
    group.add_argument(
        "--shard-index", type=seed, metavar="I", help="job arrays: do part I of --num-shards, from 0"
    )
    group.add_argument("--num-shards", type=count, metavar="N", help="job arrays: number of parts")
    group.add_argument(
        "--no-resume", action="store_true", help="begin anew instead of going on with what was cut off"
    )
    group.add_argument(
        "--no-verify", action="store_true", help="when going on, do not read back what is finished"
    )


def _preprocessing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "preprocessing",
        "Done in the order given, undone in reverse after restoring. NAME=ARGUMENTS is one of:\n"
        + preparing.SYNTAX,
    )
    group.add_argument(
        "--pre",
        metavar="NAME=ARGUMENTS",
        type=preparing.operation,
        action="append",
        help="one step; may be given several times",
    )
    group.add_argument("--mask", metavar="FILE", help="mask on the image's grid (not 0: inside), for --pre")
    group.add_argument(
        "--keep-preprocessed",
        action="store_true",
        help="write the restored image as it is before the steps are undone",
    )


def _method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        choices=METHODS,
        default="auto",
        help="auto (the default): Richardson-Lucy, accelerated, regularised as the noise asks, that stops by "
        "itself; Wiener for signed images. rl: plain Richardson-Lucy. The others: docs/methods",
    )
    group.add_argument(
        "--iterations",
        type=count,
        metavar="N",
        help="iterations (default: the method's; rl: 30, auto: as many as the noise allows)",
    )
    group.add_argument(
        "--weight",
        type=non_negative,
        metavar="W",
        help="weight of the regularizer: tikhonov (default: by cross-validation), fista",
    )
    group.add_argument(
        "--balance",
        type=balance,
        metavar="auto|B",
        help="Wiener: weight of smoothness (default: auto, by cross-validation)",
    )
    group.add_argument(
        "--boundary", choices=BOUNDARIES, help="what lies outside the image (default: the method's)"
    )
    group.add_argument(
        "--background",
        type=non_negative,
        metavar="B",
        help="Richardson-Lucy: constant that the detector adds",
    )
    group.add_argument(
        "--negative",
        choices=("raise", "clip", "shift"),
        help="Richardson-Lucy, negative values in the image: refuse them, set them to 0, or add a constant "
        "before and take it off after (default: raise; --method auto clips and says so)",
    )


# ---------------------------------------------------------------- commands


def _restore(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # the table of --pre keeps its lines
    parser.add_argument(
        "input",
        metavar="IN",
        help="image to restore: a file, a Zarr folder, a folder of one DICOM series; or a folder of files, "
        "each of which is restored into the folder OUT",
    )
    _output(parser)
    _method(parser)
    _image(parser)
    _psf(parser)
    _voxel_size(parser)
    _preprocessing(parser)
    _compute(parser)
    parser.add_argument(
        "--report", metavar="HTML", help="also write a page with slices, spectra, PSF, settings and timings"
    )
    _volumes(parser)
    _general(parser)


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", nargs="?", help="image that would be restored")
    parser.add_argument("--shape", metavar="Z Y X", type=voxel_counts, help="number of voxels, instead of IN")
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="times of the machine where 'medeconv calibrate --save FILE' ran; changes no choice",
    )
    _method(parser)
    _image(parser)
    _psf(parser)
    _voxel_size(parser)
    _compute(parser)
    _grid(parser)
    _general(parser)


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a file, a Zarr folder, or a folder of one DICOM series")
    _image(parser)
    _general(parser)


def _psf_command(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="MODEL", required=True)

    def kind(name: str, text: str, *, source: str | None = None) -> argparse.ArgumentParser:
        made = kinds.add_parser(name, help=text, description=f"{text}. {DISCLAIMER}")
        if source is not None:
            made.add_argument("input", metavar="FILE", help=source)
        _output(made, series=False)
        made.add_argument("--plot", metavar="PNG", help="also draw planes and profiles of the PSF")
        _general(made)
        return made

    def sampling(made: argparse.ArgumentParser, *, required: bool = True) -> None:
        group = made.add_argument_group("sampling, in the order of the axes (Z Y X), or one number for all")
        one = group.add_mutually_exclusive_group(required=required)
        one.add_argument("--voxel-size-mm", metavar="Z Y X", type=lengths, help="voxel size in mm")
        one.add_argument("--voxel-size-um", metavar="Z Y X", type=lengths, help="voxel size in µm")
        group.add_argument(
            "--shape", metavar="Z Y X", type=voxel_counts, help="number of voxels (default: enough)"
        )

    def optics(made: argparse.ArgumentParser, *, index: float | None, required: bool = True) -> None:
        group = made.add_argument_group("optics")
        group.add_argument("--na", type=positive, required=required, help="numerical aperture")
        group.add_argument(
            "--wavelength-nm", type=positive, required=required, metavar="L", help="emission, in vacuum"
        )
        if index is not None:
            group.add_argument(
                "--refractive-index",
                type=positive,
                default=index,
                metavar="N",
                help=f"of the immersion (default: {index})",
            )

    def specimen(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--specimen-index",
            type=positive,
            default=1.33,
            metavar="N",
            help="of the specimen (default: 1.33)",
        )
        made.add_argument(
            "--depth-um",
            type=non_negative,
            default=0.0,
            metavar="D",
            help="depth of the source below the cover glass",
        )

    gaussian = kind("gaussian", "Gaussian of given full width at half maximum")
    width = gaussian.add_mutually_exclusive_group(required=True)
    width.add_argument("--fwhm-mm", metavar="Z Y X", type=widths, help="full width at half maximum in mm")
    width.add_argument("--fwhm-um", metavar="Z Y X", type=widths, help="the same in µm")
    sampling(gaussian)

    airy = kind("airy", "Airy pattern of a focused plane (2-D)")
    optics(airy, index=None)
    sampling(airy)

    wolf = kind("born-wolf", "Scalar widefield PSF of Born and Wolf")
    optics(wolf, index=1.515)
    sampling(wolf)

    lanni = kind(
        "gibson-lanni", "Widefield PSF of Gibson and Lanni, with the aberration of a mismatched specimen"
    )
    optics(lanni, index=1.515)
    specimen(lanni)
    sampling(lanni)

    sheet = kind("light-sheet", "A detection PSF times the profile of a Gaussian light sheet")
    sheet.add_argument(
        "--detection",
        metavar="born-wolf|gibson-lanni|FILE",
        default="born-wolf",
        help="PSF of the detection: a model, with --na, --wavelength-nm and a voxel size, or a file "
        "(default: born-wolf)",
    )
    group = sheet.add_argument_group("sheet")
    group.add_argument(
        "--excitation-nm", type=positive, required=True, metavar="L", help="wavelength in vacuum"
    )
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--sheet-na", type=positive, metavar="NA", help="numerical aperture of the sheet")
    one.add_argument(
        "--sheet-waist-um",
        type=positive,
        metavar="W",
        help="half thickness at the thinnest place, at exp(-2) of the intensity",
    )
    group.add_argument(
        "--medium-index",
        type=positive,
        default=1.33,
        metavar="N",
        help="refractive index where the sheet runs (default: 1.33)",
    )
    group.add_argument(
        "--position-um",
        type=real,
        default=0.0,
        metavar="X",
        help="distance of the imaged place from the waist, along the sheet (default: 0)",
    )
    group.add_argument(
        "--offset-um",
        type=real,
        default=0.0,
        metavar="Z",
        help="distance of the sheet from the focal plane (default: 0)",
    )
    optics(sheet, index=1.33, required=False)
    specimen(sheet)
    sampling(sheet, required=False)
    sheet.set_defaults(override_voxel_size=False)

    beads = kind(
        "from-beads", "Average of the beads in an image, aligned below the voxel", source="image of beads"
    )
    beads.add_argument(
        "--shape", metavar="Z Y X", type=voxel_counts, required=True, help="voxels of the PSF, around a bead"
    )
    beads.add_argument(
        "--threshold",
        type=fraction,
        default=0.3,
        metavar="T",
        help="least brightness of a bead, of the brightest's (default: 0.3)",
    )
    _voxel_size(beads)

    edge = kind("from-edge", "From the image of a straight edge (2-D)", source="image of one edge")
    edge.add_argument(
        "--model",
        choices=("gaussian", "line"),
        default="gaussian",
        help="the Gaussian that explains the edge, or the line spread function as measured "
        "(default: gaussian)",
    )
    edge.add_argument(
        "--isotropic",
        action="store_true",
        help="gaussian: a PSF of two axes, as wide along the edge as across it; without it, of one axis",
    )
    _voxel_size(edge)

    estimate = kind(
        "estimate",
        "Gaussian as wide as the blur of an image, estimated from its spectrum",
        source="the blurred image itself, neither interpolated nor filtered",
    )
    estimate.add_argument("--isotropic", action="store_true", help="one width for all axes")
    _voxel_size(estimate)

    resample = kind("resample", "A PSF on another grid, its sum kept", source="PSF")
    group = resample.add_argument_group(
        "new voxel size, in the order of the axes (Z Y X), or one number for all"
    )
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--new-voxel-size-mm", metavar="Z Y X", type=lengths, help="in mm")
    one.add_argument("--new-voxel-size-um", metavar="Z Y X", type=lengths, help="in µm")
    _voxel_size(resample)

    recentre = kind("recentre", "Move an off-centre PSF to the middle voxel, shape // 2", source="PSF")
    recentre.add_argument(
        "--method",
        choices=("centroid", "peak"),
        default="centroid",
        help="what comes to the middle (default: centroid)",
    )
    recentre.add_argument(
        "--threshold",
        type=fraction,
        default=0.0,
        metavar="T",
        help="centroid: count only what is above this part of the maximum (default: 0)",
    )
    recentre.add_argument(
        "--remove-background",
        action="store_true",
        help="first subtract the level of the border, cut below 0 and bring the sum to 1",
    )
    _voxel_size(recentre)


def _simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("truth", metavar="TRUTH", help="volume taken as the truth")
    _output(parser)
    _image(parser)
    _psf(parser)
    group = parser.add_argument_group("noise")
    group.add_argument(
        "--noise", choices=("none", "poisson", "gaussian"), default="none", help="default: none"
    )
    group.add_argument(
        "--photons", type=positive, metavar="N", help="Poisson: photons at the brightest blurred voxel"
    )
    group.add_argument(
        "--sigma", type=non_negative, metavar="S", help="Gaussian: standard deviation, in the image's unit"
    )
    group.add_argument(
        "--background", type=non_negative, default=0.0, metavar="B", help="constant added before the noise"
    )
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="same seed, same noise (default: 0)")
    group.add_argument(
        "--boundary", choices=BOUNDARIES[1:], default="reflect", help="what lies outside (default: reflect)"
    )
    _voxel_size(parser)
    _general(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="an image; the reference where no truth is given")
    parser.add_argument("second", metavar="B", help="another image on the same grid")
    parser.add_argument("--truth", metavar="T", help="compare A and B with this one, instead of B with A")
    parser.add_argument("--picture", metavar="PNG", help="also draw orthogonal slices on one grey scale")
    _general(parser)


def _backends(parser: argparse.ArgumentParser) -> None:
    _general(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        metavar="Z Y X",
        type=voxel_counts,
        help="one image of this shape, instead of 64, 128 and 256 cubed and a 2-D image",
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=60.0,
        metavar="S",
        help="leave out what would take longer than this in all (default: 60)",
    )
    parser.add_argument("--backend", default="auto", help="auto, or a name that 'medeconv backends' lists")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="CPU threads (default: all that this process may use)"
    )
    _general(parser)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save", metavar="FILE", help="write what was found, for 'medeconv plan --calibration FILE'"
    )
    parser.add_argument("--backend", default="auto", help="auto, or a name that 'medeconv backends' lists")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="CPU threads (default: all that this process may use)"
    )
    _general(parser)


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="images to train on")
    parser.add_argument(
        "--net",
        metavar="FILE",
        required=True,
        help="safetensors file to write, also after every epoch",
    )
    parser.add_argument(
        "--targets",
        metavar="FILE",
        nargs="+",
        help="what the network shall make of each image; without them the images are taken for sharp, and "
        "blurred by the PSF",
    )
    parser.add_argument(
        "--without-truth",
        action="store_true",
        help="the images are blurred, and there is nothing sharp: train on them alone, with the PSF",
    )
    _image(parser)
    _psf(parser)
    _voxel_size(parser)
    group = parser.add_argument_group("network and training")
    group.add_argument(
        "--kind", choices=("deconv", "rl"), help="DeconvNet or RLNet (default: rl with a PSF, else deconv)"
    )
    group.add_argument("--filters", type=count, metavar="N", help="channels inside (default: 64, rl: 8)")
    group.add_argument(
        "--scale",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="with --targets: how much finer their grid is than the images' (default: 1)",
    )
    group.add_argument("--epochs", type=count, default=10, metavar="N", help="default: 10")
    group.add_argument("--batch-size", type=count, metavar="N", help="default: 8, or all samples if fewer")
    group.add_argument(
        "--samples", type=count, default=256, metavar="N", help="patches per epoch (default: 256)"
    )
    group.add_argument(
        "--patch",
        metavar="Z Y X",
        type=voxel_counts,
        help="size of a patch (default: up to 32 each way, of planes 64); with one number less than the "
        "images have axes, slices are trained on",
    )
    group.add_argument("--loss", choices=("mse", "mae", "poisson"), default="mse", help="default: mse")
    group.add_argument("--learning-rate", type=positive, default=1e-3, metavar="R", help="default: 0.001")
    group.add_argument(
        "--photons", type=positive, metavar="N", help="pairs made with a PSF: photons at the brightest voxel"
    )
    group.add_argument("--sigma", type=positive, metavar="S", help="or Gaussian noise, in the images' unit")
    group.add_argument(
        "--no-flips",
        action="store_true",
        help="mirror no pairs (else along every axis, with a PSF where it is its own mirror image)",
    )
    group.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="same seed, same network (default: 0)"
    )
    group.add_argument("--resume", action="store_true", help="go on where an interrupted run left --net")
    _compute(parser)
    _general(parser)


def _predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="image: a file, or a folder of one DICOM series")
    _output(parser)
    parser.add_argument("--net", metavar="FILE", required=True, help="network that 'medeconv train' wrote")
    parser.add_argument("--tile", metavar="Z Y X", type=voxel_counts, help="size of tiles, to save memory")
    _image(parser)
    _psf(parser)
    _voxel_size(parser)
    _compute(parser)
    _general(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="demo_output",
        help="default: ./demo_output; an earlier demo's files are replaced",
    )
    parser.add_argument("--backend", default="auto", help="auto, or a name that 'medeconv backends' lists")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="CPU threads (default: all that this process may use)"
    )
    _general(parser)


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "restore": (_restore, "Remove a known blur from an image"),
    "plan": (_plan, "Say which engine a restoration would use, its time and memory, without running it"),
    "info": (
        _info,
        "Say what is in an image file: geometry, range, and what stands in the way of restoring it",
    ),
    "psf": (
        _psf_command,
        "Make a point spread function: from a model, from beads or an edge, or from another one",
    ),
    "simulate": (_simulate, "Blur an image and add seeded noise: y = x * h + e"),
    "compare": (_compare, "PSNR, SSIM, NRMSE, I-divergence and resolution between images"),
    "backends": (_backends, "List what can compute on this machine, and why others cannot"),
    "bench": (_bench, "Time this library beside others on this machine, after checking that they agree"),
    "calibrate": (_calibrate, "Measure how far predicted times are off on this machine; changes no result"),
    "train": (_train, "Train a network on pairs, on sharp images and a PSF, or on blurred images alone"),
    "predict": (_predict, "Apply a trained network to an image"),
    "demo": (_demo, "Restore real scans from a simulated blur, and as they are"),
}


def build_parser(version: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="medeconv",
        description=f"Deconvolution of medical and microscopy images. {DISCLAIMER}",
        epilog="Exit status: 0 done, 2 bad arguments or input, 3 failed while running, 130 Ctrl-C, "
        "143 SIGTERM.",
    )
    parser.add_argument("--version", action="version", version=f"medeconv-fast {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (fill, text) in COMMANDS.items():
        fill(commands.add_parser(name, help=text, description=f"{text}. {DISCLAIMER}"))
    return parser
