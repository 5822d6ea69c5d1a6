"""git-gru: ML models as first-class versioned objects in Git.

`git_gru.open_model("REV:PATH")` reads tensors of a committed model; `git_gru.Run` commits what a trainer of your own makes. Kept
free of imports: a Git filter starts with this file on every `git add`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from git_gru.git.opening import OpenModel, open_model
    from git_gru.train.run import Run

__all__ = ["OpenModel", "Run", "open_model"]

_MODULES = {
    "OpenModel": "git_gru.git.opening",
    "open_model": "git_gru.git.opening",
    "Run": "git_gru.train.run",
}

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'git_gru' has no attribute {name!r}")
