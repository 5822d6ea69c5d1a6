"""Without matplotlib a picture is refused with a sentence."""

from pathlib import Path

import pytest

from git_gru.train import figure


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(figure.MatplotlibMissingError) as caught:
        figure.draw([], tmp_path / "x.png")
    assert "pip install matplotlib" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
