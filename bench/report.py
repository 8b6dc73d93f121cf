"""Write the page: what was measured, on what, and how it compares."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.chart import draw
from bench.contenders import CONTENDERS, ROOT
from bench.measures import Figures
from bench.rows import GROUPS, GROWTH, TARGETS, Group, Growth, Results, Target, in_unit
from devmail_config import debian

PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.svg"
_NOTES = Path(__file__).parent / "notes.md"
_TITLES = {contender.key: contender.title for contender in CONTENDERS}
_PACKAGES = (
    "postfix",
    "dovecot-core",
    "nginx",
    debian.PHP_FPM_PACKAGE,
    "supervisor",
    "s6",
    "docker.io",
)


@dataclass
class Run:
    """Where, when and how the figures came about."""

    date: str
    commit: str
    machine: list[str]
    rounds: int
    minutes: float
    # How many processes wanted a processor, on average over the minute before.
    load: float
    left_out: list[str]


def machine() -> list[str]:
    """Describe this machine, a fact a line."""
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    mount = _output("stat", "--file-system", "--format=%T", tempfile.gettempdir())
    versions = ", ".join(
        f"{name} {version}"
        for name in _PACKAGES
        if (version := _output("dpkg-query", "-W", "-f", "${Version}", name))
    )
    return [
        f"{os.cpu_count()} processors ({processor[1] if processor else platform.machine()}), "
        f"{memory:.0f} GiB of memory",
        f"{system[1] if system else platform.system()}, Linux {platform.release()}, "
        f"file system of the mail: {mount}",
        f"{versions}, Python {platform.python_version()}",
    ]


def commit() -> str:
    """Name the commit that is measured, and say so if it is not what is in the directory."""
    name = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") or "unknown"
    is_changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!docs")
    return f"{name}, with changes" if is_changed else name


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def save(path: Path, run: Run, results: Results) -> None:
    """Keep everything that was measured, so that the page can be written again."""
    document = {
        "run": asdict(run),
        "results": {key: asdict(figures) for key, figures in results.items()},
    }
    path.write_text(json.dumps(document), encoding="utf-8")


def load(path: Path) -> tuple[Run, Results]:
    """Read what ``save`` kept."""
    document = json.loads(path.read_text(encoding="utf-8"))
    results = {key: Figures(**figures) for key, figures in document["results"].items()}
    return Run(**document["run"]), results


def write(run: Run, results: Results) -> None:
    """Write the page and its chart into docs/."""
    PAGE.write_text("\n".join(_page(run, results)), encoding="utf-8")
    CHART.write_text(draw(_bars(results)), encoding="utf-8")


def _bars(results: Results) -> list[tuple[str, float]]:
    bars = []
    for target in TARGETS:
        measured = target.measured(results)
        if target.base and measured:
            factor = measured if target.row.better == "more" else 1 / measured
            bars.append((target.title, factor))
    return bars


def _page(run: Run, results: Results) -> Iterator[str]:
    yield from (
        "# Performance",
        "",
        "This page is written by `make bench`, which starts each contender in turn on one machine,",
        "round after round, with the same clients. Figures are medians of the rounds, with the",
        "lowest and the highest in brackets; percentiles are of the samples of all rounds. Compare",
        "within a row: what a machine is busy with besides changes the figures more than their",
        "ratios. The processor time that one operation costs the server (all of its processes)",
        "changes least.",
        "",
        "![Times better than the seed's configuration](performance.svg)",
        "",
        f"Measured on {run.date} at commit {run.commit}: {run.rounds} rounds in {run.minutes:.0f} "
        "minutes.",
        "",
    )
    yield from (f"- {fact}" for fact in run.machine)
    others = "; other programs were using the machine" if run.load > (os.cpu_count() or 1) else ""
    yield f"- load average at the beginning: {run.load:.1f}{others}"
    yield from (f"- {line}" for line in (*_client_shares(results), *run.left_out))
    yield from ("", "## Targets", "", "Ratios to the seed's configuration, in the run above.", "")
    yield from ("| | target | measured | |", "|---|---|---|---|")
    for target in TARGETS:
        yield _target(target, results)
    for growth in GROWTH:
        yield _growth(growth, results)
    yield from ("", _NOTES.read_text(encoding="utf-8"), "## The contenders", "")
    for contender in CONTENDERS:
        yield f"- **{contender.title}**: {_sentence(contender.__doc__ or '')}"
    for group in GROUPS:
        yield from _group(group, results)
    yield ""


def _sentence(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _target(target: Target, results: Results) -> str:
    measured, is_met = target.measured(results), target.is_met(results)
    sign = "at least" if target.row.better == "more" else "at most"
    shown = "not measured" if measured is None else f"{measured:.3g}"
    verdict = {True: "met", False: "**missed**, see below", None: ""}[is_met]
    return f"| {target.title} | {sign} {target.bound:g} | {shown} | {verdict} |"


def _growth(growth: Growth, results: Results) -> str:
    measured = growth.measured(results)
    shown = "not measured" if measured is None else f"{measured:.3g}"
    verdict = "" if measured is None else "met" if measured <= growth.bound else "**missed**"
    title = f"{growth.title}: times as long with {growth.bound:g} times the messages"
    return f"| {title} | at most {growth.bound:g} | {shown} | {verdict} |"


def _client_shares(results: Results) -> list[str]:
    shares = [
        (share, f"{_TITLES[contender]}, {key}")
        for contender, figures in results.items()
        for key, values in figures.client_shares.items()
        for share in [median(values)]
    ]
    if not shares:
        return []
    highest, where = max(shares)
    return [
        f"the clients took {median(share for share, _ in shares):.0%} of one core in the median "
        f"measure, {highest:.0%} at most ({where})"
    ]


def _group(group: Group, results: Results) -> Iterator[str]:
    present = [
        key
        for key in group.contenders
        if any(row.value(results.get(key)) is not None for row in group.rows)
    ]
    if not present:
        return
    yield from ("", f"## {group.title}", "", group.scenario, "")
    yield f"| | {' | '.join(_TITLES[key] for key in present)} | ratio |"
    yield f"|---|{'---|' * len(present)}---|"
    for row in group.rows:
        cells = [row.shown(results.get(key)) for key in present]
        if not any(cells):
            continue
        ratio = row.ratio(results, group.subject, group.base)
        yield f"| {row.title} | {' | '.join(cells)} | {f'{ratio:.2g}' if ratio else ''} |"


def summary(results: Mapping[str, Figures]) -> Sequence[str]:
    """Say in a few lines how the targets were met."""
    lines = []
    for target in TARGETS:
        measured = target.measured(results)
        if measured is not None:
            word = "met" if target.is_met(results) else "missed"
            lines.append(f"{target.title:<40}{measured:8.3g}  {word} ({target.bound:g})")
    for key, figures in results.items():
        if start := figures.values.get("start.first"):
            lines.append(f"{_TITLES[key]:<40}{in_unit(median(start), 's'):>10}  first start")
    return lines
