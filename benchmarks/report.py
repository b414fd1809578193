"""Writes benchmarks/RESULTS.md from the files in benchmarks/results. Nothing in it is written by hand.

python benchmarks/report.py                               write RESULTS.md
python benchmarks/report.py --slim RAW.json -o OUT.json   keep of pytest-benchmark's file what is read here
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cases import CASES, LAYERS, Case, cube, times

HERE = Path(__file__).parent
RESULTS, REPORT = HERE / "results", HERE / "RESULTS.md"
FILES = ("suite", "large", "memory", "isas", "planner", "networks", "nets", "volumes", "workers", "gpu")
# Columns of the tables, in this order.
CONTENDERS = (
    "medeconv",
    "medeconv-spectral",
    "medeconv-separable",
    "medeconv-direct",
    "pyfftw",
    "scipy.fft",
    "torch.fft",
    "scipy.ndimage",
    "torch.conv",
    "scipy.signal",
    "scikit-image",
    "scikit-image-workers",
    "SimpleITK",
)
SECTIONS = {
    "iteration": "Richardson-Lucy, one iteration",
    "convolution": "One convolution",
    "wiener": "Wiener filter, from image and PSF, periodic",
    "convolve": "Convolution function as called, zeros outside",
    "function": "Richardson-Lucy function as called with its defaults, per iteration",
}
MARGIN = 1.25  # a choice of engine is good when it takes at most this much of the best's time
VOLUME = (1024, 2048, 2048)  # 8.6 GB of uint16
WORKERS_LEAST = 1 << 27  # voxels of which a comparison of workers says something
NETWORK_WORK = {"forward": "forward", "both": "forward and gradients"}
# Table, heap, least geometric mean and least ratio of torch's time to ours; None: no such target.
NETWORK_TARGETS = (
    ("restoration", "warm", (3.5, 1.0)),
    ("restoration", "default", (5.0, None)),
    ("extra", "warm", (2.0, 0.9)),
)
# Whole networks: least ratio of torch's time to ours.
NET_TARGETS = {
    "DeconvNet": {"training": 1.5, "inference": 2.0},
    "RLNet": {"training": 1.5, "inference": 2.0},
}
KINDS = {"general": "PSF without symmetry", "gaussian": "Gaussian PSF"}
EXTRA = [
    "operation",
    "shape",
    "psf",
    "kind",
    "boundary",
    "contender",
    "iterations",
    "error",
    "bound",
    "grid",
    "planning_s",
    "workspace_bytes",
    "bytes",
    "operations",
    "working_set",
    "copy_bytes_per_s",
    "arithmetic_per_s",
    "compared_iterations",
]


def slim(raw: dict[str, Any]) -> dict[str, Any]:
    """What is committed of pytest-benchmark's record; nothing in it names a host, a user or a path."""
    return {
        "datetime": raw["datetime"],
        "machine_info": raw["machine_info"],
        "benchmarks": [
            {
                "group": one["group"],
                "extra_info": {key: one["extra_info"][key] for key in EXTRA if key in one["extra_info"]},
                "stats": {key: one["stats"][key] for key in ("median", "min", "rounds")},
            }
            for one in raw["benchmarks"]
        ],
    }


def compact(record: dict[str, Any]) -> str:
    """JSON with one benchmark a line: small, and readable in a diff."""
    lines = []
    for key, value in record.items():
        if isinstance(value, list):
            items = ",\n  ".join(json.dumps(item) for item in value)
            lines.append(f' "{key}": [\n  {items}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


# ---------------------------------------------------------------- reading


@dataclasses.dataclass
class Entry:
    """One contender's time in one case."""

    info: dict[str, Any]
    seconds: float  # per iteration
    rounds: int

    @property
    def ms(self) -> float:
        return self.seconds * 1e3

    @property
    def of_memory(self) -> float | None:
        """Fraction of the copy's bandwidth; None where the count does not apply."""
        if "bytes" not in self.info or "copy_bytes_per_s" not in self.info:
            return None
        return self.info["bytes"] / self.seconds / self.info["copy_bytes_per_s"]

    @property
    def of_arithmetic(self) -> float | None:
        if "operations" not in self.info:
            return None
        return self.info["operations"] / self.seconds / self.info["arithmetic_per_s"]


class Results:
    """Everything that was measured; a case is looked up by its id."""

    def __init__(self, records: dict[str, dict[str, Any]]) -> None:
        self.records = records
        self.entries: dict[str, dict[str, Entry]] = {}
        for name in ("suite", "large"):
            for one in records.get(name, {}).get("benchmarks", []):
                info = one["extra_info"]
                entry = Entry(info, one["stats"]["median"] / info["iterations"], one["stats"]["rounds"])
                self.entries.setdefault(one["group"], {})[info["contender"]] = entry

    def entry(self, case: Case, contender: str) -> Entry:
        """KeyError where it was not measured."""
        return self.entries[case.id][contender]

    def ours(self, case: Case) -> Entry:
        """Our fastest engine."""
        return min(
            (e for name, e in self.entries[case.id].items() if name.startswith("medeconv")),
            key=lambda entry: entry.seconds,
        )

    def ratio(self, case: Case, peer: str, ours: str) -> float:
        return self.entry(case, peer).seconds / self.entry(case, ours).seconds

    def memory(self, shape: tuple[int, ...], name: str) -> dict[str, Any]:
        for row in self.records["memory"]["memory"]:
            if tuple(row["shape"]) == shape and row["name"] == name:
                return row
        raise KeyError(name)

    def networks(self, mode: str, table: str | None = None) -> list[dict[str, Any]]:
        rows = [
            row
            for row in self.records["networks"]["networks"]
            if row["mode"] == mode and table in (None, row["table"])
        ]
        if len(rows) < sum(table in (None, layer.table) for layer in LAYERS):
            raise KeyError(mode)  # a part of the layers must not pass for all
        return rows

    def network_memory(self) -> list[dict[str, Any]]:
        self.networks("warm")
        rows: list[dict[str, Any]] = self.records["networks"]["network_memory"]
        return rows

    def net(self, name: str, mode: str, work: str, what: str) -> float:
        """torch's time or memory over ours, of a whole network."""
        for row in self.records["nets"]["nets"]:
            if row["mode"] == mode and row["net"].startswith(name):
                return row[work]["torch"][what] / row[work]["medeconv_fast"][what]
        raise KeyError(name)

    def volume(self) -> dict[str, Any]:
        row: dict[str, Any] = self.records["volumes"]["volume"]
        if tuple(row["shape"]) != VOLUME:
            raise KeyError(VOLUME)
        return row

    def workers(self) -> dict[str, Any]:
        row: dict[str, Any] = self.records["workers"]["workers"]
        if math.prod(row["shape"]) < WORKERS_LEAST:
            raise KeyError(WORKERS_LEAST)
        return row

    def isa(self, shape: tuple[int, ...], engine: str, isa: str) -> float:
        for row in self.records["isas"]["isas"]:
            if (tuple(row["shape"]), row["engine"], row["isa"]) == (shape, engine, isa):
                return row["median_s"]
        raise KeyError(isa)


def read(directory: Path) -> Results:
    found = {name: directory / f"{name}.json" for name in FILES}
    return Results({name: json.loads(p.read_text()) for name, p in found.items() if p.exists()})


# ---------------------------------------------------------------- targets


@dataclasses.dataclass
class Target:
    what: str
    limit: float
    at_least: bool
    value: Callable[[Results], float]
    unit: str = "x"


def _padded_volumes(results: Results, n: int, name: str) -> float:
    row = results.memory(cube(n), name)
    return row["extra_bytes"] / row["unit_bytes"]


def _plan(results: Results, n: int, name: str) -> float:
    row = results.memory(cube(n), name)
    return row["plan_s"] / row["iteration_s"]


def targets() -> list[Target]:
    """The goals of the CPU engine, each computed from what was measured."""
    spectral, separable = "medeconv-spectral", "medeconv-separable"
    periodic = Case("iteration", cube(256), cube(33))
    function = Case("function", cube(256), cube(33))
    product = Case("convolution", cube(256), cube(13), "gaussian")
    found = [
        Target(f"256 cubed, periodic: {peer} over ours", limit, True, _ratio(periodic, peer, spectral))
        for peer, limit in (("pyfftw", 5), ("scipy.fft", 8), ("torch.fft", 10))
    ]
    small = Case("iteration", cube(128), cube(17))
    found.append(Target("128 cubed, periodic: pyfftw over ours", 4, True, _ratio(small, "pyfftw", spectral)))
    for boundary in ("wrap", "extended"):
        base = Case("iteration", cube(256), cube(33), boundary=boundary)
        awkward = [((100, 301, 257), cube(17))]
        for shape, psf in [(cube(320), cube(33)), *awkward] if boundary == "wrap" else awkward:
            case = Case("iteration", shape, psf, boundary=boundary)
            what = f"{times(shape)}, {boundary}: time per voxel over that of 256 cubed"
            found.append(Target(what, 1.5, False, _per_voxel(case, base, spectral)))
    for peer, limit in (("scikit-image", 40), ("SimpleITK", 200)):
        what = f"256 cubed, PSF 33 cubed, function with its defaults: {peer} over ours"
        found.append(Target(what, limit, True, _ratio(function, peer, "medeconv")))
    found.append(
        Target(
            "256 cubed, 13 taps, one convolution: separable over a copy",
            4,
            False,
            lambda r: (
                r.entry(product, separable).seconds
                / r.entry(Case("copy", cube(256), contenders=("NumPy",)), "NumPy").seconds
            ),
        )
    )
    for taps in (9, 13, 17, 25):
        for operation in ("convolution", "iteration"):
            case = Case(operation, cube(256), cube(taps), "gaussian")
            what = f"256 cubed, {taps} taps, {operation}: separable over spectral"
            found.append(Target(what, 1, False, _ratio(case, separable, spectral)))
    what = "256 cubed, 13 taps, one convolution: scipy.ndimage over ours"
    found.append(Target(what, 60, True, _ratio(product, "scipy.ndimage", separable)))
    found.append(
        Target(
            "256 cubed, periodic iteration: part of the copy's bandwidth",
            0.6,
            True,
            lambda r: _known(r.entry(periodic, spectral).of_memory),
            "",
        )
    )
    for n in (256, 512):
        for name in ("plain", "extended"):
            title = f"{n} cubed, {name}"
            found.append(
                Target(
                    f"{title}: peak beside input and output, padded float32 volumes",
                    4.2,
                    False,
                    lambda r, n=n, name=name: _padded_volumes(r, n, name),
                    "",
                )
            )
            found.append(
                Target(
                    f"{title}: plan, in iterations",
                    3,
                    False,
                    lambda r, n=n, name=name: _plan(r, n, name),
                    "",
                )
            )
    for table, mode, limits in NETWORK_TARGETS:
        for name, work in NETWORK_WORK.items():
            found += [
                Target(
                    f"networks, {table}, {mode} heap, {work}: torch over ours, {what}",
                    limit,
                    True,
                    lambda r, table=table, mode=mode, name=name, of=of: of(
                        _network_ratios(r.networks(mode, table), name)
                    ),
                )
                for what, of, limit in zip(("geometric mean", "least"), (_mean, min), limits, strict=True)
                if limit
            ]
    found.append(
        Target(
            "networks, memory beside operands over what is allowed, without Winograd: most",
            1,
            False,
            lambda r: max(
                row["extra_bytes"] / row["allowed_bytes"] for row in r.network_memory() if row["exact"]
            ),
            "",
        )
    )
    for net, limits in NET_TARGETS.items():
        for work, limit in limits.items():
            found += [
                Target(
                    f"{net}, {work}, {mode} heap: torch over ours",
                    limit,
                    True,
                    lambda r, net=net, mode=mode, work=work: r.net(net, mode, work, "median_ms"),
                )
                for mode in ("warm", "default")
            ]
            found.append(
                Target(
                    f"{net}, {work}, default heap: our memory over torch's",
                    1,
                    False,
                    lambda r, net=net, work=work: 1 / r.net(net, "default", work, "bytes"),
                    "",
                )
            )
    volume = f"volume of {times(VOLUME)} uint16 (8.6 GB) within 4 GB"
    found += [
        Target(f"{volume}: peak memory", 4.4, False, lambda r: r.volume()["peak_bytes"] / 1e9, "GB"),
        Target(f"{volume}: halos in what is computed", 0.25, False, lambda r: r.volume()["halo_share"], ""),
        Target(
            f"{volume}: voxels computed per second, over 512 cubed in core",
            0.85,
            True,
            lambda r: r.volume()["share_of_in_core"],
            "",
        ),
        Target(
            "volume: two workers of one thread over one process of two, time",
            1.1,
            False,
            lambda r: r.workers()["workers_over_threads"],
        ),
    ]
    for isa, limit in (("avx2", 1.8), ("baseline", 4)):
        for engine in ("spectral", "separable"):
            what = f"256 cubed, {engine} iteration: {isa} over avx512"
            found.append(Target(what, limit, False, _isa_ratio(engine, isa)))
    beads = Case("precision", (64, 128, 128), cube(13), "gaussian")
    for contender in (spectral, separable):
        found.append(
            Target(
                f"50 iterations on beads, {contender}: float32 against float64",
                1e-5,
                False,
                lambda r, contender=contender: r.entry(beads, contender).info["error"],
                "",
            )
        )
    return found


def _network_ratios(rows: list[dict[str, Any]], work: str) -> list[float]:
    return [row[work]["torch"] / row[work]["medeconv"] for row in rows]


def _mean(ratios: Iterable[float]) -> float:
    """Geometric: a ratio and its inverse cancel."""
    return statistics.geometric_mean(ratios)


def _ratio(case: Case, peer: str, ours: str) -> Callable[[Results], float]:
    return lambda results: results.ratio(case, peer, ours)


def _per_voxel(case: Case, base: Case, contender: str) -> Callable[[Results], float]:
    return lambda r: (
        r.entry(case, contender).seconds / case.voxels / (r.entry(base, contender).seconds / base.voxels)
    )


def _isa_ratio(engine: str, isa: str) -> Callable[[Results], float]:
    return lambda results: results.isa(cube(256), engine, isa) / results.isa(cube(256), engine, "avx512")


def _known(value: float | None) -> float:
    if value is None:
        raise KeyError("not measured")
    return value


# ---------------------------------------------------------------- writing


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}" if value else "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _targets(results: Results) -> list[str]:
    rows = []
    for target in targets():
        sign = "at least" if target.at_least else "at most"
        wanted = f"{sign} {target.limit:g}{' ' + target.unit if target.unit else ''}"
        try:
            value = target.value(results)
        except KeyError:
            rows.append([target.what, wanted, "", "not measured"])
            continue
        met = value >= target.limit if target.at_least else value <= target.limit
        shown = number(value) + (f" {target.unit}" if target.unit else "")
        rows.append([target.what, wanted, shown, "met" if met else "**falls short**"])
    return ["## Targets", "", *table(["target", "wanted", "measured", ""], rows)]


def _machine(results: Results) -> list[str]:
    lines = ["## Machine and versions", ""]
    rows = []
    for name, record in results.records.items():
        if name == "gpu":
            continue  # another machine, named where its numbers are
        machine = record["machine_info"]
        versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
        cache = machine.get("last_cache_bytes")
        rows.append(
            [
                name,
                record["datetime"][:10],
                f"{machine['processor']} (family {machine['family']}, model {machine['model']})"
                + (f", last cache {cache >> 20} MiB" if cache else ""),
                f"{machine['backend']} {machine['isa']}",
                str(machine["threads"]),
                number(machine["load_before"]),
                versions,
            ]
        )
    return lines + table(
        ["file", "date", "processor", "backend, ISA", "threads", "load before", "versions"], rows
    )


def _cell(entry: Entry | None, best: Entry, own: bool) -> str:
    if entry is None:
        return ""
    text = number(entry.ms)
    return text if own else f"{text} ({number(entry.seconds / best.seconds)}x)"


def _section(results: Results, operation: str, kind: str, boundary: str) -> list[str]:
    cases = [
        case
        for case in CASES
        if (case.operation, case.kind, case.boundary) == (operation, kind, boundary)
        and any(name.startswith("medeconv") for name in results.entries.get(case.id, {}))
    ]
    if not cases:
        return []
    names = [name for name in CONTENDERS if any(name in results.entries[case.id] for case in cases)]
    counted = operation in ("iteration", "convolution")
    title = f"{SECTIONS[operation]}: {KINDS[kind]}"
    if counted:
        title += f", boundary {boundary}"
    head = ["image", "PSF", *names]
    if counted:
        head += ["GB", "GFLOP", "of bandwidth", "of arithmetic"]
    rows = []
    for case in cases:
        entries, best = results.entries[case.id], results.ours(case)
        row = [times(case.shape), times(case.psf)]
        row += [_cell(entries.get(name), best, name.startswith("medeconv")) for name in names]
        if counted:
            row += _roofline(results, best)
        rows.append(row)
    return [f"### {title}", "", *table(head, rows)]


def _roofline(results: Results, best: Entry) -> list[str]:
    if best.of_memory is None or best.of_arithmetic is None:
        return ["", "", "", ""]
    cache = next(iter(results.records.values()))["machine_info"].get("last_cache_bytes")
    in_cache = cache is not None and best.info["working_set"] <= cache
    return [
        number(best.info["bytes"] / 1e9),
        number(best.info["operations"] / 1e9),
        "in cache" if in_cache else f"{best.of_memory:.0%}",
        f"{best.of_arithmetic:.0%}",
    ]


def _copies(results: Results) -> list[str]:
    rows = []
    for case in CASES:
        if case.operation == "copy" and case.id in results.entries:
            entry = results.entries[case.id]["NumPy"]
            rows.append(
                [times(case.shape), number(entry.ms), number(entry.info["bytes"] / entry.seconds / 1e9)]
            )
    if not rows:
        return []
    return ["### Copy of a float32 volume, all threads", "", *table(["volume", "ms", "GB/s"], rows)]


def _memory(results: Results) -> list[str]:
    if "memory" not in results.records:
        return []
    rows = []
    for row in results.records["memory"]["memory"]:
        shape = tuple(row["shape"])
        extra = row["extra_bytes"] / row["unit_bytes"]
        try:
            plain = results.memory(shape, "plain")["extra_bytes"] / 1e6
        except KeyError:
            plain = None
        rows.append(
            [
                times(shape),
                row["name"],
                times(tuple(row["grid"])),
                number(extra),
                number(row["extra_bytes"] / 1e6),
                "" if plain is None else f"{row['extra_bytes'] / 1e6 - plain:+.0f}",
                number(row["plan_s"] / row["iteration_s"]),
            ]
        )
    head = ["image", "run", "grid", "padded float32 volumes", "MB", "MB more than plain", "plan / iteration"]
    return [
        "## Memory",
        "",
        "Peak resident size beside input and output (options that are arrays count as input), in a fresh "
        "process.",
        "",
        *table(head, rows),
    ]


def _isas(results: Results) -> list[str]:
    if "isas" not in results.records:
        return []
    rows = []
    for row in results.records["isas"]["isas"]:
        best = min(r["median_s"] for r in results.records["isas"]["isas"] if r["engine"] == row["engine"])
        rows.append(
            [times(tuple(row["shape"])), row["engine"], row["isa"], number(row["median_s"] * 1e3)]
            + [f"{number(row['median_s'] / best)}x"]
        )
    head = ["image", "engine", "ISA", "ms per iteration", "over the fastest"]
    return ["## Instruction sets", "", *table(head, rows)]


def _networks(results: Results) -> list[str]:
    if "networks" not in results.records:
        return []
    record = results.records["networks"]
    lines = ["## Convolutions of networks", "", NETWORKS, ""]
    columns = ("medeconv", "torch", "medeconv-exact", "numba", "NumPy")
    modes: dict[str, dict[str, dict[str, Any]]] = {"warm": {}, "default": {}, "avx2": {}}
    for row in record["networks"]:
        modes[row["mode"]][row["layer"]] = row
    for work, title in NETWORK_WORK.items():
        rows = []
        for layer, row in modes["warm"].items():
            best = row[work]["medeconv"]
            cells = [layer, number(best * 1e3)]
            for name in columns[1:]:
                other = row[work].get(name)
                cells.append("" if other is None else f"{number(other * 1e3)} ({number(other / best)}x)")
            for mode in ("default", "avx2"):
                known = [modes[mode][layer]] if layer in modes[mode] else []
                cells += [f"{number(ratio)}x" for ratio in _network_ratios(known, work)] or [""]
            seconds = best / (3 if work == "both" else 1)  # three sums of the same size
            cells += [
                number(row["operations"] / seconds / 1e9),
                f"{row['operations'] / seconds / record['arithmetic_per_s']:.0%}",
                f"{row['bytes'] / seconds / record['copy_bytes_per_s']:.0%}",
            ]
            rows.append(cells)
        for table_name in dict.fromkeys(row["table"] for row in record["networks"]):
            warm, default, avx2 = (
                _network_ratios([row for row in modes[mode].values() if row["table"] == table_name], work)
                for mode in modes
            )
            means = [f"{number(_mean(ratios))}x" if ratios else "" for ratios in (warm, default, avx2)]
            title_cell = f"*{table_name}: geometric mean of torch over ours*"
            rows.append([title_cell, "", means[0], "", "", "", *means[1:], "", "", ""])
        head = ["layer", *columns, "default heap", "AVX2", "GFLOP/s", "of arithmetic", "of bandwidth"]
        lines += [f"### {title.capitalize()}", "", *table(head, rows)]
    rows = [
        [
            row["layer"],
            row["kernel"].replace("_", " "),
            "direct" if row["exact"] else "chosen",
            number(row["extra_bytes"] / 1e6),
            number(row["allowed_bytes"] / 1e6),
        ]
        for row in record["network_memory"]
    ]
    head = ["layer", "kernel", "family", "MB", "a tenth of input and output, and the weights"]
    return [*lines, "### Memory beside operands and result", "", *table(head, rows)]


def _nets(results: Results) -> list[str]:
    if "nets" not in results.records:
        return []
    rows = []
    for row in results.records["nets"]["nets"]:
        for work in ("training", "inference"):
            ours, theirs = row[work]["medeconv_fast"], row[work]["torch"]
            times_ms = [ours["median_ms"], theirs["median_ms"]]
            values = [*times_ms, times_ms[1] / times_ms[0], ours["bytes"] / 1e6, theirs["bytes"] / 1e6]
            cells = [number(value) for value in values]
            rows.append([row["net"], row["mode"], work, *cells[:2], f"{cells[2]}x", *cells[3:]])
    head = ["network", "heap", "work", "ms", "torch, ms", "torch over ours", "MB", "torch, MB"]
    return ["## Whole networks", "", NETS, "", *table(head, rows)]


def _gpu(results: Results) -> list[str]:
    if "gpu" not in results.records:
        return []
    record = results.records["gpu"]
    versions = ", ".join(
        f"{name} {version}" for name, version in record["machine"]["versions"].items() if version
    )
    copies = record["copy_bytes_per_s"] / 1e12
    lines = ["## On a GPU", "", GPU, ""]
    lines += [f"{record['machine']['device']}, a copy at {number(copies)} TB/s; {versions}.", ""]
    columns = ("ours, any psf", "cupy", "torch.fft", "cucim")
    rows = []
    for entry in record["entries"]:
        measured = entry.get("ms_per_iteration") or entry.get("ms")
        if measured is None:
            continue
        cells = [entry["kind"], times(tuple(entry["grid"])), number(measured["ours"])]
        for name in columns:
            other = measured.get(name)
            cells.append("" if other is None else f"{number(other)} ({number(other / measured['ours'])}x)")
        share = entry.get("ours, any psf_share_of_its_bytes")
        rows.append([*cells, "" if share is None else f"{share:.0%}"])
    lines += table(["work", "grid", "ours", *columns, "of its bytes' time"], rows)
    rows = []
    for layer in dict.fromkeys(e["layer"] for e in record["entries"] if e["kind"] == "networks"):
        cells = [layer]
        for what in ("forward", "input_grad", "weight_grad"):
            entry = next(e for e in record["entries"] if e.get("layer") == layer and e["what"] == what)
            ours, theirs = (entry["ms_graph"].get(name) for name in ("ours", "torch"))
            known = ours is not None and theirs is not None
            cells += [number(ours), f"{number(theirs)} ({number(theirs / ours)}x)" if known else ""]
        rows.append(cells)
    head = ["layer", *(c for what in ("forward", "gradient in x", "in w") for c in (what, "torch"))]
    return [*lines, "### Layers, as graphs of calls", "", *table(head, rows)]


def _volumes(results: Results) -> list[str]:
    lines = []
    if "volumes" in results.records:
        row = results.records["volumes"]["volume"]
        plan, steps = row["plan"], row["steps"]
        seconds = [s for part in row["in_core_seconds"] for s in part]
        shown = {
            "image": f"{times(row['shape'])} uint16, {row['raw_bytes'] / 1e9:.3g} GB",
            "PSF, iterations": f"{row['psf']} {times(row['psf_shape'])}, {row['iterations']}",
            "tiles": f"{plan['tiles']}, cores of {times(plan['core'])}, halo {times(plan['halo'])}",
            "memory: given, predicted, peak": " / ".join(
                f"{row[name] / 1e9:.2f}" for name in ("memory_bytes", "predicted_bytes", "peak_bytes")
            )
            + " GB",
            "seconds: preparing, tiles, pyramid": " + ".join(
                number(steps[name]) for name in ("prepared", "tiles", "finished")
            ),
            "processor seconds": number(row["cpu_seconds"]),
            "million voxels computed per second": number(row["voxels_per_second"] / 1e6),
            f"the same in core, {times(row['in_core_shape'])}, {len(seconds)} runs": number(
                row["in_core_voxels_per_second"] / 1e6
            ),
            "bytes per voxel, read and written": " / ".join(
                f"{row[name] / math.prod(row['shape']):.2f}" for name in ("input_bytes", "output_bytes")
            ),
        }
        lines += table(["a volume in tiles", "OME-Zarr to OME-Zarr"], ([*pair] for pair in shown.items()))
    if "workers" in results.records:
        row = results.records["workers"]["workers"]
        runs = {name: ", ".join(number(s) for s in row["seconds"][name]) for name in ("threads", "workers")}
        lines += [
            f"One process of two threads against two workers of one (dask), in turn, {times(row['shape'])}, "
            f"{row['iterations']} iterations, start of the workers included: {runs['threads']} s and "
            f"{runs['workers']} s; the voxels are identical.",
            "",
        ]
    return ["## Volumes", "", *lines] if lines else []


def _planner(results: Results) -> list[str]:
    if "planner" not in results.records:
        return []
    rows = results.records["planner"]["planner"]
    misses = sorted((row for row in rows if row["ratio"] > MARGIN), key=lambda row: -row["ratio"])
    good = f"{len(rows) - len(misses)} of {len(rows)} cases"
    lines = [
        "## Choice of the engine",
        "",
        f"The planner's choice takes at most {MARGIN:g} times the best engine's time in {good} "
        "(`planner.py`: shapes, PSFs and boundaries, every engine that applies timed).",
        "",
    ]
    if not misses:
        return lines
    head = ["image", "PSF", "kind", "boundary", "chosen", "best", "time over the best's"]
    body = [
        [times(tuple(row["shape"])), times(tuple(row["psf"])), row["kind"], row["boundary"]]
        + [row["chosen"], row["best"], f"{row['ratio']:.2f}x"]
        for row in misses
    ]
    return [*lines, *table(head, body)]


NETWORKS = """\
Medians in ms on a warm heap, in brackets over ours. "Default heap": torch's time over ours where freed memory
goes back to the system, as it does unless told otherwise; AVX2: both sides kept to AVX2, warm. GFLOP/s are
those of the direct sum, whatever the kernel saves, so that Winograd's can exceed the arithmetic of the
machine; `medeconv-exact` uses direct sums only.\
"""
NETS = """\
Medians in ms; training is forward, mean squared error, backward and an update of Adam. Each contender in a
process of its own, in turns. MB: what the peak of its process grows by from before the network's first use.\
"""
INTRODUCTION = """\
# Benchmark results

Written by `benchmarks/report.py` from the files in `benchmarks/results`; `make bench` measures and writes
both.

Times are medians in ms; in brackets, a library's time over that of our fastest engine in the same row. All
contenders of a row ran one after another in one process on the same input, with the same number of threads,
after each result had been compared with scipy.fft in float64. In iterations and convolutions everything is
planned and allocated before. Functions are called as they are, plan and checks included: ours with
{own} iterations, others with {others}, whose iterations all cost the same; scikit-image uses one thread
unless scipy.fft is told otherwise (`scikit-image-workers`).

GB and GFLOP are counted for our fastest engine (`bytes_moved` and `operations` in `cases.py`): every pass
touches its arrays once; 5 N log2 N / 2 operations for a real transform, 2 for each tap of a filter. They are
compared with a copy measured beside the case and with NumPy's matrix product in the same run. "In cache":
the working set fits into the last cache, so that memory sets no bound. The load before is the system's
average over a minute when the file's run began: with other work on the machine, times and ratios are
worthless.
"""

GPU = """Written by `benchmarks/gpu.py` on one machine, all contenders in the same run, each checked against
float64 first. Milliseconds: of an iteration of Richardson-Lucy (15 taps per axis, periodic), of a call of
the Wiener filter, of ten iterations of 16 images one after the other (the others take them as one batch).
"ours" takes the Gaussian as filters along the axes; "any psf" is the spectral engine, which is what the
others do; its share is the time that its bytes take at the speed of a copy. Layers: torch is cuDNN, float32
without TF32; where its cell is empty its result was farther than 1e-5 from float64."""


def render(results: Results) -> str:
    from medeconv_fast._cli import peers

    lines = [INTRODUCTION.format(own=peers.OWN_ITERATIONS, others=peers.CHECKED_ITERATIONS)]
    lines += _machine(results) + _targets(results) + ["## Times", ""]
    for operation in SECTIONS:
        for kind in KINDS:
            for boundary in ("wrap", "extended"):
                lines += _section(results, operation, kind, boundary)
    lines += _copies(results) + _memory(results) + _isas(results) + _planner(results)
    lines += _networks(results) + _nets(results) + _volumes(results) + _gpu(results)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slim", type=Path, metavar="RAW", help="reduce a file of pytest-benchmark to -o")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory to read")
    arguments = parser.parse_args()
    if arguments.slim:
        arguments.output.write_text(compact(slim(json.loads(arguments.slim.read_text()))))
        return
    results = read(arguments.results)
    if not results.records:
        parser.error(f"no results in {arguments.results.name}: run 'make bench' first")
    target = arguments.output or REPORT
    target.write_text(render(results))
    print(f"wrote {target.name}")


if __name__ == "__main__":
    main()
