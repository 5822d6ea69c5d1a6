"""An evaluation in a process of its own: `python -m git_gru.train.evaluator REQUEST ANSWER`, both JSON files.

For models whose task is code of the commit: it is imported here, never in the CLI's process.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from git_gru.errors import GruError, InputError, RunFailedError
from git_gru.git.repository import Repository


def evaluate_apart(repo: Repository, **request: Any) -> dict[str, Any]:
    """The fields of the `Evaluation` that `evaluate.evaluate_here` gives for the same arguments, found by a child process.

    Raises `InputError` for what is wrong with the request, `RunFailedError` with what the commit's code said.
    """
    with tempfile.TemporaryDirectory(prefix="git-gru-eval-") as folder:
        question, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        question.write_text(json.dumps({"repository": str(repo.top), **request}))
        command = [sys.executable, "-P", "-m", "git_gru.train.evaluator", str(question), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing was said"]
            raise RunFailedError(
                f"evaluating {request['text']} failed in the commit's own code: {said[-1]}",
                hint="What it said:\n" + "\n".join(said[-20:]),
            )
        found: dict[str, Any] = json.loads(answer.read_text())
        if "error" in found:
            raise InputError(found["error"], hint=found["hint"])
        return found


def main() -> None:
    """The child's side."""
    from git_gru.train.evaluate import evaluate_here

    question, answer = map(Path, sys.argv[1:])
    request = json.loads(question.read_text())
    request["overrides"] = tuple(request["overrides"])
    try:
        found = dataclasses.asdict(evaluate_here(Repository.find(Path(request.pop("repository"))), **request))
    except GruError as error:
        found = {"error": str(error), "hint": error.hint}
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
