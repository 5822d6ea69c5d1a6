"""What kind of device a launcher expects its workers to have; what comes of nodes that differ in it: test_elastic."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.devices import device_kind


@pytest.mark.parametrize(
    ("files", "answer", "kind"),
    [
        (["null"], None, "cpu"),
        (["nvidia0", "nvidiactl"], "True\n", "cuda"),
        (["kfd"], "True\n", "cuda"),
        (["nvidia0"], "False\n", "cpu"),
        (["nvidia0"], "", "cpu"),
    ],
)
def test_torch_is_asked_only_where_there_may_be_a_gpu(
    files: list[str], answer: str | None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in files:
        (tmp_path / name).touch()
    asked = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, answer)

    monkeypatch.setattr("git_gru.train.devices._DEVICES", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    assert device_kind("auto") == kind
    assert len(asked) == (answer is not None)
    assert (device_kind("cpu"), device_kind("cuda")) == ("cpu", "cuda")
    assert len(asked) == (answer is not None)
