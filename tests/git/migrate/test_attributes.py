import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.git.migrate.attributes import Filters, covered, track_in, untrack_in
from git_gru.git.migrate.trees import Direction, PatternOfAttributesError, Patterns

OURS = b"filter=gru diff=gru merge=gru -text"
LFS = b"filter=lfs diff=lfs merge=lfs -text"


def exactly(*patterns):
    """A `Covers` that takes these patterns alone."""
    return lambda line, folder: line in patterns


lines = st.sampled_from(
    ["", "# caf\xe9", "*.txt text\r", "*.bin -filter", '"a b" binary', "[attr]x filter=x", " "]
)
texts = st.one_of(
    st.none(), st.lists(lines, max_size=4).map(lambda found: "\n".join(found).encode("latin-1"))
)


@given(texts, st.lists(st.sampled_from(["*.bin", "a b.pt", "*.pt"]), min_size=1, unique=True))
def test_what_is_added_is_taken_out_again_exactly(text, patterns):
    added = track_in(text, patterns, exactly(*patterns), b"", lfs=False)
    assert added is not None
    assert added.count(OURS) == len(patterns)
    assert untrack_in(added, exactly(*patterns), b"") == text
    assert track_in(added, patterns, exactly(*patterns), b"", lfs=False) == added


def test_the_line_of_git_lfs_is_replaced_where_it_stands():
    text = b"# models\n*.bin " + LFS + b" lockable\r\nkeep.bin !filter\n*.zip " + LFS
    made = track_in(text, ["*.bin"], exactly("*.bin"), b"", lfs=True)
    assert made == b"# models\n*.bin " + OURS + b" lockable\r\nkeep.bin !filter\n*.zip " + LFS
    other = track_in(text, ["*.bin"], exactly("*.bin"), b"", lfs=False)
    assert other == text + b"\n*.bin " + OURS


def test_deeper_files_get_no_new_lines():
    assert track_in(b"*.txt text\n", ["*.bin"], exactly("*.bin"), b"in/", lfs=True) == b"*.txt text\n"
    assert track_in(b"*.bin " + LFS, ["*.bin"], exactly("*.bin"), b"in/", lfs=True) == b"*.bin " + OURS


def test_words_of_others_stay_when_a_pattern_is_taken_out():
    text = b"*.bin " + OURS + b" gru-merge=ties\n*.pt " + OURS + b"\n"
    assert untrack_in(text, exactly("*.bin"), b"") == b"*.bin gru-merge=ties\n*.pt " + OURS + b"\n"


def test_a_file_that_was_empty_is_empty_again_and_one_that_was_not_there_is_gone():
    for text in (None, b""):
        added = track_in(text, ["*.bin"], exactly("*.bin"), b"", lfs=False)
        assert untrack_in(added, exactly("*.bin"), b"") == text


LINES = [
    "*.bin",
    "big-*.bin",
    "m.bin",
    "/m.bin",
    "in/m.bin",
    "in/*.bin",
    "*",
    "*.bi[n]",
    "in/**/x.bin",
    "m.?in",
    "**",
]
OTHERS = ["*.bin", "m.bin", "in/*.bin", "in/m.bin", "/m.bin", "m*", "*n", "in/**"]
PATHS = [
    b"m.bin", b"in/m.bin", b"in/x.bin", b"in/deep/x.bin", b"in/deep/m.bin", b"big-m.bin", b"in/big-.bin", b"mxbin", b"m.xin",
    b"in/in/m.bin", b"in/deep/in/x.bin", b"notes.txt", b"in/man",
]  # fmt: skip


def test_a_covered_pattern_matches_nothing_that_the_other_does_not():
    """Against Git: for each pair said to be covered, in the top folder and in a deeper one."""
    count = 0
    with Filters() as filters:

        def matched(pattern: str, folder: bytes) -> set[bytes]:
            stack = ((folder, f"{pattern} filter=x".encode()),)
            return {path for path in PATHS if filters.value(stack, path) == "x"}

        for other in OTHERS:
            whole = matched(other, b"")
            for folder in ("", "in/"):
                for line in LINES:
                    if covered(line, folder, other, lambda path: path.encode() in whole):  # noqa: B023
                        count += 1
                        assert matched(line, folder.encode()) <= whole, (line, folder, other)
    assert count > 30


@pytest.mark.parametrize(
    ("line", "folder", "pattern"),
    [
        ("*.bin", "in/", "*.bin"),
        ("big-*.bin", "", "*.bin"),
        ("sub/x.bin", "", "*.bin"),
        ("/*.bin", "in/", "in/*.bin"),
    ],
)
def test_what_people_write_is_covered(line, folder, pattern):
    with Filters() as filters:
        stack = ((b"", f"{pattern} filter=x".encode()),)
        assert covered(line, folder, pattern, lambda path: filters.value(stack, path.encode()) == "x")


def test_only_the_stack_counts(plain_repo, isolated, monkeypatch):
    plain_repo.write(".gitattributes", b"* filter=a\n")
    plain_repo.write(".git/info/attributes", b"* filter=b\n")
    (isolated / "attributes").write_text("* filter=c\n")
    plain_repo.git("config", "--global", "core.attributesFile", str(isolated / "attributes"))
    monkeypatch.chdir(plain_repo.path)
    monkeypatch.setenv("GIT_DIR", str(plain_repo.path / ".git"))
    with Filters() as filters:
        assert filters.value((), b"m.bin") == "unspecified"
        top = (b"", b"[attr]mine filter=m\n*.bin mine\n*.x -filter\n")
        assert filters.value((top,), b"in/new\nline \xe9.bin") == "m"
        assert filters.value((top,), b"a.x") == "unset"
        assert filters.value((top, (b"in/", b"m.bin filter")), b"in/m.bin") == "set"
        for other in range(20):  # more stacks than processes are kept
            assert filters.value(((b"", b"* filter=%d" % other),), b"m") == str(other)
        assert filters.value((top,), b"new.bin") == "m"


@pytest.mark.parametrize("pattern", ["*", ".git*", "**"])
def test_a_pattern_that_would_make_attributes_files_models_is_refused(pattern):
    with Filters() as filters, pytest.raises(PatternOfAttributesError, match="matches .gitattributes"):
        Patterns([pattern], Direction.FROM_GIT, filters)
