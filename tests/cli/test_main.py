"""The command line as a whole: registry, help, documents, boundary."""

import errno
import importlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from git_gru import errors
from git_gru.cli.boundary import BUG, INTERRUPTED, guarded, machine_error, tell
from git_gru.cli.main import VERBS, cli, run
from git_gru.cli.render import emit_json, line, plural, table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_what_the_registry_says(name):
    command = importlib.import_module(VERBS[name].module).command
    assert command.name == name
    assert command.get_short_help_str(200) == VERBS[name].summary
    assert command.help.strip()


@pytest.mark.parametrize("name", VERBS)
def test_json_keys_are_documented_where_there_is_json(name):
    command = importlib.import_module(VERBS[name].module).command
    if any("--json" in parameter.opts for parameter in command.params):
        assert "JSON" in command.help.upper()


def test_the_help_lists_every_verb_with_its_summary():
    shown = CliRunner().invoke(cli, ["--help"]).output
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", shown, re.MULTILINE), name


@pytest.mark.parametrize(
    "name", [*VERBS, "runs list", "runs show", "migrate import", "migrate export", "migrate undo"]
)
def test_a_help_page_keeps_its_lines_and_shows_no_mark_of_clicks(name):
    shown = CliRunner().invoke(cli, [*name.split(), "--help"]).output
    assert "\\b" not in shown and "\b" not in shown
    if name == "repack":
        assert re.search(r"^  --json: \{.*packs_after\"\}$", shown, re.MULTILINE)


def test_the_man_page_lists_every_verb():
    page = (ROOT / "docs/man/git-gru.1").read_text()
    listed = re.findall(
        r"^\.B (\S+)", page[page.index(".SH COMMANDS") : page.index(".SH FILES")], re.MULTILINE
    )
    assert listed == list(VERBS)


def test_the_exit_codes_are_documented():
    page = (ROOT / "docs/exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.GruError)
    ]
    assert documented == {0, 1, 2, BUG, INTERRUPTED, *(found.exit_code for found in classes)}


def test_wrong_usage_is_2(capsys):
    assert run(["nope"]) == 2
    assert "No such command 'nope'" in capsys.readouterr().err
    assert run(["ls", "--nope"]) == 2


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("git-gru, version ")


def fail(error: BaseException):
    def action() -> None:
        raise error

    return action


def test_an_expected_error_is_a_sentence_a_hint_and_its_code(capsys):
    error = errors.StoreError("chunk 1234 is missing", hint="Fetch it.")
    assert guarded(fail(error), {}) == 5
    assert capsys.readouterr().err == "git gru: chunk 1234 is missing\nhint: Fetch it.\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_the_machine_refuses_is_6(code, capsys):
    assert guarded(fail(OSError(code, os.strerror(code), "/some/file")), {}) == 6
    told = capsys.readouterr().err
    assert "/some/file" in told
    assert "hint: " in told
    assert "Traceback" not in told


def test_other_errors_of_the_system_are_not_taken_for_refusals():
    assert machine_error(OSError(errno.EBADF, "x")) is None
    assert machine_error(ValueError("x")) is None
    assert machine_error(sqlite3.OperationalError("no such table: x")) is None


def test_refusals_that_come_in_other_clothes():
    assert "memory" in str(machine_error(MemoryError()))
    assert "disk is full" in str(machine_error(sqlite3.OperationalError("database or disk is full")))


def test_a_bug_leaves_a_log_and_is_3(tmp_path, capsys):
    assert guarded(fail(ZeroDivisionError("oh")), {"XDG_STATE_HOME": str(tmp_path)}) == BUG
    (log,) = (tmp_path / "git-gru").iterdir()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(log) in told
    assert "ZeroDivisionError: oh" in told
    assert "in action" in log.read_text()


def test_a_bug_without_a_place_for_its_log_is_still_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert guarded(fail(ZeroDivisionError("oh")), {"XDG_STATE_HOME": str(tmp_path / "file")}) == BUG
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(capsys):
    assert guarded(fail(KeyboardInterrupt()), {}) == INTERRUPTED
    assert capsys.readouterr().err == "git gru: interrupted\n"


def test_a_file_name_outside_utf_8_can_be_told(capsys):
    tell(errors.InputError(f"bad: {os.fsdecode(b'caf' + bytes([0xE9]))}"), {})
    assert capsys.readouterr().err == "git gru: bad: caf\\xe9\n"


def test_a_reader_that_goes_away_is_no_error(repo, make_arrays):
    for seed in range(2):
        repo.write("a.safetensors", make_arrays(seed))
        repo.commit(f"{seed}")
    done = repo.run("sh", "-c", f"{sys.executable} -m git_gru log --json | head -c 1")
    assert (done.stdout, done.stderr) == (b"[", b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_variable_that_the_program_reads(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "_GIT_GRU_COMPLETE=" in capsys.readouterr().out


def test_bash_completes_git_gru_and_its_git_form(tmp_path):
    tool = tmp_path / "git-gru"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m git_gru "$@"\n')
    tool.chmod(0o755)
    script = """
        eval "$(git-gru completion bash)"
        COMPREPLY=(); COMP_WORDS=(git-gru unt); COMP_CWORD=1; _git_gru_completion git-gru; echo "${COMPREPLY[@]}"
        COMPREPLY=(); COMP_WORDS=(git gru unins); COMP_CWORD=2; _git_gru; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-2:] == ["untrack", "uninstall"], done.stderr


HEAVY = {"click", "rich", "numpy", "ml_dtypes", "pyfastcdc", "pygit2", "torch", "safetensors"}


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh Python has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return HEAVY & set(done.stdout.split())


def test_the_filter_starts_without_heavy_imports():
    assert loaded_by("import git_gru.__main__, git_gru.cli.filter_process") == set()


@pytest.mark.parametrize(
    "module", ["git_gru.cli.hook", *sorted({v.module for v in VERBS.values() if v.section != "Train"})]
)
def test_light_verbs_never_import_torch(module):
    assert "torch" not in loaded_by(f"import {module}")


def test_a_click_command_is_what_a_verb_is():
    assert all(isinstance(cli.get_command(click.Context(cli), name), click.Command) for name in VERBS)
    assert cli.get_command(click.Context(cli), "nope") is None


def test_control_characters_never_reach_the_terminal(capsys):
    hostile = "a\x1b[2Jb\x07c\x7fd\x9be\r\n\tf\udcff é"
    shown = r"a\x1b[2Jb\x07c\x7fd\x9be\r\n\tf\xff é"
    line(hostile)
    assert capsys.readouterr().out == f"{shown}\n"
    table((hostile,), [(hostile,)])
    assert capsys.readouterr().out == f"{shown}\n{shown}\n"
    tell(errors.InputError(hostile, hint=hostile), {})
    kept = shown.replace(r"\n", "\n")  # a message may have several lines
    assert capsys.readouterr().err == f"git gru: {kept}\nhint: {kept}\n"
    emit_json([hostile[:-4]])
    assert json.loads(capsys.readouterr().out) == [hostile[:-4]]


def test_a_count_of_one_is_singular():
    assert [plural(n, "model") for n in (0, 1, 2)] == ["0 models", "1 model", "2 models"]
