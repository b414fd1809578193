"""The report: one HTML file that asks for nothing else, holds all it promises, and shows what there is."""

import base64
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _figures, report
from medeconv_fast.cli import main

pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")

SIZE = (2.5, 1.0, 1.5)
SECTIONS = [
    "warnings",
    "slices",
    "values",
    "profile",
    "spectrum",
    "convergence",
    "psf",
    "settings",
    "timings",
    "memory",
    "versions",
]


class Page(HTMLParser):
    """Sections with their text and pictures, and every address that the page mentions."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.source, self.open, self.addresses, self.sections = text, [], [], {}
        self.attributes = []
        self._ids = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.attributes.append((tag, given))
        self.addresses += [
            given[a] for a in ("src", "href", "srcset", "action", "data", "poster") if a in given
        ]
        if tag == "img":
            self.sections[self._ids[-1]]["pictures"].append(given)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self._ids.append(given["id"])
            self.sections[given["id"]] = {"text": "", "pictures": []}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self._ids.pop()

    def handle_data(self, text):
        if self._ids:
            self.sections[self._ids[-1]]["text"] += f" {text}"

    def text(self, section):
        return " ".join(self.sections[section]["text"].split())


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run():
    """A small run that recorded its convergence: image, estimate, PSF, info."""
    truth = np.zeros((9, 20, 24))
    truth[3:6, 5:14, 8:17] = 300
    psf = mf.psf.gaussian((4, 3, 3), SIZE)
    image = mf.simulate(truth + 20, psf, noise="poisson", seed=2)
    stop = mf.stop.IDivergenceSlope(1e-9)
    estimate, info = mf.richardson_lucy(image, psf, 12, stop=stop, voxel_size=SIZE, return_info=True)
    return image, estimate, psf, info


def volume(array, **changes):
    affine = np.array([[-1.5, 0, 0, 30], [0, 0.8, -1.5, -20], [0, 0.6, 2.0, 5], [0, 0, 0, 1]])
    return mf.io.Volume(array, **({"voxel_size": SIZE, "affine": affine, "unit": "mm"} | changes))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("report")
    image, estimate, psf, info = run
    report.write(
        tmp_path / "r.html",
        volume(image),
        volume(estimate),
        psf,
        info=info,
        settings={"input": "scan.nii"},
        timings={"reading": 0.25},
        peak_memory=3 * 2**20,
        warnings=["look twice", "look twice", "look twice; or else"],
    )
    return read(tmp_path / "r.html")


def test_every_section_is_there_and_filled(page, run):
    info = run[3]
    assert list(page.sections) == SECTIONS
    pictures = {name: len(section["pictures"]) for name, section in page.sections.items()}
    assert {n: k for n, k in pictures.items() if k} == {
        "slices": 3,
        "profile": 1,
        "spectrum": 1,
        "convergence": 1,
        "psf": 1,
    }
    assert page.text("warnings").count("look twice") == 1
    assert "12 iterations, ended by num_iter" in page.text("convergence")
    widths = mf.psf.fwhm(run[2], SIZE)
    for axis, width in zip("zyx", widths, strict=True):
        assert re.search(rf"{axis} \d+ {width:.4g} mm", page.text("psf")), page.text("psf")
    assert "boundary extended" in page.text("settings") and "input scan.nii" in page.text("settings")
    assert "reading 0.25 s" in page.text("timings") and "one iteration, median" in page.text("timings")
    assert "peak of the process 3 MiB" in page.text("memory")
    assert f"medeconv_fast {mf.__version__}" in page.text("versions")
    assert f"numpy {np.__version__}" in page.text("versions") and info.backend in page.text("versions")
    assert str(int((run[0] < 0).sum())) in page.text("values")
    assert f"{run[0].max():.6g}" in page.text("values")


def test_the_page_asks_for_nothing(page):
    assert page.addresses
    assert all(a.startswith("data:image/png;base64,") for a in page.addresses)
    for address in page.addresses:
        assert base64.b64decode(address.partition(",")[2]).startswith(b"\x89PNG")
    rest = re.sub(r"data:image/png;base64,[\w+/=]+", "", page.source)
    assert not re.search(r"//|https?:|url\(|@import|<script|<link|<iframe", rest)
    policies = [
        a["content"] for tag, a in page.attributes if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'")
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.attributes
    assert "medical device" in page.source
    assert all(a.get("alt") for tag, a in page.attributes if tag == "img")


def test_text_of_others_is_escaped(run, tmp_path):
    image, estimate, psf, info = run
    evil = '<script>alert("x")</script> & $\\frac$ \''
    report.write(
        tmp_path / "r.html",
        volume(image),
        volume(estimate),
        psf,
        info=info,
        title=evil,
        settings={evil: evil},
        timings={evil: 1.0},
        warnings=[evil],
    )
    page = read(tmp_path / "r.html")
    assert "<script" not in page.source
    assert evil in page.text("warnings") and evil in page.text("settings") and evil in page.text("timings")


def test_names_of_files_that_are_no_text_are_written_all_the_same(tmp_path, rng):
    image = rng.random((9, 10))
    mf.report.write(tmp_path / "r.html", image, image, settings={"input": "scan\udcff.nii"})
    assert "scan\\udcff.nii" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_noise_does_not_make_it_too_large(tmp_path, rng, monkeypatch):
    """Noise is what compresses worst."""
    monkeypatch.setattr(report, "_SPECTRUM_VOXELS", 1 << 18)
    noise = rng.normal(0, 1, (100, 150, 150)).astype(np.float32)
    report.write(tmp_path / "r.html", noise, noise[::-1].copy(), mf.psf.gaussian((3, 3, 3), (1, 1, 1)))
    assert 300_000 < (tmp_path / "r.html").stat().st_size < 3_000_000
    assert "middle" in read(tmp_path / "r.html").text("spectrum")


class Panels:
    """Stands in for matplotlib's Axes.imshow: keeps what was drawn, and the panels' proportions."""

    def __init__(self, monkeypatch):
        from matplotlib.axes import Axes

        self.drawn = []
        original = Axes.imshow

        def imshow(axes, plane, **options):
            width, height = axes.get_position().size * axes.figure.get_size_inches()
            self.drawn.append((np.array(plane), options, width / height))
            return original(axes, plane, **options)

        monkeypatch.setattr(Axes, "imshow", imshow)


@pytest.mark.parametrize(
    "shape, size", [((9, 20, 24), SIZE), ((20, 24), (2.5, 0.5)), ((40, 6, 5), (5, 1, 1))]
)
def test_slices_have_one_grey_scale_and_the_bodys_proportions(tmp_path, rng, monkeypatch, shape, size):
    panels = Panels(monkeypatch)
    before = rng.uniform(10, 20, shape)
    after = 2 * before
    report.write(tmp_path / "r.html", before, after, voxel_size=size, unit="mm")
    views = 3 if len(shape) == 3 else 1
    assert len(panels.drawn) == 3 * views
    windows = [(options["vmin"], options["vmax"]) for _, options, _ in panels.drawn]
    assert len(set(windows[: 2 * views])) == 1 and 9.9 < windows[0][0] < windows[0][1] < 20.1
    low, high = windows[-1]
    assert low == -high  # grey is no change
    axes = [(-2, -1), (-3, -1), (-3, -2)][:views]
    for (plane, _, ratio), (down, across) in zip(panels.drawn, axes * 3, strict=True):
        assert plane.shape == (shape[down], shape[across])
        physical = shape[across] * size[across] / (shape[down] * size[down])
        assert ratio == pytest.approx(physical, rel=1e-6)
    np.testing.assert_array_equal(panels.drawn[0][0], before[shape[0] // 2] if views == 3 else before)
    np.testing.assert_allclose(panels.drawn[-1][0], panels.drawn[views - 1][0], rtol=1e-12)


@pytest.mark.parametrize("along", [0, 1, 2])
@pytest.mark.parametrize("affine", [None, np.diag([-1.5, 1, 2.5, 1]), np.diag([1.5, -1, 2.5, 1])])
def test_the_profile_goes_through_the_steepest_edge(along, affine):
    """A step along one axis, and a slope along another that is less steep."""
    image = np.zeros((9, 20, 24))
    at = [3, 6, 7][along]
    image[(slice(None),) * along + (slice(at, None),)] = 100
    image += 5 * np.arange(24)
    scene = _figures.Scene([("a", image)], SIZE, affine)
    edge = report._steepest_edge(scene, scene.arrays[0])
    line = edge.line(scene.arrays[0])
    steps = np.abs(np.diff(line))
    assert steps.max() >= 95
    k = int(np.argmax(steps))
    # Where the profile says that the step is, in units of length along the picture.
    n = image.shape[along]
    found = (edge.position[k] + edge.position[k + 1]) / 2
    from_start, from_end = at * SIZE[along], (n - at) * SIZE[along]
    assert edge.horizontal is (along == 2) or (edge.view.plain == "zy" and along == 1)
    assert found == pytest.approx(from_start) or found == pytest.approx(from_end)


def test_profile_positions_are_those_of_the_picture():
    """Without an affine: the picture's left is the first voxel, its top the first row."""
    image = np.zeros((20, 30))
    image[:, 22:] = 50.0
    scene = _figures.Scene([("a", image)], (2.0, 0.5))
    edge = report._steepest_edge(scene, scene.arrays[0])
    assert edge.horizontal
    line = edge.line(scene.arrays[0])
    assert edge.position[line > 25].min() == pytest.approx(22.5 * 0.5)
    image = np.zeros((20, 30))
    image[15:] = 500.0
    scene = _figures.Scene([("a", image)], (2.0, 0.5))
    edge = report._steepest_edge(scene, scene.arrays[0])
    assert not edge.horizontal
    assert edge.position[edge.line(scene.arrays[0]) > 25].max() == pytest.approx((20 - 15.5) * 2)


def test_a_volume_with_time_shows_its_first(tmp_path, rng):
    array = rng.uniform(1, 2, (3, 5, 6, 7)).astype(np.float32)
    array[1:] = 1000
    four = mf.io.Volume(array, (1, 1, 1), None, "mm", "tzyx")
    report.write(tmp_path / "r.html", four, four)
    page = read(tmp_path / "r.html")
    assert "t=0" in page.text("slices") and "1000" not in page.text("values")
    assert page.text("psf").endswith("Not given.") and "Nothing is known" in page.text("convergence")


def test_a_closed_form_has_no_convergence_and_a_flat_image_no_trouble(tmp_path, run):
    image, _, psf, _ = run
    result, info = mf.wiener(image, psf, 0.1, return_info=True)
    report.write(tmp_path / "w.html", image, result, psf, info=info)
    page = read(tmp_path / "w.html")
    assert "closed form" in page.text("convergence") and "voxels" in page.text("psf")
    flat = np.ones((8, 8))
    report.write(tmp_path / "f.html", flat, flat, np.ones((3, 3)))
    assert "No width" in read(tmp_path / "f.html").text("psf")
    plain, info = mf.richardson_lucy(image, psf, 2, return_info=True)
    report.write(tmp_path / "p.html", image, plain, info=info)
    assert "No measure" in read(tmp_path / "p.html").text("convergence")


@pytest.mark.parametrize(
    "words, options, error, text",
    [
        ((np.ones((4, 5)), np.ones((4, 6))), {}, ValueError, r"after: got shape \(4, 6\)"),
        ((np.ones(4), np.ones(4)), {}, ValueError, "before: got 1 axes of space"),
        ((np.full((4, 5), np.nan), np.ones((4, 5))), {}, ValueError, "before: 20 of 20 values"),
        ((np.ones((4, 5)), np.ones((4, 5))), {"voxel_size": (1, 2, 3)}, ValueError, "voxel_size: got 3"),
        (
            (mf.io.Volume(np.ones((4, 5))), np.ones((4, 5))),
            {"unit": "mm"},
            ValueError,
            "a volume has its own",
        ),
        (
            tuple(mf.io.Volume(np.ones((4, 5)), voxel_size=(1, size), unit="mm") for size in (1, 2)),
            {},
            ValueError,
            "after: has voxels of .* expected the image's grid",
        ),
        ((1j * np.ones((4, 5)), np.ones((4, 5))), {}, TypeError, "before: got complex"),
        ((np.ma.masked_less(np.ones((4, 5)), 0), np.ones((4, 5))), {}, TypeError, "before: got a masked"),
        ((np.ones((4, 5)), np.ma.masked_less(np.ones((4, 5)), 0)), {}, TypeError, "after: got a masked"),
        (
            (np.ones((4, 5)), np.ones((4, 5)), np.ma.masked_less(np.ones((3, 3)), 0)),
            {},
            TypeError,
            "psf: got a masked",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, words, options, error, text):
    with pytest.raises(error, match=text):
        report.write(tmp_path / "r.html", *words, **options)
    assert list(tmp_path.iterdir()) == []


def test_files_are_not_overwritten_unasked(tmp_path):
    image = np.ones((4, 5))
    with pytest.raises(ValueError, match=r"r\.pdf: a report is an HTML file"):
        report.write(tmp_path / "r.pdf", image, image)
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(FileExistsError):
        report.write(tmp_path / "r.html", image, image)
    assert (tmp_path / "r.html").read_text() == "mine"
    report.write(tmp_path / "r.html", image, image, overwrite=True)
    assert list(read(tmp_path / "r.html").sections) == SECTIONS


# ---------------------------------------------------------------- on the command line


@pytest.fixture
def scan(tmp_path, monkeypatch, run):
    pytest.importorskip("nibabel")
    monkeypatch.chdir(tmp_path)
    mf.io.write("a&b.nii", volume(run[0].astype(np.float32)))
    return tmp_path


def test_restore_writes_a_report(scan, capsys):
    words = ["restore", "a&b.nii", "-o", "out.nii", "--fwhm-mm", "4", "3", "3", "--iterations", "6"]
    assert main([*words, "--report", "r.html", "--json", "r.json"]) == 0
    page = read(scan / "r.html")
    assert "<title>Restoration of a&amp;b.nii</title>" in page.source
    assert "input a&b.nii" in page.text("settings") and "output out.nii" in page.text("settings")
    assert len(page.sections["convergence"]["pictures"]) == 1
    assert "reading" in page.text("timings") and "peak of the process" in page.text("memory")
    trace = json.loads((scan / "r.json").read_text())["runs"][0]["trace"]
    # The relative change of the estimate, for the curve; the result is the same as without a report.
    psf = mf.psf.gaussian((4, 3, 3), mf.io.read("a&b.nii").voxel_size)
    steps = [mf.restore(mf.io.read("a&b.nii").array, psf, num_iter=n, voxel_size=SIZE) for n in range(1, 7)]
    expected = [np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in itertools.pairwise(steps)]
    assert [entry.get("relative_change") for entry in trace] == [
        None,
        *(pytest.approx(e, rel=1e-3) for e in expected),
    ]
    np.testing.assert_array_equal(mf.io.read("out.nii").array, steps[-1])
    assert "wrote     r.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, text",
    [("r.pdf", "r.pdf: a report is an HTML file"), ("a&b.nii", "exists already"), ("no/r.html", "no")],
)
def test_a_report_that_cannot_be_written_is_refused_first(scan, capsys, name, text):
    words = ["restore", "a&b.nii", "-o", "out.nii", "--fwhm-mm", "4"]
    assert main([*words, "--report", name]) == 2
    assert text in capsys.readouterr().err
    assert sorted(p.name for p in scan.iterdir()) == ["a&b.nii"]


def test_report_of_a_wiener_filter_and_of_a_line(scan, capsys):
    words = ["restore", "a&b.nii", "-o", "out.nii", "--fwhm-mm", "4", "--method", "wiener"]
    assert main([*words, "--report", "r.html"]) == 0
    assert "closed form" in read(scan / "r.html").text("convergence")
    np.save("line.npy", np.ones(30) + np.arange(30) % 7)
    words = ["restore", "line.npy", "-o", "line_out.npy", "--fwhm-um", "2", "--voxel-size-um", "1"]
    assert main([*words, "--report", "line.html"]) == 2
    assert "shows 2 or 3 axes" in capsys.readouterr().err
