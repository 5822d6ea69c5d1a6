"""Evaluations as notes: found by their key, replaced, never in the way."""

from typing import Any

from git_gru.git.eval_notes import REF, find_evaluation, keep_evaluation


def test_evaluations_are_found_by_commit_and_key(plain_repo: Any) -> None:
    plain_repo.write("a", b"1")
    first = plain_repo.commit("one")
    plain_repo.write("a", b"2")
    second = plain_repo.commit("two")
    repo = plain_repo.repository
    assert find_evaluation(repo, first, "k") is None
    keep_evaluation(repo, first, "k", {"value": 1})
    keep_evaluation(repo, first, "other", {"value": 2})
    keep_evaluation(repo, first, "k", {"value": 3})
    assert find_evaluation(repo, first, "k") == {"key": "k", "value": 3}
    assert find_evaluation(repo, first, "other") == {"key": "other", "value": 2}
    assert find_evaluation(repo, second, "k") is None
    assert (
        plain_repo.git("log", "-1", "--format=%N", first).strip() == ""
    )  # git log does not show them unasked


def test_a_line_that_is_no_json_does_not_count(plain_repo: Any) -> None:
    plain_repo.write("a", b"1")
    commit = plain_repo.commit("one")
    plain_repo.git("notes", "--ref", REF, "add", "-m", "[" * 9000 + "\n3\nnonsense", commit)
    keep_evaluation(plain_repo.repository, commit, "k", {"value": 1})
    assert find_evaluation(plain_repo.repository, commit, "k") == {"key": "k", "value": 1}
