"""The launcher's process stays free of torch, and says what to install where there is none."""

import subprocess
import sys

import pytest

from git_gru.train import plan


def test_importing_the_train_verbs_does_not_import_torch() -> None:
    script = (
        "import sys\n"
        "import git_gru.cli.train, git_gru.cli.eval, git_gru.cli.sample, git_gru.cli.runs, git_gru.cli.demo\n"
        "import git_gru.cli.convert\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(plan.TorchMissingError) as caught:
        plan.require_torch()
    assert caught.value.exit_code == 6
    assert "pip install torch" in str(caught.value.hint)
