"""`git-gru merge-driver`, `diff-driver`, `textconv`: the drivers, started by Git for tracked paths.

What a merge did goes to stderr, one line a model; conflicts as one sentence a tensor. Exit status 1 tells
Git that there are conflicts; so does every other failure, and then ours is left as it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from git_gru.cli.boundary import printable, say
from git_gru.errors import InputError
from git_gru.git.drivers import (
    STRATEGY_VARIABLE,
    WEIGHT_VARIABLE,
    ModelText,
    TensorLine,
    diff_pair,
    merge_files,
    merge_rules,
    model_text,
)
from git_gru.git.merging import Counts, ModelMerge, Rules
from git_gru.git.repository import Repository


def merge_driver(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """`merge-driver %O %A %B %L %P`: merges into the file %A. Only `git merge` sets GITHEAD_* variables."""
    if len(argv) != 5:
        raise InputError("merge-driver is for Git to call", hint="Set it up with: git gru install")
    base, ours, theirs, _, path = argv
    repo = Repository.find()
    rules = merge_rules(
        repo,
        merging=any(name.startswith("GITHEAD_") for name in environ),
        strategy=environ.get(STRATEGY_VARIABLE),
        weight=environ.get(WEIGHT_VARIABLE),
    )
    merged = merge_files(repo, Path(base), Path(ours), Path(theirs), path=path, rules=rules)
    for sentence in merge_sentences(path, merged, rules):
        say(sentence, name="git-gru")
    return 1 if merged.conflicts else 0


def merge_sentences(path: str, merged: ModelMerge, rules: Rules) -> list[str]:
    """What is said about a merged model: the conflicts, what was lost, and last the counts."""
    sentences = [f"{path}: conflict: {conflict}; ours was kept" for conflict in merged.conflicts]
    if merged.conflicts:
        sentences.append(
            f"{path}: to take the whole model of one side: git checkout --ours -- {path} (or --theirs), "
            f"then git add {path}"
        )
    if merged.disputed:
        keys = ", ".join(merged.disputed)
        sentences.append(f"{path}: __metadata__ differs on both sides in {keys}; ours was kept")
    if merged.tally.overflowed:
        count = merged.tally.overflowed
        elements = "1 element" if count == 1 else f"{count} elements"
        sentences.append(f"{path}: warning: {elements} became NaN or Inf though all sides are finite")
    return [*sentences, f"{path}: {counts_text(merged.counts, rules)}"]


def counts_text(counts: Counts, rules: Rules) -> str:
    """The counts in words, as in `3 from ours, 2 averaged, 4 unchanged`."""
    parts = [(count, f"from {label}") for count, label in zip(counts.taken, rules.labels, strict=False)]
    parts += [
        (counts.combined, rules.strategy.verb),
        (counts.averaged, "averaged (no common base)"),
        (counts.counted, "counted up"),
        (counts.deleted, "deleted"),
        (counts.conflicts, "in conflict"),
        (counts.unchanged, "unchanged"),
    ]
    return "tensors: " + (", ".join(f"{count} {what}" for count, what in parts if count) or "none")


def diff_driver(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """`diff-driver PATH OLD-FILE OLD-HEX OLD-MODE NEW-FILE NEW-HEX NEW-MODE [NEW-PATH SIMILARITY]`, as Git
    calls it.
    """
    from git_gru.cli.diff_table import show
    from git_gru.git.comparing import compare

    if len(argv) == 1:
        print(printable(f"* Unmerged path {argv[0]}"), flush=True)
        return 0
    pair = diff_pair(argv)
    print(printable(f"diff --git-gru a/{pair.old_path} b/{pair.path}"), flush=True)
    show(compare(pair))
    return 0


def textconv(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """`textconv FILE`: the model in FILE, one tensor a line, so that `git log -p` shows which tensors
    changed.
    """
    if len(argv) != 1:
        raise InputError("textconv is for Git to call", hint="Show a model with: git gru show REV:PATH")
    for text in text_lines(model_text(Path(argv[0]))):
        print(printable(text))
    return 0


def text_lines(model: ModelText) -> list[str]:
    """The lines of textconv."""
    if model.raw_digest is not None:
        return [f"not safetensors: {model.size} bytes, digest {model.raw_digest}"]
    lines = [f"__metadata__ {key}: {value}" for key, value in sorted(model.metadata.items())]
    return [*lines, *map(_tensor_line, model.lines)]


def _tensor_line(line: TensorLine) -> str:
    shape = ", ".join(map(str, line.entry.shape))
    start = f"{line.name}: {line.entry.dtype} [{shape}] {line.digest}"
    summary = line.summary
    if summary is None:
        return f"{start} (not in this store)"
    if not summary.numeric:
        return start
    numbers = f"mean {summary.mean:.6g}, std {summary.std:.6g}, max|x| {summary.max_abs:.6g}"
    odd = f", {summary.nan} NaN, {summary.inf} Inf" if summary.nan or summary.inf else ""
    return f"{start} {numbers}{odd}"
