"""The times of a series: that they rise, and which ones come next."""

import datetime
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

from git_gru.train.corpus.files import DataError

Moment = float | datetime.datetime

_Step = TypeVar("_Step", float, datetime.timedelta)


def parse_times(values: Sequence[Any], where: str) -> list[Moment]:
    """Numbers, or dates (ISO 8601; `2024-05` is the first of the month), strictly rising. Raises `DataError`."""
    times: list[Moment] = []
    for row, value in enumerate(values, start=1):
        moment = _moment(value)
        if moment is None:
            raise DataError(f"{where}: {value!r} is neither a number nor an ISO date", hint="See data.time.")
        if times:
            before = times[-1]
            if type(before) is not type(moment) or not before < moment:  # type: ignore[operator]
                raise DataError(
                    f"{where}: times must rise, and {value!r} (value {row} of the series) does not come after the one before",
                    hint="Sort the rows by time; where a file holds several series, name their column: data.series.",
                )
        times.append(moment)
    return times


def next_times(times: Sequence[Moment], count: int) -> list[Moment]:
    """The `count` times after the last: in steps of months where the days of the month agree, else by the median step."""
    last, recent = times[-1], times[-25:]
    if isinstance(last, float):
        numbers = [time for time in recent if isinstance(time, float)]
        step = _median([b - a for a, b in itertools.pairwise(numbers)])
        return [last + (step or 0.0) * number for number in range(1, count + 1)]
    dates = [time for time in recent if isinstance(time, datetime.datetime)]
    if months := _months(dates):
        return [_add_months(last, months * number) for number in range(1, count + 1)]
    span = _median([b - a for a, b in itertools.pairwise(dates)]) or datetime.timedelta()
    return [last + span * number for number in range(1, count + 1)]


def shown_time(moment: Moment) -> str:
    """A time for people: a date without its midnight, a number without an empty fraction."""
    if isinstance(moment, float):
        return f"{moment:.10g}"
    text = moment.isoformat()
    return text.removesuffix("T00:00:00")


def _moment(value: Any) -> Moment | None:
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None) if value.tzinfo is None else value.astimezone(datetime.UTC)
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return number if abs(number) < float("inf") else None
    try:
        moment = datetime.datetime.fromisoformat(f"{text}-01" if len(text) == len("2024-05") else text)
    except ValueError:
        return None
    return moment if moment.tzinfo is None else moment.astimezone(datetime.UTC)


def _median(steps: list[_Step]) -> _Step | None:
    return sorted(steps)[len(steps) // 2] if steps else None


def _months(times: Sequence[datetime.datetime]) -> int:
    """The whole months between the times, when they are always as many; else 0."""
    if len(times) < 2 or len({(time.day, time.time()) for time in times}) > 1:
        return 0
    counts = [time.year * 12 + time.month for time in times]
    steps = {b - a for a, b in itertools.pairwise(counts)}
    return steps.pop() if len(steps) == 1 else 0


def _add_months(moment: datetime.datetime, months: int) -> datetime.datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    return moment.replace(year=year, month=month + 1)
