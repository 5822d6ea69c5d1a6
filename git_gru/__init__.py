"""git-gru: ML models as first-class versioned objects in Git.

`git_gru.open_model("REV:PATH")` reads tensors of a committed model. Kept free of imports: a Git filter starts with this file on
every `git add`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from git_gru.git.opening import OpenModel, open_model

__all__ = ["OpenModel", "open_model"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from git_gru.git import opening

        return getattr(opening, name)
    raise AttributeError(f"module 'git_gru' has no attribute {name!r}")
