# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw the pictures of docs/reliability.md and docs/performance.md: `python docs/plots.py`.

Needs requirements/plots.txt. The same versions draw the same bytes.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit/driver")]
import experiments  # noqa: E402

from evenkeel import reliability as r  # noqa: E402
from evenkeel.plan import simulate  # noqa: E402

HERE = Path(__file__).parent / "reliability"
PERFORMANCE = Path(__file__).parent / "performance"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
mpl.rcParams |= {
    "svg.hashsalt": "evenkeel",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.figsize": (6, 3.2),
    "figure.constrained_layout.use": True,
}


def picture(name: str, x: str, y: str) -> Any:
    figure, axes = plt.subplots(num=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def save(name: str, figure: Any, folder: Path = HERE) -> None:
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def availability() -> None:
    figure, axes = picture("availability", "time to repair, minutes", "minutes down a year")
    minutes = np.geomspace(1, 600, 60)
    for days in (10, 30, 90, 365):
        down = [(1 - r.availability(days * DAY, m * MINUTE)) * r.YEAR / MINUTE for m in minutes]
        axes.loglog(minutes, down, label=f"a failure every {days} days")
    axes.legend()
    save("availability", figure)


def redundancy() -> None:
    figure, axes = picture("redundancy", "hosts, of which one is enough", "unavailability")
    hosts = range(1, 8)
    for beta in (0.0, 0.001, 0.01, 0.1):
        axes.semilogy(hosts, [r.unavailability(1, n, 0.01, beta) for n in hosts], "o-", label=f"common cause {beta:g}")
    played = [simulate.play(simulate.Fleet(n, 1, 99 * HOUR, HOUR, 0.1), 2_000).unavailable for n in (1, 2, 3)]
    low = [one.mean - one.low for one in played]
    high = [one.high - one.mean for one in played]
    axes.errorbar([1, 2, 3], [one.mean for one in played], (low, high), fmt="kx", capsize=4, label="simulated, 0.1")
    axes.legend()
    save("redundancy", figure)


def quorum() -> None:
    figure, axes = picture("quorum", "hosts", "unavailability")
    for label, needed in (("all needed (series)", lambda n: n), ("quorum", lambda n: n // 2 + 1), ("one", lambda n: 1)):
        hosts = range(1, 10)
        axes.semilogy(hosts, [r.unavailability(needed(n), n, 0.01) for n in hosts], "o-", label=label)
    axes.legend()
    save("quorum", figure)


def repetition() -> None:
    figure, axes = picture("repetition", "attempts", "chance that all fail")
    attempts = range(1, 9)
    for permanent in (0.0, 0.01, 0.1, 0.5):
        failed = [1 - r.repeat_success(0.8, k, permanent) for k in attempts]
        axes.semilogy(attempts, failed, "o-", label=f"permanent {permanent:g}")
    axes.legend()
    save("repetition", figure)


def checkpoints() -> None:
    figure, axes = picture("checkpoints", "minutes of work between checkpoints", "time lost, % of the work")
    cost, restart, mtbf = 5 * MINUTE, 10 * MINUTE, 6 * HOUR
    minutes = np.linspace(12, 240, 120)

    def lost(interval: float) -> float:
        return 100 * (r.expected_time(1.0, interval, cost, restart, mtbf) - 1)

    axes.plot(minutes, [lost(m * MINUTE) for m in minutes], label="expected_time")
    for method, mark in (("young", "s"), ("daly", "^"), ("exact", "o")):
        best = r.checkpoint_interval(cost, mtbf, restart, method)
        axes.plot(best / MINUTE, lost(best), mark, label=f"{method}, {best / MINUTE:.1f} min")
    for m in (20, 57, 120, 200):
        played = experiments.job(m * MINUTE * 10, m * MINUTE, cost, restart, mtbf)
        low, high = (100 * (bound / (m * MINUTE * 10) - 1) for bound in (played.low, played.high))
        axes.plot([m, m], [low, high], "k_-", label="simulated" if m == 20 else None)
    axes.legend()
    save("checkpoints", figure)


def durability() -> None:
    figure, axes = picture("durability", "stores of one host's checkpoints", "chance of loss a year")
    copies = range(1, 6)
    for days in (0.1, 1, 7, 30):
        loss = [r.loss_probability(c, c - 1, 0.02, days * DAY) for c in copies]
        axes.semilogy(copies, loss, "o-", label=f"replaced within {days:g} days")
    axes.axhline(r.any_of([0.01 * 0.02]), color="k", linestyle=":", label="1 % of losses strike all at once")
    axes.legend()
    save("durability", figure)


def data_loss() -> None:
    figure, axes = picture("mttdl", "hours to repair one member", "years to data loss")
    hours = np.geomspace(0.5, 500, 60)
    for label, n, tolerated in (("mirrored pair", 2, 1), ("three copies", 3, 2), ("8 + 2 shards", 10, 2)):
        years = [r.mttdl(n, tolerated, 100_000 * HOUR, h * HOUR) / r.YEAR for h in hours]
        axes.loglog(hours, years, label=label)
    axes.legend()
    save("mttdl", figure)


def escalation() -> None:
    figure, axes = picture("ladder", "each of the 24 orders", "seconds on average")
    steps = {"warm": (5.0, 0.6), "cold": (30.0, 0.8), "rollback": (60.0, 0.9), "recover": (240.0, 0.99)}

    def average(order: tuple[str, ...]) -> float:
        spent, failed = 0.0, 1.0
        for name in order:
            spent += steps[name][0] * failed
            failed *= 1 - steps[name][1]
        return spent

    averages = sorted(map(average, itertools.permutations(steps)))
    best = r.ladder([{"name": name, "time": t, "chance": p} for name, (t, p) in steps.items()])
    axes.bar(range(24), averages, color="C0", alpha=0.6)
    axes.axhline(best["expected_time"], color="C1", label=", ".join(best["order"]))
    axes.legend()
    save("ladder", figure)


def budget() -> None:
    figure, axes = picture("budget", "days", "error budget spent, %")
    days = np.linspace(0, 30, 301)
    for rate in (0.5, 1.0, 3.0, 14.4):
        axes.plot(days, np.minimum(100.0, 100 * rate * days / 30), label=f"burn rate {rate:g}")
    axes.legend()
    save("budget", figure)


def mistakes() -> None:
    figure, axes = picture("mistakes", "hosts, of which one is enough", "claimed chance to be up")
    hosts = range(1, 6)
    up = 0.9
    axes.plot(hosts, [r.parallel([up] * n) for n in hosts], "o-", label="1 - (1-A)^n: right, if independent")
    axes.plot(hosts, [r.k_of_n(1, n, up, 0.2) for n in hosts], "o-", label="with 20 % common causes")
    axes.plot(hosts, [1 - up**n for n in hosts], "x--", label="1 - A^n: the wrong P")
    axes.plot(hosts, [min(1.2, r.pairs(n) * up) for n in hosts], "x--", label="n(n-1)/2 times A: no probability")
    axes.set_ylim(0, 1.25)
    axes.legend()
    save("mistakes", figure)


def growth() -> None:
    """Time and memory over the number of files, as `tests/benchmark/checkpoint.py --growth` has measured them."""
    rows = [line.split() for line in (PERFORMANCE / "growth.txt").read_text().splitlines() if line[:1].isdigit()]
    operations = ("first checkpoint", "no change", "rollback of 1 %")
    for name, unit, offset in (("time", "seconds", 0), ("memory", "peak memory, MiB", 1)):
        figure, axes = picture(name, "files", unit)
        for number, tool in enumerate(dict.fromkeys(row[1] for row in rows)):
            mine = [row for row in rows if row[1] == tool]
            for at, operation in enumerate(operations[: (len(mine[0]) - 2) // 2]):
                values = [float(row[2 + 2 * at + offset]) for row in mine]
                files, line = [int(row[0]) for row in mine], ("o-", "s--", "^:")[at]
                axes.loglog(files, values, line, color=f"C{number}", label=f"{tool}, {operation}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(fontsize=7)
        save(name, figure, PERFORMANCE)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for draw in (
        availability,
        redundancy,
        quorum,
        repetition,
        checkpoints,
        durability,
        data_loss,
        escalation,
        budget,
        mistakes,
        growth,
    ):
        draw()


if __name__ == "__main__":
    main()
