import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.git.attributes import (
    PatternError,
    patterns_in,
    quote_pattern,
    split_line,
    track,
    tracked_files,
    tracked_patterns,
    untrack,
)

LINE = "filter=gru diff=gru merge=gru -text"


def test_track_writes_lines_once(tmp_path):
    assert track(tmp_path, ["*.safetensors", "*.pt", "*.pt"]) == (["*.safetensors", "*.pt"], [])
    assert track(tmp_path, ["*.pt"]) == ([], ["*.pt"])
    assert (tmp_path / ".gitattributes").read_text() == f"*.safetensors {LINE}\n*.pt {LINE}\n"


def test_track_keeps_what_stands_there(tmp_path):
    file = tmp_path / ".gitattributes"
    file.write_bytes(b"*.txt text\r\n# caf\xe9\n*.bin binary")
    track(tmp_path, ["*.pt"])
    assert file.read_bytes() == b"*.txt text\r\n# caf\xe9\n*.bin binary\n*.pt " + LINE.encode() + b"\n"
    untrack(tmp_path, ["*.pt"])
    assert file.read_bytes() == b"*.txt text\r\n# caf\xe9\n*.bin binary\n"


def test_untrack_takes_only_its_own_words(tmp_path):
    file = tmp_path / ".gitattributes"
    file.write_text(f"*.pt {LINE} gru-merge=ties\n*.pt eol=lf\n")
    assert untrack(tmp_path, ["*.pt", "*.no"]) == (["*.pt"], ["*.no"])
    assert file.read_text() == "*.pt gru-merge=ties\n*.pt eol=lf\n"


def test_untrack_deletes_a_file_left_empty(tmp_path):
    track(tmp_path, ["a b.pt"])
    untrack(tmp_path, ["a b.pt"])
    assert not (tmp_path / ".gitattributes").exists()


def test_untrack_leaves_an_empty_file_that_git_knows(repo, make_arrays):
    """`git add --renormalize .`, which the user is told to do next, fails on a file that has gone."""
    repo.write("a.safetensors", make_arrays(1))
    repo.commit("first")
    untrack(repo.path, [found.pattern for found in tracked_patterns(repo.repository)], repo=repo.repository)
    assert repo.read(".gitattributes") == b""
    repo.git("add", "--renormalize", ".")
    assert repo.git("cat-file", "-s", ":a.safetensors").strip() == str(len(repo.read("a.safetensors")))


@pytest.mark.parametrize("pattern", ["", "a\nb", "!*.pt"])
def test_patterns_that_git_would_not_take(tmp_path, pattern):
    with pytest.raises(PatternError):
        track(tmp_path, [pattern])
    assert not (tmp_path / ".gitattributes").exists()


@pytest.mark.parametrize(
    "line", ["", "  ", "# note", "[attr]gru filter=gru", '"unclosed filter=gru', '"bad \\q" filter=gru']
)
def test_lines_without_a_pattern(line):
    assert split_line(line) is None


def test_octal_escapes_as_git_writes_them():
    assert split_line('"gr\\303\\266\\303\\237e *.pt"\tfilter=gru') == ("größe *.pt", ["filter=gru"])


@given(st.text(st.characters(blacklist_characters="\n\r\0", blacklist_categories=("Cs",)), min_size=1))
def test_quoting_is_undone_by_reading(pattern):
    if (
        pattern.startswith(("!", "[attr]"))
        or pattern != pattern.strip()
        or any(c in "\x0b\x0c\x1c\x1d\x1e\x85" for c in pattern)
    ):
        return
    assert split_line(f"{quote_pattern(pattern)} {LINE}") == (pattern, LINE.split())


@pytest.mark.parametrize("name", ["with space.pt", "#hash.pt", '"quoted" x.pt', "tab\there.pt", "größe.pt"])
def test_git_understands_the_quoting(plain_repo, name):
    track(plain_repo.path, [name])
    plain_repo.write(name, b"x")
    plain_repo.write("other.pt", b"x")
    assert tracked_files(plain_repo.repository, others=True) == [name]


def test_tracked_patterns_of_all_files_with_their_places(repo):
    repo.write("sub folder/.gitattributes", f"# models\n*.pt {LINE}\n*.x -filter\n".encode())
    (repo.path / ".git" / "info").mkdir(exist_ok=True)
    repo.write(".git/info/attributes", b"*.onnx filter=gru\n")
    found = [
        (p.pattern, str(p.file.relative_to(repo.path)), p.line) for p in tracked_patterns(repo.repository)
    ]
    assert found == [
        ("*.onnx", ".git/info/attributes", 1),
        ("*.safetensors", ".gitattributes", 1),
        ("*.pt", "sub folder/.gitattributes", 2),
    ]


def test_tracked_files_below_a_folder(repo):
    for name in ("a.safetensors", "in/b.safetensors", "in/c.txt"):
        repo.write(name, b"x")
    assert tracked_files(repo.repository, others=True) == ["a.safetensors", "in/b.safetensors"]
    assert tracked_files(repo.repository, repo.path / "in", others=True) == ["in/b.safetensors"]
    assert tracked_files(repo.repository) == []


def test_no_file_no_patterns(tmp_path):
    assert patterns_in(tmp_path / ".gitattributes") == []
