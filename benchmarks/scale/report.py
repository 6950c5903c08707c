"""Tables, targets and figure from the results.

Written: `scale.tsv` (one line a measurement), `scale.md` (targets and tables to read),
`scale.png`, and the measured part of `indexes/README.md`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.results import Results

Row = dict[str, Any]

COLUMNS = (
    "part", "archive", "filter", "method", "setting", "median_ms", "p99_ms", "quiet_ms", "cpu_ms",
    "per_s", "recall10", "recall100", "build_s", "size_mb", "peak_mb", "queries",
)  # fmt: skip
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_REDS = ("#c0392b", "#e67e22", "#7b241c", "#d98880", "#b9770e")
_GREYS = ("#1f4e79", "#2e86ab", "#5f7a61", "#8a6f9e", "#b08d57", "#6b7280", "#3d5a45", "#999999")
_TITLES = {
    "exact": "Exact, one query, k = 10",
    "batch": "Exact, 64 queries at once, k = 100",
    "ranking": "Every row ranked",
    "approximate": "Indexes, one query, k = 10",
    "iid": "Indexes on vectors without structure",
    "filters": "Filtered, one query, k = 10",
    "ingest": "Ingest",
    "start": "From the shell, new process, warm disk",
    "scoring": "A new gene set over every slide",
}


def rows(results: Results) -> list[Row]:
    """Every measurement, with rounds put together."""
    out: list[Row] = []
    for key, rounds in results.rounds.items():
        part, place, measure, *names = key.split(" / ")
        if part == "build":
            continue
        about: Row = {"part": part, "archive": place, "method": names[0] if names else measure}
        about["filter"] = names[1] if len(names) > 1 else ""
        if measure == "limit":
            rates = [r for one in rounds for r in one["rates"]]
            about |= {"method": "memory: plain sum", "per_s": float(np.median(rates))}
            out.append(about | {"setting": "GB/s"})
        elif measure == "product":
            rate = float(np.median([r for one in rounds for r in one["rates"]]))
            about |= {"method": "limit: matrix product alone", "per_s": rate}
            out.append(about | {"setting": f"{rate * rounds[0]['flop'] / 1e9:.0f} GFLOP/s"})
        elif measure == "batch":
            rates = [r for one in rounds for r in one["rates"]]
            about |= {"per_s": float(np.median(rates)), "recall100": rounds[0]["recall100"]}
            out.append(about | built(results, place, names[0]) | peak(rounds))
        elif measure == "ranking":
            pooled = [v for one in rounds for v in one["latencies"]]
            out.append(about | times(pooled) | peak(rounds))
        elif measure == "search":
            for i, first in enumerate(rounds[0]["settings"]):
                mine = [one["settings"][i] for one in rounds]
                pooled = [v for one in mine for v in one["latencies"]]
                row = about | times(pooled) | built(results, place, names[0]) | peak(rounds)
                row |= {"setting": words(first["setting"]), "recall10": first["recall10"]}
                out.append(row | {"recall100": first.get("recall100")})
        else:
            for line in rounds[-1]["lines"]:
                out.append(about | line)
    return out


def times(latencies: list[float]) -> Row:
    """Median, 99th percentile, and what a query takes when the machine is left alone."""
    return {
        "median_ms": float(np.median(latencies)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "quiet_ms": float(np.percentile(latencies, 10)),
        "queries": len(latencies),
    }


def built(results: Results, place: str, method: str) -> Row:
    """What the build of a method took, if it has one."""
    from benchmarks.scale.measure import method as named

    of = named(method)
    if of.build is None or of.exact:
        return {}
    for key in (f"build / {place} / build / {method}", *_sharing(results, place, of.folder)):
        if key in results.rounds:
            found = results.rounds[key][-1]
            return {"build_s": found["seconds"], "size_mb": found["size"]}
    return {}


def _sharing(results: Results, place: str, folder: str) -> Iterator[str]:
    from benchmarks.scale.measure import method as named

    prefix = f"build / {place} / build / "
    for key in results.rounds:
        if folder and key.startswith(prefix) and named(key[len(prefix) :]).folder == folder:
            yield key


def peak(rounds: list[Row]) -> Row:
    """The most memory of any round."""
    return {"peak_mb": max(one["peak"] for one in rounds)}


def words(setting: Row) -> str:
    """A setting as text."""
    return ", ".join(f"{name} {value}" for name, value in setting.items())


# Targets.


class Look:
    """Looking figures up among the rows of the largest archive measured."""

    def __init__(self, found: list[Row], archive: str, statistic: str) -> None:
        self.found = [r for r in found if r["archive"] == archive]
        self.statistic = statistic

    def all(self, part: str, start: str = "", **equal: Any) -> list[Row]:
        """The rows of a part whose method starts so."""
        return [
            r for r in self.found
            if r["part"] == part and r["method"].startswith(start)
            and all(r.get(k) == v for k, v in equal.items())
        ]  # fmt: skip

    def ms(self, part: str, start: str = "", **equal: Any) -> float | None:
        """The least time among them."""
        times = [r[self.statistic] for r in self.all(part, start, **equal) if self.statistic in r]
        return min(times, default=None)

    def rate(self, part: str, start: str) -> float | None:
        """The highest rate among them."""
        return max((r["per_s"] for r in self.all(part, start) if "per_s" in r), default=None)

    def line(self, part: str, name: str) -> float | None:
        """The value of a line that a whole command reports."""
        found = self.all(part, name)
        return found[0].get("median_ms", found[0].get("per_s")) if found else None


def targets(found: list[Row], archive: str, statistic: str = "median_ms") -> list[tuple[str, ...]]:
    """(what, target, measured, met) for the archive; what was not measured says so."""
    look = Look(found, archive, statistic)
    n = int(archive.rsplit("-", 1)[1])
    bandwidth = look.rate("exact", "memory")
    flat, half = look.ms("exact", method="molquery flat"), look.ms("exact", "molquery flat16")
    out: list[tuple[str, ...]] = []

    def add(what: str, value: float | None, limit: float, unit: str, least: bool) -> None:
        sign = ">=" if least else "<="
        met = value is not None and (value >= limit if least else value <= limit)
        shown = "not measured" if value is None else f"{value:.3g} {unit}".strip()
        out.append((what, f"{sign} {limit:g} {unit}".strip(), shown, "yes" if met else "no"))

    reading = None
    if flat and bandwidth:
        reading = n * 512 * 4 / 1e9 / (flat / 1e3) / bandwidth
    add("exact float32, share of read bandwidth", reading, 0.85, "", True)
    add("exact float16, time beside float32", ratio(half, flat), 0.5, "", False)
    lance = look.ms("exact", "LanceDB")
    add("LanceDB without index / molquery float32", ratio(lance, flat), 25, "x", True)
    add("batch of 64, k = 100", look.rate("batch", "molquery"), 140, "queries/s", True)
    add("every row ranked", look.ms("ranking", "molquery"), 120, "ms", False)

    good = [r for r in look.all("approximate", "molquery") if r["recall10"] >= 0.99]
    best = min(good, key=lambda r: r[statistic], default=None)
    add("index at recall@10 >= 0.99", best and best[statistic], 1.0, "ms", False)
    plain = look.ms("approximate", "plain FAISS on")
    own = look.ms("approximate", "molquery ivf-rabitq")
    add("  molquery less plain FAISS, the same index",
        own - plain if own and plain else None, 0.3, "ms", False)  # fmt: skip
    others = look.all("approximate", "LanceDB")
    if best and others:
        equal = [r for r in others if r["recall10"] >= best["recall10"] - 0.005]
        # LanceDB at its best recall, where none of its settings reaches that of molquery
        rivals = equal or [max(others, key=lambda r: r["recall10"])]
        add("  LanceDB's own index / molquery",
            min(r[statistic] for r in rivals) / best[statistic], 20, "x", True)  # fmt: skip
    for rule in sorted({r["filter"] for r in look.all("filters")}):
        mine = look.all("filters", "molquery", filter=rule)
        rest = [r for r in look.all("filters", filter=rule) if r not in mine]
        rest = [r for r in rest if r["recall10"] >= 0.99]
        if not mine or not rest:
            continue
        ours = min(mine, key=lambda r: (r["recall10"] < 0.99, r[statistic]))
        rival = min(rest, key=lambda r: r[statistic])
        name = rule if rule.startswith("cohort") else f"{float(rule):.2%}"
        add(f"filter {name}: molquery / {rival['method']}",
            ours[statistic] / rival[statistic], 1.3, "x", False)  # fmt: skip
        add(f"  recall@10 ({ours[statistic]:.2f} ms)", ours["recall10"], 0.99, "", True)
    add("one gene set, share of read bandwidth", look.line("scoring", "share"), 0.6, "", True)
    add("50 gene sets beside one", look.line("scoring", "ratio"), 8, "x", False)
    add("ingest, share of a raw write", look.line("ingest", "share"), 0.6, "", True)
    peak_gb = next((r["peak_mb"] / 1024 for r in look.all("ingest", "molquery")), None)
    add("  peak memory", peak_gb, 1.5, "GB", False)
    for r in (r for r in look.all("start") if not r["method"].startswith(("one query", "once"))):
        limit = 150 if "Python" in r["method"] else 500
        add(r["method"], r["median_ms"], limit, "ms", False)
    return [t for t in out if t[2] != "not measured"]


def ratio(above: float | None, below: float | None) -> float | None:
    """Their quotient, where both were measured."""
    return above / below if above and below else None


# Text.


def text(results: Results) -> str:
    """The whole report in Markdown."""
    found = rows(results)
    facts = ", ".join(f"{k} {v}" for k, v in results.machine.items() if "process" not in k)
    cpu = f"{results.machine.get('processor')}, {results.machine.get('processors')} processors"
    out = [
        "# Speed and scale",
        "",
        "Written by `make bench`; `benchmarks/README.md` says how it is measured.",
        "",
        f"{cpu}, {facts}.",
        "",
        "Quiet: the fastest tenth of the queries, which other work on the machine touches least.",
    ]
    for archive in places(found):
        goals, quiet = targets(found, archive), targets(found, archive, "quiet_ms")
        if goals:
            out += ["", f"## Targets, {named(archive)}", ""]
            lines = [(*g[:3], q[2], g[3]) for g, q in zip(goals, quiet, strict=False)]
            out += table(("what", "target", "measured", "quiet", "met"), lines)
        for part, title in _TITLES.items():
            mine = [r for r in found if r["part"] == part and r["archive"] == archive]
            if mine:
                out += ["", f"## {title}, {named(archive)}", "", *part_table(mine)]
    left = {n: w for by in results.left_out.values() for n, w in by.items()}
    if left:
        out += [
            "",
            "Not measured: " + "; ".join(f"{n} ({w})" for n, w in sorted(left.items())) + ".",
        ]
    return "\n".join(out) + "\n"


def places(found: list[Row]) -> list[str]:
    """The archives, largest first."""
    names = {r["archive"] for r in found}
    return sorted(names, key=lambda a: (-int(a.rsplit("-", 1)[1]), a))


def named(archive: str) -> str:
    """An archive in words."""
    kind, size = archive.rsplit("-", 1)
    return f"{int(size):,} rows, {kind}"


def part_table(mine: list[Row]) -> list[str]:
    """The table of one part; columns that hold nothing are left out, best time first."""
    used = [c for c in COLUMNS[2:] if any(r.get(c) not in (None, "") for r in mine)]
    mine = sorted(mine, key=lambda r: (r.get("filter", ""), r.get("median_ms") or 0))
    heads = [c.replace("_", " ").replace("recall", "recall@") for c in used]
    return table(heads, [[show(r.get(c), c) for c in used] for r in mine])


def table(heads: Any, lines: Any) -> list[str]:
    """A Markdown table."""
    out = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return out + [f"| {' | '.join(map(str, line))} |" for line in lines]


def show(value: Any, column: str) -> str:
    """A value of a table."""
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        return value
    if column.startswith("recall"):
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(results: Results, folder: Path, indexes: Path) -> None:
    """Write every file of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(results)
    (folder / "scale.md").write_text(text(results), "utf-8")
    with (folder / "scale.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in found:
            writer.writerow([precise(row.get(c)) for c in COLUMNS])
    (folder / "machine.json").write_text(json.dumps(results.machine, indent=1) + "\n", "utf-8")
    figure(found, folder / "scale.png")
    write_recipes(results, found, indexes)


def precise(value: Any) -> Any:
    """A value of the TSV: five digits are more than any of them deserves."""
    return float(f"{value:.5g}") if isinstance(value, float) else ("" if value is None else value)


def write_recipes(results: Results, found: list[Row], page: Path) -> None:
    """The part between the two marks of the page of recipes: what each has measured."""
    columns = ("recall10", "recall100", "median_ms", "p99_ms", "build_s", "size_mb")
    lines = set()
    for row in found:
        if row["part"] in ("exact", "approximate", "iid") and ours(row["method"]):
            recipe = row["method"].removeprefix("molquery ")
            figures = [show(row.get(c), c) for c in columns]
            lines.add((f"`{recipe}`", named(row["archive"]), *figures))
    if not lines or not page.is_file():
        return
    heads = ("recipe", "archive", "recall@10", "recall@100", "median ms", "p99 ms", "build s", "MB")
    cpu = f"{results.machine['processor']}, {results.machine['processors']} processors"
    measured = [
        BEGIN,
        "",
        f"Measured at 512 dimensions, one query at a time, k = 10, on {cpu}, by `make bench`",
        f"(faiss {results.machine['faiss-cpu']}; MB: the index and, where it has its own, the",
        "float16 vectors; more in `benchmarks/results/scale.md`):",
        "",
        *table(heads, sorted(lines, key=lambda line: (line[1], line[0]))),
        "",
        END,
    ]
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + "\n".join(measured) + (after or "\n"), "utf-8")


def figure(found: list[Row], path: Path) -> None:
    """Latency against recall of indexes, and latency against selectivity under filters."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    largest = [p for p in places(found) if p.startswith("clustered")][:1]
    if not largest:
        return
    mine = [r for r in found if r["archive"] == largest[0]]
    panels, axes = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    _bars(axes[0], [r for r in mine if r["part"] == "exact" and r.get("median_ms")])
    axes[0].set_title(f"exact, {named(largest[0])}")
    curves(axes[1], [r for r in mine if r["part"] == "approximate"], "recall10")
    axes[1].set(xlabel="recall@10", ylabel="median ms", yscale="log", title="indexes")
    shares = [r for r in mine if r["part"] == "filters" and not r["filter"].startswith("cohort")]
    curves(axes[2], [r | {"share": float(r["filter"])} for r in shares], "share")
    axes[2].set(xlabel="share of rows that qualify", xscale="log", yscale="log",
                ylabel="median ms", title="filtered (hollow: recall@10 below 0.99)")  # fmt: skip
    panels.savefig(path, dpi=90)
    pyplot.close(panels)


def _bars(axis: Any, mine: list[Row]) -> None:
    mine = sorted(mine, key=lambda r: -r["median_ms"])
    colours = ["#c0392b" if ours(r["method"]) else "#9aa5b1" for r in mine]
    axis.barh([r["method"] for r in mine], [r["median_ms"] for r in mine], color=colours)
    axis.set(xscale="log", xlabel="median ms")


def curves(axis: Any, mine: list[Row], across: str) -> None:
    """One curve a method (and setting, under filters); molquery in red, hollow below 0.99."""
    grey, red = iter(_GREYS), iter(_REDS)
    groups: dict[str, list[Row]] = {}
    for row in mine:
        setting = row.get("setting") if across == "share" else None
        groups.setdefault(f"{row['method']}, {setting}" if setting else row["method"], []).append(
            row
        )
    for name, rows_of in groups.items():
        points = sorted((r[across], r["median_ms"], r["recall10"]) for r in rows_of)
        colour = next(red, _REDS[0]) if ours(name) else next(grey, _GREYS[-1])
        x, y, right = zip(*points, strict=True)
        axis.plot(x, y, color=colour, label=name, lw=1.6 if ours(name) else 1)
        fill = [colour if across == "recall10" or r >= 0.99 else "white" for r in right]
        axis.scatter(x, y, c=fill, edgecolors=colour, s=22, zorder=3)
    if groups:
        axis.legend(fontsize=7)


def ours(method: str) -> bool:
    """Whether a method is molquery's."""
    return method.startswith("molquery")
