"""Time series: the split by time, scaling by the training part alone, and what is wrong with a file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from git_gru.train.corpus import DataError, prepare, tables
from git_gru.train.corpus.series import open_series
from git_gru.train.corpus.times import next_times, parse_times, shown_time
from git_gru.train.recipe import DataRecipe

Prepare = Callable[..., Any]


def csv_of(rows: int, offset: float = 0.0) -> bytes:
    lines = [f"{2000 + row},{row + offset},{row % 3}" for row in range(rows)]
    return "\n".join(["year,y,x", *lines, ""]).encode()


def commit(repo: Any) -> str:
    repo.git("add", "--all")
    repo.git("commit", "-q", "--allow-empty", "-m", "data")
    return "HEAD"


def known(scaling: Any, targets: Any = ("y",)) -> dict[str, Any]:
    return {"targets": list(targets), "exogenous": [], "scaling": scaling}


@pytest.fixture
def prepared(repo: Any, tmp_path: Path) -> Prepare:
    """`prepared({name: bytes}, known=None, **keys of [data])`: the facts."""

    def make(contents: dict[str, bytes], known: Any = None, **keys: Any) -> Any:
        for name, data in contents.items():
            repo.write(name, data)
        settings = {
            "kind": "series",
            "files": ("data/*",),
            "targets": ("y",),
            "window": 4,
            "horizon": 2,
        } | keys
        return prepare(repo.repository, commit(repo), DataRecipe(**settings), tmp_path / "out", known)

    return make


def test_series_are_split_by_time_and_scaled_by_their_training_part(
    prepared: Prepare, tmp_path: Path
) -> None:
    facts = prepared({"data/a.csv": csv_of(20)}, exogenous=("x",), time="year", validation=0.25)
    assert {key: facts[key] for key in ("window", "horizon", "targets", "exogenous")} == {
        "window": 4, "horizon": 2, "targets": ["y"], "exogenous": ["x"],
    }  # fmt: skip
    learnt = np.array([[row, row % 3] for row in range(15)])
    assert facts["scaling"][""]["mean"] == pytest.approx(learnt.mean(axis=0))
    assert facts["scaling"][""]["std"] == pytest.approx(learnt.std(axis=0))
    train, validation = (
        open_series(tmp_path / "out", split, window=4, horizon=2) for split in ("train", "validation")
    )
    mean, std = facts["scaling"][""]["mean"][0], facts["scaling"][""]["std"][0]

    def targets(windows: Any) -> list[list[int]]:
        _, future, unit = windows.gather(np.arange(len(windows)))
        assert unit == pytest.approx(std)
        return np.rint(future[:, :, 0] * std + mean).astype(int).tolist()

    assert targets(train) == [[row, row + 1] for row in range(4, 14)]
    assert targets(validation) == [[row, row + 1] for row in range(15, 19)]
    past, _, _ = validation.gather(np.array([0]))
    assert np.rint(past[0, :, 0] * std + mean).tolist() == [11, 12, 13, 14]


def test_several_series_each_have_their_own_scale(prepared: Prepare, tmp_path: Path) -> None:
    facts = prepared({"data/a.csv": csv_of(12), "data/b.csv": csv_of(12, offset=100.0)})
    means = [facts["scaling"][f"data/{name}.csv"]["mean"][0] for name in "ab"]
    assert means[1] - means[0] == pytest.approx(100.0)
    train = open_series(tmp_path / "out", "train", window=4, horizon=2)
    past, _, _ = train.gather(np.arange(len(train)))
    assert np.array_equal(
        past[: len(past) // 2], past[len(past) // 2 :]
    )  # no window crosses from one to the other


def test_a_column_may_name_the_series(prepared: Prepare) -> None:
    rows = "".join(f"{name},{row}\n" for row in range(12) for name in "uv")
    facts = prepared({"data/all.csv": b"who,y\n" + rows.encode()}, series="who")
    assert list(facts["scaling"]) == ["u", "v"]


def test_a_known_model_keeps_its_scaling(prepared: Prepare) -> None:
    scaling = {"data/a.csv": {"mean": [5.0], "std": [2.0]}}
    facts = prepared({"data/a.csv": csv_of(12), "data/b.csv": csv_of(12)}, known(scaling))
    assert facts["scaling"]["data/a.csv"] == scaling["data/a.csv"]
    assert list(facts["scaling"]) == ["data/a.csv", "data/b.csv"]
    other = prepared({}, known(scaling, targets=["x"]))
    assert (
        other["scaling"]["data/a.csv"] != scaling["data/a.csv"]
    )  # of another column: it is told, and not used


def test_a_constant_column_has_the_unit_one(prepared: Prepare) -> None:
    facts = prepared({"data/a.csv": b"y\n" + b"7\n" * 12})
    assert facts["scaling"][""] == {"mean": [7.0], "std": [1.0]}


def test_parquet_is_read_as_csv_is(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"y": list(range(12)), "other": ["a"] * 12}), file)
    from_parquet = prepared({"data/a.parquet": file.getvalue()}, files=("data/a.parquet",))
    from_csv = prepared({"data/a.csv": csv_of(12)}, files=("data/a.csv",))
    assert from_parquet == from_csv
    with pytest.raises(DataError, match=r"data/a\.parquet is no readable Parquet file"):
        prepared({"data/a.parquet": b"PAR1 not really"}, files=("data/a.parquet",))
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tables.ParquetMissingError) as caught:
        prepared({"data/b.parquet": file.getvalue()}, files=("data/b.parquet",))
    assert "pip install pyarrow" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("data", "keys", "said"),
    [
        (b"y\n1\n\n2\nnan\n", {}, r"data/a\.csv: row 3 has 'nan' in the column 'y'"),
        (b"y\n1\n\n,\n", {}, r"line 4 has 2 fields, and the header has 1"),
        (b"y,z\n1,\n", {"targets": ("z",)}, r"row 1 has '' in the column 'z'"),
        (b"x\n1\n", {}, r"has no column 'y' \(data\.targets, y\); it has 'x'"),
        (b"y,y\n1,2\n", {}, "more than one column 'y'"),
        (b"", {}, "has no column 'y'"),
        (b"y\n", {}, "has no rows"),
        (b'y\n"1\n', {}, "is no CSV"),
        (b"y\n\xff\n", {}, "is not UTF-8 text: byte 2 is 0xff"),
        (csv_of(7), {}, "has 7 rows, of which 5 are to learn from; a sample takes 6"),
        (b"t,y\n2,1\n1,1\n", {"time": "t"}, "times must rise, and '1' .value 2 of the series"),
        (b"t,y\nsoon,1\n", {"time": "t"}, "'soon' is neither a number nor an ISO date"),
    ],
)
def test_what_is_wrong_is_named(prepared: Prepare, data: bytes, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepared({"data/a.csv": data}, **keys)


@pytest.mark.parametrize(
    ("times", "following"),
    [
        (["1", "2.5", "4"], ["5.5", "7"]),
        (["2024-11", "2024-12"], ["2025-01-01", "2025-02-01"]),
        (["2024-01-15", "2024-04-15", "2024-07-15"], ["2024-10-15", "2025-01-15"]),
        (["2024-01-05", "2024-01-06", "2024-01-09", "2024-01-10"], ["2024-01-11", "2024-01-12"]),
        (["2024-01-01T23:00"], ["2024-01-01T23:00:00"] * 2),
    ],
)
def test_the_times_that_follow(times: list[str], following: list[str]) -> None:
    assert [shown_time(time) for time in next_times(parse_times(times, "s"), 2)] == following
