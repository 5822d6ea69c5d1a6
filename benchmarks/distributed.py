"""What distributed training costs and brings: `python -m benchmarks.distributed [--quick] [--only PART,…]`. Needs root.

Nodes are network namespaces on this machine (`benchmarks.nodes`). Prints Markdown tables, writes the numbers to a JSON file, and
draws plots of them; docs/distributed.md holds the latest.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.nodes import launched, plots
from benchmarks.nodes.accuracy import WORKERS, Variant, outcomes
from benchmarks.nodes.faults import NODES, Death, death
from benchmarks.nodes.network import Link
from benchmarks.nodes.scaling import Scaling, scaling
from benchmarks.nodes.steps import ALONE, Cost, compute_seconds, step_cost
from benchmarks.nodes.strategies import (
    DILOCO,
    EVERY,
    LARGE,
    LR,
    OVERLAP,
    POWERSGD_EXACT,
    SMALL,
    STEPS,
    STRATEGIES,
    TOPK,
    whole_run_bytes,
)
from benchmarks.nodes.target import Pace, curve, pace
from benchmarks.nodes.text import Model, Training
from benchmarks.nodes.unequal import Balanced, balanced_pairs
from benchmarks.tables import heading, run_parts, table


@dataclass
class Size:
    """How much is done: everything, or a quick look at every part."""

    work: Path
    quick: bool
    numbers: dict[str, Any]

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full

    def keep(self, part: str, numbers: object) -> None:
        self.numbers[part] = numbers


def accuracy(size: Size) -> None:
    steps, seeds = size.pick((STEPS, 5), (120, 2))
    warmup = steps // 8
    diloco = {**DILOCO, "warmup": warmup}
    topk = {**TOPK, "warmup": warmup}
    variants = [
        Variant("one worker", workers=1, against=None),
        Variant("allreduce", threshold=0.5),
        Variant("diloco", settings=diloco, threshold=1.0),
        Variant("diloco, rounds of 20", settings={**diloco, "every": 20}, threshold=1.0),
        Variant("allreduce int8", settings=STRATEGIES["allreduce int8"], against="allreduce", threshold=0.2),
        Variant("diloco int8", settings={**diloco, "compress": "int8"}, against="diloco", threshold=0.2),
        Variant("allreduce topk", settings=topk, threshold=1.0),
        Variant("diloco overlapped", settings={**diloco, **OVERLAP}),
        Variant("local-sgd", settings={**STRATEGIES["local-sgd"], "warmup": warmup}),
    ]
    variants = size.pick(variants, variants[:3])
    rates = size.pick((0.008, 0.016), (0.016,))  # the search goes on beyond them
    found = outcomes(
        size.work / "accuracy", SMALL, variants, rates=rates, fine=not size.quick, steps=steps, seeds=seeds
    )
    rows = [
        [
            one.variant.name, one.lr, f"{median(one.losses):.4f}",
            one.variant.against or "",
            f"{one.percent:+.2f} ± {one.half:.2f}" if one.variant.against else "",
            one.verdict,
        ]
        for one in found
    ]  # fmt: skip
    columns = (
        "strategy",
        "learning rate",
        "loss, median",
        "against",
        "difference, %: mean ± 95 %",
        "threshold",
    )
    title = f"Accuracy: {WORKERS} workers against one at equal samples, {SMALL}, {steps} steps, {seeds} seeds"
    table(title, columns, rows)
    size.keep("accuracy", [asdict(one) for one in found])


def communication(size: Size) -> None:
    costs: dict[str, Cost] = {}
    for name, sync in STRATEGIES.items():
        steps = EVERY * 2 if "strategy" in sync else 4
        before = sync.get("overlap", POWERSGD_EXACT if sync.get("compress") == "powersgd" else 1)
        costs[name] = step_cost(LARGE, sync, WORKERS, Link(), compute=0.0, steps=steps, before=before)
    sent = {name: cost.sent for name, cost in costs.items()}
    whole = {name: whole_run_bytes(sent, name) for name in costs}
    losses = {one["variant"]["name"]: one["percent"] for one in size.numbers.get("accuracy", ())}
    rows = [
        [
            name,
            cost.sent / 1e6,
            costs["allreduce"].sent / cost.sent,
            whole["allreduce"] / whole[name],
            f"{losses[name]:+.2f}" if name in losses else "",
        ]
        for name, cost in costs.items()
    ]
    columns = (
        "strategy",
        "MB a step",
        "times less than allreduce",
        f"over a run of {STEPS} steps, {STEPS // 8} of warm-up",
        "its loss (accuracy), %",
    )
    table(
        f"Communication: sent by one of {WORKERS} nodes, by its interface's counter, {LARGE}", columns, rows
    )
    size.keep("communication", {name: asdict(cost) for name, cost in costs.items()})


def target(size: Size) -> None:
    names = size.pick(
        (
            "allreduce",
            "diloco",
            "diloco overlapped",
            "diloco int8",
            "diloco int8 overlapped",
            "allreduce topk",
        ),
        ("allreduce", "diloco"),
    )
    links = [Link(1000), Link(100), Link(10), Link(100, 0.02)]
    counts, links = size.pick(((2, 4), links), ((4,), links[1:2]))
    steps, warmup = size.pick((800, 100), (60, 20))
    every = size.pick(EVERY, 10)
    rows: list[list[object]] = []
    for nodes in counts:
        compute = compute_seconds(LARGE, LARGE.batch // nodes)
        syncs = {name: _with_round(STRATEGIES[name], every) for name in names}
        training = Training(size.work / "target", SMALL)
        curves = {
            name: curve(training, _settings(sync, warmup) | {"train.lr": LR}, nodes, steps=steps, every=20)
            for name, sync in syncs.items()
        }
        goal = 1.01 * curves["allreduce"].losses[-1]
        for link in links:
            rows += _paces(size, nodes, link, compute, syncs, curves, goal, warmup)
    columns = (
        "nodes", "network", "strategy", "seconds a step", "speed, alone = 1", "steps to the target", "seconds to the target",
    )  # fmt: skip
    title = (
        f"Time to a target loss (1.01 × allreduce's after {steps} steps), rounds of {every}, {warmup} steps of warm-up: "
        f"seconds of {LARGE}, losses of {SMALL}"
    )
    table(title, columns, rows)
    size.keep("target", {"columns": columns, "rows": rows})


def _with_round(sync: Mapping[str, Any], every: int) -> Mapping[str, Any]:
    if "strategy" not in sync:
        return sync
    return {**sync, "every": every} | ({"overlap": every // 5} if "overlap" in sync else {})


def _settings(sync: Mapping[str, Any], warmup: int) -> dict[str, object]:
    """The recipe's keys; topk's warm-up is part of it, allreduce has none."""
    settings: dict[str, object] = {f"sync.{key}": value for key, value in sync.items()}
    if "strategy" in sync or sync.get("compress") == "topk":
        settings["sync.warmup"] = warmup
    return settings


def _paces(
    size: Size, nodes: int, link: Link, compute: float, syncs: Mapping[str, Any], curves: Mapping[str, Any],
    goal: float, warmup: int,
) -> list[list[object]]:  # fmt: skip
    turns = [_turn(nodes, link, compute, syncs) for _ in range(size.pick(3 if link == Link(100) else 1, 1))]
    rows: list[list[object]] = []
    for name in syncs:
        own = Pace(
            *(median(getattr(paces[name], phase) for _, paces in turns) for phase in ("warmup", "after"))
        )
        speed = median(alone / paces[name].after for alone, paces in turns)
        reached = curves[name].reaches(goal)
        seconds = "" if reached is None else f"{own.seconds(reached, warmup):.0f}"
        rows.append([nodes, str(link), name, own.after, speed, reached or "not reached", seconds])
    return rows


def _turn(
    nodes: int, link: Link, compute: float, syncs: Mapping[str, Any]
) -> tuple[float, Mapping[str, Pace]]:
    """Seconds of a step without any communication, and of each strategy's, one after the other."""
    alone = step_cost(LARGE, ALONE, nodes, link, compute=compute, steps=20).seconds
    allreduce = step_cost(LARGE, {}, nodes, link, compute=compute, steps=2).seconds
    paces = {}
    for name, sync in syncs.items():
        steps = sync["every"] if "strategy" in sync else 3
        paces[name] = (
            Pace(allreduce, allreduce)
            if name == "allreduce"
            else pace(LARGE, sync, nodes, link, compute=compute, allreduce=allreduce, steps=steps)
        )
    return alone, paces


def balance(size: Size) -> None:
    # many samples: what a step costs whatever its size cannot be shared
    model = Model(embedding=256, hidden=1024, layers=2, window=16, batch=128)
    training = Training(size.work / "balance", model, validation_bytes=8000)
    pairs: dict[str, list[Balanced]] = {}
    for name, quota, sync in (
        ("allreduce, 2 : 1", 1 / 2, {}),
        ("allreduce, 3 : 1", 1 / 3, {}),
        ("diloco, 2 : 1", 1 / 2, {**DILOCO, "every": 5, "warmup": 5}),
    ):
        steps, seeds = size.pick((60, 3), (20, 1))
        pairs[name] = balanced_pairs(training, quota, sync, steps=steps, seeds=seeds)
        if size.quick:
            break
    rows = [
        [
            name, median(pair.even for pair in found), median(pair.adaptive for pair in found),
            f"{median(pair.gain for pair in found):.2f}",
            " : ".join(map(str, found[-1].shares)),
            f"{median(100 * (pair.adaptive_loss / pair.even_loss - 1) for pair in found):+.2f} %",
        ]
        for name, found in pairs.items()
    ]  # fmt: skip
    columns = ("nodes", "even shares, tokens/s", "adaptive, tokens/s", "gain", "shares", "loss")
    table(f"Balance: two nodes of which one is slow, {model}", columns, rows)
    size.keep("balance", {name: [asdict(pair) for pair in found] for name, found in pairs.items()})


def scale(size: Size) -> None:
    link = Link(100)
    compute = compute_seconds(LARGE, 4)
    ranks = size.pick((2, 4, 8, 16, 32), (2, 3, 4, 8))
    found: dict[str, Scaling] = {}
    for name in size.pick(
        ("allreduce", "allreduce int8", "diloco", "diloco overlapped", "diloco int8"), ("allreduce",)
    ):
        steps = EVERY if "strategy" in STRATEGIES[name] else 2
        found[name] = scaling(LARGE, STRATEGIES[name], ranks, link, compute=compute, steps=steps)
    rows = [
        [name, *(f"{one.efficiency(n):.3f}" for n in ranks), f"{100 * one.error:+.0f} %"]
        + [f"{one.compute / one.predicted(n):.3f}" for n in (64, 128)]
        for name, one in found.items()
    ]
    columns = (
        "strategy",
        *(f"{n} ranks" for n in ranks),
        f"model at {ranks[-1]}, not fitted on",
        "64, by the model",
        "128",
    )
    title = f"Scaling: efficiency at {link}, compute of {compute:.2f} s a step pretended, {LARGE.weights / 1e6:.1f} M weights"
    table(title, columns, rows)
    size.keep("scaling", {name: asdict(one) for name, one in found.items()})


def faults(size: Size) -> None:
    training = Training(size.work / "faults", LARGE, validation_bytes=2000)
    deaths: dict[str, list[Death]] = {}
    every = size.pick(40, 20)
    for name in size.pick(("allreduce", "diloco"), ("allreduce",)):
        sync = {**STRATEGIES[name]} | ({"every": 10, "warmup": 10} if name == "diloco" else {})
        deaths[name] = [death(training, sync, checkpoint_every=every) for _ in range(size.pick(3, 1))]
    rows = [
        [
            name,
            *(
                median(getattr(one, field) for one in found)
                for field in ("waited", "steps", "step_seconds", "lost")
            ),
        ]
        for name, found in deaths.items()
    ]
    columns = ("strategy", "s until the others went on", "steps done again", "s a step", "s lost in all")
    table(
        f"Faults: one node of {NODES} is killed, checkpoints every {every} steps, {LARGE}",
        columns,
        rows,
    )
    size.keep("faults", {name: [asdict(one) for one in found] for name, found in deaths.items()})


def frameworks(size: Size) -> None:
    rows: list[list[object]] = []
    models = [Model(embedding=64, hidden=192, layers=2, window=32, batch=32), LARGE]
    for model in size.pick(models, models[:1]):
        training = Training(size.work / "frameworks", model, validation_bytes=2000)
        steps = size.pick(200, 60) if model.weights < 1e6 else 24
        speeds = launched.speeds(training, 2, steps=steps, rounds=size.pick(5, 1))
        rows += [[str(model), *row] for row in launched.shown(speeds)]
    columns = ("model", "started by", "tokens/s, median", "git gru train / it, median of pairs")
    table("Beside other launchers: two workers on one machine, a thread each", columns, rows)
    size.keep("frameworks", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="folder for the repositories")
    parser.add_argument("--quick", action="store_true", help="every part, smaller: minutes")
    parser.add_argument("--only", help="comma-separated parts")
    parser.add_argument(
        "--numbers", type=Path, help="the JSON file with the numbers (bench-work/distributed[-quick].json)"
    )
    parser.add_argument("--plots", type=Path, help="folder that plots of the numbers are drawn into")
    options = parser.parse_args()
    work = options.work.absolute()
    file = options.numbers or work / ("distributed-quick.json" if options.quick else "distributed.json")
    known = json.loads(file.read_text()) if file.exists() else {}
    size = Size(work, options.quick, known)
    parts = {
        "accuracy": lambda: accuracy(size),
        "communication": lambda: communication(size),
        "target": lambda: target(size),
        "balance": lambda: balance(size),
        "scaling": lambda: scale(size),
        "faults": lambda: faults(size),
        "frameworks": lambda: frameworks(size),
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and takes the namespaces down
    heading()
    try:
        run_parts(parts, options.only)
    finally:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(size.numbers, indent=1))
    if options.plots is not None:
        plots.draw(size.numbers, options.plots)
        print(f"plots: {options.plots}", file=sys.stderr)


if __name__ == "__main__":
    main()
