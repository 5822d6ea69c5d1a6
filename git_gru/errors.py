"""The one family of expected errors.

A `GruError` is a sentence for the user: what is wrong, in which file or key, and (as `hint`) what to do. Specific errors
stand beside the code that raises them and derive from the classes here; `cli/boundary.py` alone turns them into text and
exit codes. Anything else that escapes is a bug and is reported as one.

Exit codes (docs/exit-codes.md):

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | the command ran, and its answer is "no": conflicts, a pattern that was not there |
| 2 | wrong usage: unknown option, missing argument |
| 3 | a bug in git-gru: a log file holds the traceback |
| 4 | the input or the repository does not allow it: not a repository, bad recipe, dirty worktree |
| 5 | stored data is missing or damaged: chunk, manifest, store |
| 6 | the machine does not allow it: disk full, no permission, a program missing |
| 7 | a training run failed |
| 8 | a training run diverged, and the guard stopped it |
| 130 | interrupted by Ctrl-C |
"""


class GruError(Exception):
    """An expected failure, told as a sentence. `hint` says what to do, also as a sentence."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(GruError):
    """What the user gave (a file, a recipe, a revision, the state of the worktree) does not allow it."""


class StoreError(GruError):
    """Stored data is missing or damaged."""

    exit_code = 5


class MachineError(GruError):
    """The machine does not allow it: disk full, no permission, a program missing."""

    exit_code = 6


class RunFailedError(GruError):
    """A training run failed."""

    exit_code = 7


class RunDivergedError(RunFailedError):
    """A training run went wrong by itself: losses, gradients or weights that are no numbers, or grow beyond all measure."""

    exit_code = 8
