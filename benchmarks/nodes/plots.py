"""Plots of the benchmark's numbers, as SVG files for docs/distributed.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, MAIN, OTHER, LIMIT = "#333333", "#2b6cb0", "#a0aec0", "#c53030"
_STYLE = {
    "font.size": 9, "axes.edgecolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "svg.hashsalt": "git-gru", "svg.fonttype": "none", "figure.facecolor": "white",
}  # fmt: skip


def draw(numbers: Mapping[str, Any], folder: Path) -> None:
    """A file for each part that `numbers` has."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"accuracy": _accuracy, "communication": _communication, "target": _target, "scaling": _scaling}
    with plt.rc_context(_STYLE):
        for part, plot in parts.items():
            if part in numbers:
                figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
                plot(axes, numbers[part])
                figure.savefig(folder / f"{part}.svg", metadata={"Date": None})
                plt.close(figure)


def _accuracy(axes: Axes, outcomes: list[dict[str, Any]]) -> None:
    compared = [one for one in outcomes if one["variant"]["against"] is not None][::-1]
    for place, one in enumerate(compared):
        axes.errorbar(one["percent"], place, xerr=one["half"], fmt="o", color=MAIN, capsize=3)
        if (limit := one["variant"]["threshold"]) is not None:
            axes.plot([limit, limit], [place - 0.3, place + 0.3], color=LIMIT, linewidth=2)
    axes.axvline(0, color=OTHER, linewidth=1)
    labels = [f"{one['variant']['name']} / {one['variant']['against']}" for one in compared]
    axes.set_yticks(range(len(compared)), labels)
    axes.set_xlabel("difference of validation losses, % (95 % interval; red: threshold)")


def _communication(axes: Axes, costs: Mapping[str, Mapping[str, float]]) -> None:
    names = list(costs)[::-1]
    sent = [costs[name]["sent"] / 1e6 for name in names]
    axes.barh(names, sent, color=[OTHER if name == "allreduce" else MAIN for name in names])
    for place, size in enumerate(sent):
        times = costs["allreduce"]["sent"] / 1e6 / size
        axes.text(
            size * 1.1, place, f"{size:.3g} MB" + (f"  ({times:.0f} ×)" if times > 1.01 else ""), va="center"
        )
    axes.set_xscale("log")
    axes.set_xlim(min(sent) / 2, max(sent) * 8)
    axes.set_xlabel("MB that a node sends, a step (in brackets: times less than allreduce)")


def _target(axes: Axes, found: Mapping[str, Any]) -> None:
    rows = [row for row in found["rows"] if row[0] == max(row[0] for row in found["rows"])]
    links = list(dict.fromkeys(row[1] for row in rows))
    names = list(dict.fromkeys(row[2] for row in rows))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        speeds = [next(row[4] for row in rows if row[1:3] == [link, name]) for link in links]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(links))]
        axes.bar(places, speeds, width * 0.9, label=name, color=plt.get_cmap("viridis")(number / len(names)))
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(links)), links)
    axes.set_ylabel("speed, without communication = 1")
    axes.set_ylim(0, 1.25)
    axes.legend(ncols=3, frameon=False, loc="upper center", fontsize=8)


def _scaling(axes: Axes, found: Mapping[str, Mapping[str, Any]]) -> None:
    for number, (name, one) in enumerate(found.items()):
        ranks = [int(n) for n in one["seconds"]]
        efficiency = [one["compute"] / seconds for seconds in one["seconds"].values()]
        axes.plot(ranks, efficiency, "o-", label=name, color=plt.get_cmap("viridis")(number / len(found)))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("ranks")
    axes.set_ylabel("efficiency")
    axes.legend(frameon=False)
