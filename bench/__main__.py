"""``python -m bench``: measure and write docs/performance.md; ``--smoke``: see that it works."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
import traceback
from datetime import UTC, datetime

from bench import processes, report
from bench.contenders import CONTENDERS, Contender, MissingError, cache_directory
from bench.measures import FULL, SMOKE, Effort, Figures, grow, visit

# A full run ends within twenty minutes: no round begins that would not.
_MINUTES = 19.5
# What is left out of a smoke test: it takes minutes to install or build, and is no part of devmail.
_NOT_IN_SMOKE = frozenset(("devmail-container", "seed-container", "maildev", "sendria"))


def main() -> int:
    """Run the command line; the status is 1 when a contender or a measure broke."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="every measure once, for a moment")
    parser.add_argument("--report", action="store_true", help="write the page of the last run anew")
    parser.add_argument("--only", help="contenders, by key, with commas in between")
    arguments = parser.parse_args()
    kept = cache_directory() / "figures.json"
    if arguments.report:
        report.write(*report.load(kept))
        return 0
    if os.geteuid() != 0:
        print("bench: the daemons need root to start", file=sys.stderr)
        return 1
    bench = _Bench(SMOKE if arguments.smoke else FULL)
    keys = set(arguments.only.split(",")) if arguments.only else None
    wanted = [
        contender()
        for contender in CONTENDERS
        if (contender.key in keys if keys else True)
        and not (arguments.smoke and not keys and contender.key in _NOT_IN_SMOKE)
    ]
    processes.adopt_orphans()
    # So that servers are stopped and their state is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    commit = report.commit()
    bench.prepare(wanted)
    if not bench.results:
        print("bench: there is nothing to measure", file=sys.stderr)
        return 1
    try:
        bench.run()
    finally:
        for contender in wanted:
            contender.discard()
    print("\n".join(report.summary(bench.results)))
    if not arguments.smoke:
        run = report.Run(
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            commit=commit,
            machine=report.machine(),
            rounds=bench.rounds,
            minutes=bench.seconds / 60,
            load=bench.load,
            left_out=bench.left_out,
        )
        report.save(kept, run, bench.results)
        report.write(run, bench.results)
        print(f"bench: {report.PAGE} is written")
    return 1 if bench.is_broken else 0


class _Bench:
    """One run over all contenders."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._began = time.monotonic()
        self._contenders: list[Contender] = []
        self.results: dict[str, Figures] = {}
        self.left_out: list[str] = []
        self.load = 0.0
        self.rounds = 0
        self.is_broken = False

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.monotonic() - self._began

    def prepare(self, contenders: list[Contender]) -> None:
        """Install what is needed; a contender that cannot be had is left out."""
        for contender in contenders:
            try:
                contender.prepare()
            except MissingError as error:
                line = str(error).splitlines()[0]
                print(f"bench: {line}")
                self.left_out.append(line)
            else:
                self._contenders.append(contender)
                self.results[contender.key] = Figures()
        # What was installed once is not installed each time.
        self._began = time.monotonic()

    def run(self) -> None:
        """Measure round by round, each beginning with another contender."""
        # Later it is the bench's own.
        self.load = os.getloadavg()[0]
        longest = 0.0
        for number in range(self._effort.rounds):
            if self.rounds and self.seconds + longest > _MINUTES * 60:
                print(f"bench: no time for more than {number} rounds")
                break
            began = time.monotonic()
            first = number % len(self._contenders)
            for contender in self._contenders[first:] + self._contenders[:first]:
                self._measure(contender, number)
            longest = max(longest, time.monotonic() - began)
            self.rounds += 1
            if number == 0:
                for contender in self._contenders:
                    if "growth" in contender.can:
                        self._measure(contender, None)

    def _measure(self, contender: Contender, number: int | None) -> None:
        began = time.monotonic()
        figures = self.results[contender.key]
        try:
            if number is None:
                grow(contender, self._effort, figures)
            else:
                visit(contender, self._effort, figures)
        # Whatever goes wrong with one contender, the others are still measured.
        except Exception:  # noqa: BLE001
            self.is_broken = True
            print(f"bench: {contender.title} broke:", file=sys.stderr)
            traceback.print_exc()
        what = "growth" if number is None else f"round {number + 1}"
        width = min(100, shutil.get_terminal_size().columns)
        line = f"bench: {what}: {contender.title} took {time.monotonic() - began:.0f} s"
        print(line[:width], flush=True)


sys.exit(main())
