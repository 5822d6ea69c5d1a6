"""What `git gru revert` and `git gru cherry-pick` share: doing commits one by one, and the report."""

from collections.abc import Sequence
from typing import Any

from git_gru.cli.render import emit_json, human_number, line, plural, table
from git_gru.errors import GruError
from git_gru.git.repository import Repository
from git_gru.git.reverting import Applied, ModelEffect, Verb, apply_commit, expand

_DONE: dict[Verb, str] = {"revert": "reverted", "cherry-pick": "picked"}


def apply_all(verb: Verb, words: Sequence[str], mainline: int | None, as_json: bool) -> int:
    """Does the commits in order and reports each; an error names those that were not reached."""
    repo = Repository.find()
    commits = expand(repo, verb, words)
    done: list[Applied] = []
    for index, commit in enumerate(commits):
        try:
            applied = apply_commit(repo, verb, commit, mainline=mainline)
        except GruError as error:
            rest = [left[:12] for left in commits[index + 1 :]]
            if rest:
                error.hint = f"{error.hint or ''} Not done yet: {', '.join(rest)}.".strip()
            raise
        done.append(applied)
        if not as_json:
            _show(verb, applied)
    if as_json:
        emit_json({"commits": [_json(applied) for applied in done]})
    return 0


def _show(verb: Verb, applied: Applied) -> None:
    line(f"{_DONE[verb]} {applied.source[:12]} {applied.subject!r}: commit {applied.commit[:12]}")
    if applied.models:
        table(
            ("model", "tensors", "result"),
            [_row(verb, model) for model in applied.models],
            right=("tensors",),
        )
    for sentence in applied.sentences:
        line(sentence)


def _row(verb: Verb, model: ModelEffect) -> tuple[str, str, str]:
    total = model.exact + model.mixed + model.other
    if model.is_exact:
        before = "as before that commit" if verb == "revert" else "as in that commit"
        return model.path, str(total), f"exact: bit for bit {before}"
    parts = [f"{model.exact} exact"] if model.exact else []
    if model.mixed:
        seen = model.exactness
        kept = f"{seen.kept} of {plural(seen.elements, 'element')}"
        keep = "keeps" if model.mixed == 1 else "keep"
        error = f"{seen.rounded} rounded, error norm {human_number(seen.error_norm)}"
        parts.append(f"{model.mixed} {keep} other changes ({kept}; {error})")
    if model.other:
        parts.append(f"{model.other} counted or merged otherwise")
    return model.path, str(total), f"approximate: {', '.join(parts)}"


def _json(applied: Applied) -> dict[str, Any]:
    return {
        "source": applied.source,
        "commit": applied.commit,
        "subject": applied.subject,
        "notes": list(applied.sentences),
        "models": [
            {
                "path": model.path,
                "is_exact": model.is_exact,
                "exact_tensors": model.exact,
                "mixed_tensors": model.mixed,
                "other_tensors": model.other,
                "elements": model.exactness.elements,
                "elements_kept": model.exactness.kept,
                "elements_rounded": model.exactness.rounded,
                "error_norm": model.exactness.error_norm,
            }
            for model in applied.models
        ],
    }
