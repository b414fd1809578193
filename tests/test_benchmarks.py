"""The benchmarks' table, counts and report, from made-up measurements: nothing is timed here."""

import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest

from medeconv_fast._cli import peers

DIRECTORY = Path(__file__).resolve().parents[1] / "benchmarks"
GIB = 1 << 30


@pytest.fixture(scope="module")
def load():
    """load("report"): a module of benchmarks/, which are scripts beside one another."""
    sys.path.insert(0, str(DIRECTORY))
    yield importlib.import_module
    sys.path.remove(str(DIRECTORY))


@pytest.fixture
def cases(load):
    return load("cases")


@pytest.fixture
def report(load):
    return load("report")


def test_table_is_sound(cases):
    ids = [case.id for case in cases.CASES]
    assert len(set(ids)) == len(ids)
    for case in cases.CASES:
        assert case.operation in {*peers.BOUNDS, "copy", "precision"}
        assert len(case.psf) in (0, len(case.shape))
        assert all(k % 2 for k in case.psf), "even PSFs have no agreed centre"
        for contender in case.contenders:
            assert contender in {cases.ENGINES, "NumPy", "medeconv", *peers.CONTENDERS}
        if case.boundary == "wrap":
            assert all(k <= n for k, n in zip(case.psf, case.shape, strict=False))
        if case.operation == "function":  # the frame of zeros must leave something
            assert all(n > 4 * (k - 1) for k, n in zip(case.psf, case.shape, strict=True))


def test_table_has_what_is_wanted(cases):
    iterations = {case.shape for case in cases.CASES if case.operation == "iteration"}
    wanted = {(n,) * 3 for n in (64, 128, 256, 320, 512)} | {(n, n) for n in (512, 1024, 2048, 4096)}
    wanted |= {(64, 1024, 1024), (40, 2048, 2048), (100, 301, 257), (100_000,), (1_000_000,)}
    assert wanted <= iterations
    lengths = {max(case.psf) for case in cases.CASES if case.psf}
    assert {9, 13, 17, 25, 33, 65} <= lengths
    assert {case.boundary for case in cases.CASES} == {"wrap", "extended"}
    assert [case.large for case in cases.CASES] == sorted(case.large for case in cases.CASES)


def test_bytes_are_the_designs(cases):
    """One iteration at 256 cubed, periodic: 13 volumes, 0.87 GB. Nothing outside the image adds to that."""
    shape = cases.cube(256)
    case = cases.Case("iteration", shape, cases.cube(33))
    assert cases.bytes_moved(case, "spectral", shape, shape) == 13 * 4 * 256**3
    assert round(cases.bytes_moved(case, "spectral", shape, shape) / 1e9, 2) == 0.87
    assert cases.operations(case, "spectral", shape, shape) == 4 * 2.5 * 256**3 * 24
    one = cases.Case("convolution", shape, cases.cube(13), "gaussian")
    assert cases.bytes_moved(one, "separable", shape, shape) == 2 * 4 * 256**3
    assert cases.operations(one, "separable", shape, shape) == 2 * 39 * 256**3
    assert cases.bytes_moved(one, "spectral", shape, shape) == 7 * 4 * 256**3
    wider = cases.Case("iteration", shape, cases.cube(33), boundary="extended")
    moved = cases.bytes_moved(wider, "spectral", cases.cube(288), cases.cube(288))
    assert 13 * 4 * 256**3 < moved < 14 * 4 * 288**3


def raw_record(cases, report, slower=1.0):
    """As pytest-benchmark writes it, with every contender of every case; ours takes 1 ns per voxel."""
    benchmarks = []
    for case in cases.CASES:
        for entry in case.contenders:
            engines = ("medeconv-spectral", "medeconv-separable")
            for contender in engines if entry == cases.ENGINES else (entry,):
                own = contender.startswith("medeconv")
                seconds = case.voxels * 1e-9 * (1 if own or contender == "NumPy" else 300 * slower)
                info = {"operation": case.operation, "contender": contender, "iterations": 1, "error": 2e-7}
                if own:
                    info |= {"bytes": case.voxels * 30, "operations": 1e9, "working_set": 8 * GIB}
                    info |= {"copy_bytes_per_s": 4e10, "arithmetic_per_s": 1e11}
                elif contender == "NumPy":
                    info |= {"bytes": case.voxels * 8}
                benchmarks.append(
                    {
                        "group": case.id,
                        "fullname": "/somewhere/private",
                        "extra_info": {**info, "unwanted": "/somewhere/private"},
                        "stats": {"median": seconds, "min": seconds, "rounds": 5, "data": [seconds] * 5},
                    }
                )
    machine = {
        "processor": "Some Processor",
        "family": 1,
        "model": 2,
        "last_cache_bytes": 1 << 20,
        "backend": "cpp",
        "isa": "avx512",
        "threads": 2,
        "load_before": 0.01,
        "versions": {"numpy": "2.0"},
    }
    return {
        "datetime": "2031-02-03T04:05:06",
        "machine_info": machine,
        "commit_info": {"project": "/somewhere/private"},
        "benchmarks": benchmarks,
    }


def rows_of(text, start):
    section = text.split(start, 1)[1].split("\n#")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]


def test_report_is_computed(cases, report, tmp_path):
    slim = report.slim(raw_record(cases, report))
    text = report.compact(slim)
    assert "private" not in text and "data" not in text
    assert json.loads(text) == json.loads(json.dumps(slim))
    (tmp_path / "suite.json").write_text(text)
    memory = [
        {"shape": [n] * 3, "name": name, "grid": [n] * 3, "extra_bytes": volumes * 4 * n**3}
        | {"unit_bytes": 4 * n**3, "plan_s": 2.0, "iteration_s": 1.0}
        for n in (256, 512)
        for name, volumes in (("plain", 3), ("extended", 5))
    ]
    head = {key: slim[key] for key in ("datetime", "machine_info")}
    (tmp_path / "memory.json").write_text(json.dumps({**head, "memory": memory}))
    rendered = report.render(report.read(tmp_path))

    assert "2031-02-03" in rendered and "Some Processor" in rendered and "avx512" in rendered
    found = {row[0]: row[2:] for row in rows_of(rendered, "## Targets")}
    assert len(found) == len(report.targets()) + 2  # and the head and its rule
    assert found["256 cubed, periodic: pyfftw over ours"] == ["300 x", "met"]
    assert found["128 cubed, periodic: pyfftw over ours"] == ["300 x", "met"]
    assert found["256 cubed, periodic iteration: part of the copy's bandwidth"] == ["0.75", "met"]
    plain, extended = (
        f"256 cubed, {name}: peak beside input and output, padded float32 volumes"
        for name in ("plain", "extended")
    )
    assert found[plain] == ["3", "met"]
    assert found[extended] == ["5", "**falls short**"]
    assert found["256 cubed, spectral iteration: avx2 over avx512"] == ["", "not measured"]
    times = {tuple(row[:2]): row for row in rows_of(rendered, "### Richardson-Lucy, one iteration")}
    row = times["256x256x256", "33x33x33"]
    assert row[2] == "16.8" and "5033 (300x)" in row
    assert "75%" in row


def network_record(cases, ratio=3.0, layers=None):
    """As networks.py writes it: torch takes `ratio` times our millisecond, twice that on the default heap."""
    layers = cases.LAYERS if layers is None else layers
    rows = []
    for layer in layers:
        for mode, factor in (("warm", 1), ("default", 2), ("avx2", 1)):
            seconds = {"medeconv": 1e-3, "torch": 1e-3 * ratio * factor}
            rows.append({"layer": layer.name, "table": layer.table, "mode": mode})
            rows[-1] |= {"operations": layer.operations, "bytes": layer.bytes}
            rows[-1] |= {"forward": seconds, "both": {name: 3 * value for name, value in seconds.items()}}
    memory = [
        {"layer": layer.name, "kernel": "forward", "exact": exact, "extra_bytes": 5e6, "allowed_bytes": 1e7}
        for layer in layers
        for exact in (True, False)
    ]
    return {"copy_bytes_per_s": 2e10, "arithmetic_per_s": 2e11, "networks": rows, "network_memory": memory}


def test_layers_count_their_output_and_operations(cases):
    torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
    assert len({layer.name for layer in cases.LAYERS}) == len(cases.LAYERS)
    for layer in cases.LAYERS:
        kind = "conv_transpose" if layer.transposed else "conv"
        function = getattr(torch.nn.functional, f"{kind}{len(layer.x) - 2}d")
        with torch.device("meta"):
            expected = function(torch.empty(layer.x), torch.empty(layer.w), **layer.options)
        assert layer.output() == tuple(expected.shape), layer.name
    first = cases.LAYERS[0]
    assert first.operations == 2 * 510 * 510 * 64 * 9
    assert first.bytes == 4 * (512 * 512 + 64 * 9 + 64 * 510 * 510)


def test_networks_are_reported(cases, report):
    head = {"datetime": "2031-02-03T04:05:06", "machine_info": raw_record(cases, report)["machine_info"]}
    text = report.render(report.Results({"networks": {**head, **network_record(cases)}}))
    found = {row[0]: row[2:] for row in rows_of(text, "## Targets")}
    assert found["networks, restoration, warm heap, forward: torch over ours, geometric mean"] == [
        "3 x",
        "**falls short**",
    ]
    what = "networks, restoration, default heap, forward and gradients: torch over ours, geometric mean"
    assert found[what] == ["6 x", "met"]
    assert found["networks, extra, warm heap, forward: torch over ours, least"] == ["3 x", "met"]
    layer = cases.LAYERS[0]
    times = {row[0]: row for row in rows_of(text, "### Forward\n")}
    assert times[layer.name][1:3] == ["1", "3 (3x)"] and times[layer.name][6:8] == ["6x", "3x"]
    assert times[layer.name][9] == f"{layer.operations / 1e-3 / 2e11:.0%}"
    assert times["*extra: geometric mean of torch over ours*"][2] == "3x"


def test_report_follows_the_numbers(cases, report, tmp_path):
    slow = report.slim(raw_record(cases, report, slower=0.01))
    (tmp_path / "suite.json").write_text(report.compact(slow))
    found = {row[0]: row[2:] for row in rows_of(report.render(report.read(tmp_path)), "## Targets")}
    assert found["256 cubed, periodic: pyfftw over ours"] == ["3 x", "**falls short**"]


def nets_record(titles):
    """As nets.py writes it: torch takes 5 ms and 1 MB, we 2 ms and 2 MB."""
    both = {"medeconv_fast": {"median_ms": 2.0, "bytes": 2e6}, "torch": {"median_ms": 5.0, "bytes": 1e6}}
    kinds = dict.fromkeys(("training", "inference"), both)
    return [{"net": title, "mode": mode, **kinds} for title in titles for mode in ("warm", "default")]


def test_every_target_can_be_measured(cases, report, load):
    """A target that no case, memory run or ISA feeds would stay "not measured" for ever."""
    record = report.slim(raw_record(cases, report))
    memory = [
        {"shape": [n] * 3, "name": name, "extra_bytes": 1, "unit_bytes": 1, "plan_s": 1.0, "iteration_s": 1.0}
        for n in (256, 512)
        for name in ("plain", "extended")
    ]
    isas = [
        {"shape": [256] * 3, "engine": engine, "isa": isa, "median_s": 1.0}
        for engine in ("spectral", "separable")
        for isa in ("baseline", "avx2", "avx512")
    ]
    records = {"suite": record, "memory": {"memory": memory}, "isas": {"isas": isas}}
    titles = [case.title for case in load("nets").CASES.values()]
    records |= {"networks": network_record(cases), "nets": {"nets": nets_record(titles)}}
    records |= volume_records(report.VOLUME)
    results = report.Results(records)
    for target in report.targets():
        assert math.isfinite(target.value(results)), target.what


def test_targets_are_of_their_own_size(cases, report):
    """Results at other sizes (a quick run) must not pass for the target's."""
    rows = [
        {"shape": [48] * 3, "engine": engine, "isa": isa, "median_s": 1.0}
        for engine in ("spectral", "separable")
        for isa in ("baseline", "avx2", "avx512")
    ]
    small = {"shape": [48] * 3, "name": "plain", "extra_bytes": 1, "unit_bytes": 1}
    few = network_record(cases, layers=[layer for layer in cases.LAYERS if "7x7" in layer.name])
    records = {"memory": {"memory": [small]}, "isas": {"isas": rows}, "networks": few}
    results = report.Results({**records, "nets": {"nets": []}, **volume_records((48, 48, 48))})
    for target in report.targets():
        with pytest.raises(KeyError):
            target.value(results)


def volume_records(shape):
    """As volumes.py writes them."""
    plan = {"tiles": 8, "core": [256] * 3, "halo": [12] * 3}
    volume = {"shape": shape, "raw_bytes": 2 * math.prod(shape), "psf": "sheet", "psf_shape": [9] * 3}
    volume |= {"iterations": 20, "plan": plan, "halo_share": 0.2, "share_of_in_core": 0.9}
    volume |= {"steps": {"prepared": 1.0, "tiles": 20.0, "finished": 3.0}, "cpu_seconds": 40.0}
    volume |= {"voxels_per_second": 9e6, "in_core_voxels_per_second": 1e7, "in_core_shape": [512] * 3}
    volume |= {"in_core_seconds": [[1.0], [1.1]], "input_bytes": 9, "output_bytes": 9}
    volume |= {"memory_bytes": 4e9, "predicted_bytes": 3.5e9, "peak_bytes": 3.7e9}
    seconds = {"threads": [10.0, 10.1], "workers": [10.5, 10.4]}
    workers = {"shape": shape, "iterations": 20, "seconds": seconds, "workers_over_threads": 1.04}
    return {"volumes": {"volume": volume}, "workers": {"workers": workers}}


def test_volumes_are_reported(cases, report):
    head = {"datetime": "2031-02-03T04:05:06", "machine_info": raw_record(cases, report)["machine_info"]}
    records = {name: {**head, **record} for name, record in volume_records(report.VOLUME).items()}
    text = report.render(report.Results(records))
    found = {row[0]: row[2:] for row in rows_of(text, "## Targets")}
    volume = "volume of 1024x2048x2048 uint16 (8.6 GB) within 4 GB"
    assert found[f"{volume}: peak memory"] == ["3.7 GB", "met"]
    assert found[f"{volume}: voxels computed per second, over 512 cubed in core"] == ["0.9", "met"]
    assert "4.00 / 3.50 / 3.70 GB" in text and "10, 10.1 s and 10.5, 10.4 s" in text


def test_planners_cases_and_their_table(load, report):
    planner = load("planner")
    cases = list(planner.cases(planner.SHAPES))
    assert len(cases) >= 60
    assert {len(case["shape"]) for case in cases} == {1, 2, 3}
    assert {case["boundary"] for case in cases} == {"wrap", "extended"}
    assert {case["kind"] for case in cases} == {"general", "symmetric", "product"}
    row = planner.measure(
        {"shape": (12, 13), "psf": (3, 3), "kind": "product", "boundary": "wrap"}, "float32", 1
    )
    assert set(row["measured_ms"]) <= {"spectral", "separable", "direct"} and row["ratio"] >= 1
    rows = [{**row, "ratio": 1.2}, {**row, "ratio": 1.5}]
    text = "\n".join(report._planner(report.Results({"planner": {"planner": rows}})))
    assert "1 of 2 cases" in text and "1.50x" in text


def test_whole_networks_are_reported(cases, report, load):
    """A part of the networks does not pass for all."""
    head = {"datetime": "2031-02-03T04:05:06", "machine_info": raw_record(cases, report)["machine_info"]}
    titles = [case.title for case in load("nets").CASES.values()]
    rows = nets_record(titles[:1])
    text = report.render(report.Results({"nets": {**head, "nets": rows}}))
    found = {row[0]: row[2:] for row in rows_of(text, "## Targets")}
    assert found["DeconvNet, training, warm heap: torch over ours"] == ["2.5 x", "met"]
    assert found["DeconvNet, inference, default heap: our memory over torch's"] == ["2", "**falls short**"]
    assert found["RLNet, training, warm heap: torch over ours"] == ["", "not measured"]
    (row,) = [row for row in rows_of(text, "## Whole networks") if row[1:3] == ["warm", "training"]]
    assert row[3:] == ["2", "5", "2.5x", "2", "1"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.2345, "1.23"), (123.45, "123"), (12345.6, "12346"), (2e-7, "2.0e-07")],
)
def test_numbers(report, value, text):
    assert report.number(value) == text


def test_committed_results_are_clean_and_the_report_is_theirs(report):
    files = sorted((DIRECTORY / "results").glob("*.json"))
    if not files:
        pytest.skip("SKIPPED: no results are committed yet")
    for file in files:
        text = file.read_text()
        assert not re.search(r'"/|\\\\|/home/|/root|/tmp|hostname|"node"|"user"', text), file.name
        assert file.stat().st_size < 400_000, f"{file.name}: reduce it with report.py --slim"
    assert report.render(report.read(report.RESULTS)) == report.REPORT.read_text()


@pytest.mark.parametrize("name", ["deconv", "rlnet"])
def test_our_side_of_whole_networks_runs(name, load, monkeypatch):
    """It reaches inside of `nn`, which may change without it."""
    nets = load("nets")
    small = nets.CASES[name]._replace(shape=tuple(min(n, 12) for n in nets.CASES[name].shape))
    monkeypatch.setitem(nets.CASES, name, small)
    step, predict = nets.by_us(name, 1)
    before = predict()
    step()
    after = predict()
    assert before.shape == after.shape == small.shape
    assert (before != after).any()


def test_our_side_of_layers_runs(load):
    networks = load("networks")
    layer = min(load("cases").LAYERS, key=lambda layer: layer.operations)
    both = networks.Problem(layer).ours(gradients=True, threads=1)
    assert [a.shape for a in both()] == [layer.output(), layer.x, layer.w]
