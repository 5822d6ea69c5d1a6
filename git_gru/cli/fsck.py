"""`git gru fsck`."""

from typing import Any

import click

from git_gru.cli.progress import progress_bar
from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.errors import StoreError
from git_gru.git.checking import Checked, check
from git_gru.git.repository import Repository
from git_gru.store.verify import Finding, Kind

_AGAIN = "add the file again where you have it (touch PATH; git add PATH)"
_ADVICE = {
    Kind.MISSING: f"git gru repair looks for its chunks in all packs; else {_AGAIN}",
    Kind.DAMAGED: f"git gru repair mends what is intact elsewhere in the store or on a remote; for the rest, {_AGAIN}",
    Kind.TREE: f"git gru repair makes the trees anew from the chunks that are there; for the rest, {_AGAIN}",
    Kind.PACK: "git gru repair copies what is intact out of it, sets it aside, and fetches the rest from a remote",
}
"""What to do, by what is wrong."""


@click.command("fsck", short_help="Check that all models are there and whole.")
@click.option("--deep", is_flag=True, help="Decode every chunk and compare it with its id.")
@json_option
def command(deep: bool, as_json: bool) -> int:
    """Check the store, and that every model which the repository names is there, complete, or on a remote.

    The remotes are asked for models that are not here. Exit status 5 when anything is missing or damaged, with what to do
    about it (git gru repair mends). Also told: models committed as plain files, and how much git gru gc could free.

    \b
    --json: {"whole": bool, "deep": bool, "models", "chunks", "packs",
             "findings": [{"kind": "pack"|"tree"|"missing"|"damaged", "text", "digest", "chunk", "paths"}],
             "elsewhere": [{"digest", "remote", "paths"}], "unreached": {remote: why}, "plain_files": [{"commit", "path"}],
             "unneeded": {"models", "bytes"}}
    """
    repo = Repository.find()
    with progress_bar("checking") as progress:
        found = check(repo, repo.store(), deep=deep, progress=progress)
    if as_json:
        emit_json(_json(found, deep=deep))
    else:
        _show(found, deep=deep)
    return 0 if found.is_whole else StoreError.exit_code


def _json(found: Checked, *, deep: bool) -> dict[str, Any]:
    verified = found.verified
    return {
        "whole": found.is_whole,
        "deep": deep,
        "models": verified.models,
        "chunks": verified.chunks,
        "packs": verified.packs,
        "findings": [
            {
                "kind": finding.kind.value,
                "text": finding.text,
                "digest": finding.digest,
                "chunk": finding.chunk,
                "paths": list(found.paths.get(finding.digest or "", ())),
            }
            for finding in verified.findings
        ],
        "elsewhere": [
            {"digest": digest, "remote": remote, "paths": list(found.paths.get(digest, ()))}
            for digest, remote in found.elsewhere.remotes.items()
        ],
        "unreached": dict(found.elsewhere.unreached),
        "plain_files": [{"commit": file.commit, "path": file.path} for file in found.plain_files],
        "unneeded": {"models": len(found.unneeded), "bytes": _unneeded_bytes(found)},
    }


def _show(found: Checked, *, deep: bool) -> None:
    verified = found.verified
    what = f"{plural(verified.models, 'model')}, {plural(verified.chunks, 'chunk')}, {plural(verified.packs, 'pack')}"
    line(f"checked {what}{'' if deep else ' (what the chunks hold: with --deep)'}")
    for kind in Kind:
        findings = [finding for finding in verified.findings if finding.kind is kind]
        for text in dict.fromkeys(_sentence(finding, found) for finding in findings):
            line(text)
        if findings:
            line(f"  → {_ADVICE[kind]}")
    if elsewhere := found.elsewhere.remotes:
        line(
            f"{plural(len(elsewhere), 'model')} not here, but on {', '.join(sorted(set(elsewhere.values())))}"
        )
    for remote, why in found.elsewhere.unreached.items():
        line(f"{remote} could not be asked: {why}")
    for file in found.plain_files:
        line(f"{file.path} in {file.commit[:10]} was committed without the filter, as a plain file")
    if found.plain_files:
        line("  → make models of them: git add --renormalize PATH, then commit")
    if found.unneeded:
        count, size = plural(len(found.unneeded), "model"), human_size(_unneeded_bytes(found))
        line(f"{count} that nothing needs ({size}): git gru gc drops them when their grace is over")
    line("whole: nothing is missing or damaged" if found.is_whole else "not whole: see above")


def _sentence(finding: Finding, found: Checked) -> str:
    paths = found.paths.get(finding.digest or "", ())
    where = f"{', '.join(paths)} ({(finding.digest or '')[:12]}): " if paths else ""
    model = f"model {finding.digest[:12]}: " if finding.digest and not paths else ""
    return f"{finding.kind.value}: {where or model}{finding.text}"


def _unneeded_bytes(found: Checked) -> int:
    return sum(model.frees for model in found.unneeded)
