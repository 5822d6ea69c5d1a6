"""Forecasts as a picture, by matplotlib (an extra)."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from git_gru.errors import InputError, MachineError
from git_gru.train.forecast import Forecast


class MatplotlibMissingError(MachineError):
    """matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "a picture needs matplotlib, which is not installed here",
            hint="Install it beside git-gru (pip install matplotlib); the plot in the terminal needs nothing.",
        )


def draw(forecasts: Sequence[Forecast], file: Path) -> None:
    """Writes a PNG with one plot for each forecast, 150 dots an inch. Raises `MatplotlibMissingError`, `InputError`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MatplotlibMissingError
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3 * len(forecasts)), layout="constrained")
    for place, one in enumerate(forecasts, start=1):
        axes = figure.add_subplot(len(forecasts), 1, place)
        present = len(one.past)
        axes.plot(range(present), one.past, label="data")
        axes.plot(
            range(present - 1, present + len(one.values)), [one.past[-1], *one.values], label="forecast"
        )
        axes.set_title(" ".join(filter(None, (one.series, one.target))))
        labels = [*one.past_times, *one.times]
        ticks = range(0, len(labels), max(1, len(labels) // 6))
        axes.set_xticks(ticks, [labels[tick] for tick in ticks])
        axes.legend()
    try:
        figure.savefig(file, format="png", dpi=150)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
