import pytest

from git_gru.git.run import LOCAL_VARIABLES, GitCommandError
from git_gru.git.talk import Talk


def talk(work) -> Talk:
    return Talk("cat-file", "--batch-command", cwd=work.path, env=LOCAL_VARIABLES)


def test_one_process_answers_many_questions(plain_repo):
    oid = plain_repo.git("hash-object", "-w", "--stdin", input=b"one\0two\n").strip().encode()
    with talk(plain_repo) as found:
        for _ in range(3):
            found.ask(b"contents %b\n" % oid)
            assert found.line() == b"%b blob 8" % oid
            assert found.bytes(9) == b"one\0two\n\n"


def test_a_process_that_ends_is_an_error_with_its_words(plain_repo):
    with talk(plain_repo) as found:
        found.ask(b"nonsense\n")
        with pytest.raises(GitCommandError, match="cat-file failed: unknown command: 'nonsense'"):
            found.line()
        with pytest.raises(GitCommandError, match="cat-file failed"):
            found.ask(b"info HEAD\n")
        with pytest.raises(GitCommandError, match="cat-file failed"):
            found.bytes(1)


def test_a_talk_can_be_left_in_the_middle_of_an_answer(plain_repo):
    oid = plain_repo.git("hash-object", "-w", "--stdin", input=bytes(10_000_000)).strip().encode()
    with talk(plain_repo) as found:
        found.ask(b"contents %b\n" % oid)
        found.line()
