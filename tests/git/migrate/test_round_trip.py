"""Import and export of random histories: every commit's files bit for bit, and the original commit ids back."""

import itertools
import struct

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HEADER = b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
MODEL = struct.pack("<Q", len(HEADER)) + HEADER + bytes(range(12))

PATHS = [
    "m.bin",
    "in/m.bin",
    'in/deep er/größe "q".bin',
    "new\nline.bin",
    "\\b*.bin",
    "notes.txt",
    "in/a.txt",
]
ATTRIBUTES = [
    b"", b"\n", b"*.txt text", b"*.txt text\n", b"*.bin -filter\n", b"\xef\xbb\xbf# c\r\n*.bin binary\r\n",
    b"*.bin filter=lfs diff=lfs merge=lfs -text\nm.bin !filter", b"[attr]big filter=lfs\n*.bin big\n",
]  # fmt: skip
CONTENTS = [b"", b"x", MODEL, MODEL[:-1], b"\xff" * 40, b"text\r\n"]
MODES = [0o100644, 0o100755, 0o120000]

files = st.dictionaries(
    st.sampled_from(PATHS), st.tuples(st.sampled_from(MODES), st.sampled_from(CONTENTS)), max_size=4
)
attributes = st.dictionaries(
    st.sampled_from([".gitattributes", "in/.gitattributes"]), st.sampled_from(ATTRIBUTES), max_size=2
)
commits = st.lists(
    st.tuples(
        files,
        attributes,
        st.lists(st.integers(0, 5), max_size=2, unique=True),
        st.sampled_from([b"subject\n", b"", b"no end", b"caf\xe9\n\nbody\n", b"a\0b\n"]),
        st.sampled_from([(), ("encoding ISO-8859-1",), ("change-id zyx", "HG:extra a\n b")]),
    ),
    min_size=1,
    max_size=6,
)
places = itertools.count()


def sane(path, mode, content):
    """A file that Git checks out as it stands in the tree."""
    return mode, b"m.bin" if mode == 0o120000 else content if path.endswith(".bin") else content.replace(
        b"\r", b""
    )


def build(history, made):
    ids: list[str] = []
    for at, (files, attributes, parents, message, headers) in enumerate(made):
        chosen = [ids[parent] for parent in parents if parent < at]
        whole = {**{path: sane(path, *file) for path, file in files.items()}, **attributes}
        ids.append(history.commit(whole, *chosen, message=message, headers=headers))
        history.objects.references.create(f"refs/heads/b{at}", ids[-1])
    tag = history.tag(ids[-1], "commit", "annotated")
    history.tag(tag, "tag", "nested")
    history.tag(history.tree({"m.bin": b"x"}), "tree", "of-a-tree")
    history.objects.references.create("refs/tags/light", ids[0])
    history.git("notes", "add", "-m", "a note", ids[0])
    history.git("notes", "append", "-m", "another", ids[-1])
    history.git("symbolic-ref", "HEAD", f"refs/heads/b{len(ids) - 1}")
    history.git("reset", "-q", "--hard")
    return ids


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commits)
def test_any_history_goes_there_and_back(tmp_path, history_in, run, made):
    history = history_in(tmp_path / str(next(places)))
    ids = build(history, made)
    before = history.refs()
    was = {oid: history.files(oid) for oid in ids}

    done = run(history, "git", "*.bin")
    assert set(ids) == set(done.commits)
    for old in ids:
        new = done.commits[old]
        now = history.files(new)
        filters = history.filters(new)
        regular = {p for p, (mode, data) in now.items() if mode != "120000" and data}
        named = {p for p in regular if p.endswith(".bin") and filters[p] == "gru"}
        assert history.models(new) == named
        old_filters = history.filters(old)
        for path in now.keys() - {".gitattributes"}:  # other files are treated as before
            assert filters[path] == ("gru" if path.endswith(".bin") and path in named else filters[path])
            assert path.endswith(".bin") or filters[path] == old_filters[path]
        now.pop(".gitattributes", None)
        assert now == {path: file for path, file in was[old].items() if path != ".gitattributes"}
        assert history.git("log", "-1", "--format=%an %ae %ad %cn %cd %B", new) == history.git(
            "log", "-1", "--format=%an %ae %ad %cn %cd %B", old
        )
    assert history.git("status", "--porcelain") == ""
    assert set(history.refs()) == set(before)
    assert history.git("notes", "show", done.commits[ids[0]]).startswith("a note\n")
    assert history.git("notes", "show", done.commits[ids[-1]]).endswith("another\n")

    run(history, "export", "*.bin")
    assert history.refs() == before
    assert history.git("status", "--porcelain") == ""
    history.git("fsck", "--no-dangling")


@pytest.mark.slow
def test_every_commit_checks_out_bit_for_bit_with_git(plain_repo, make_arrays, run):
    """Real checkouts through the filter: merges, a rename, an executable, a symbolic link, odd names."""
    work, was = plain_repo, {}

    def commit(message):
        was[work.commit(message)] = {
            str(path.relative_to(work.path)): path.read_bytes()
            for path in work.path.rglob("*")
            if path.is_file() and ".git" not in path.parts
        }

    work.write("a.safetensors", make_arrays(1))
    work.write('in/größe "q"\n.pt', b"\x80\x02raw")
    (work.path / "link.safetensors").symlink_to("a.safetensors")
    commit("first")
    work.git("switch", "-q", "-c", "side")
    work.write("b.safetensors", make_arrays(2))
    (work.path / "b.safetensors").chmod(0o755)
    commit("side")
    work.git("switch", "-q", "main")
    work.git("mv", "a.safetensors", "moved.safetensors")
    work.write("readme.txt", b"text\n")
    commit("renamed")
    work.git("merge", "-q", "-m", "merged", "side")
    commit_id = work.git("rev-parse", "HEAD").strip()
    was[commit_id] = {
        **was[work.git("rev-parse", "HEAD~1").strip()],
        "b.safetensors": work.read("b.safetensors"),
    }
    done = run(work, "git", "*.safetensors", "*.pt")
    assert work.status() == ""
    for old, files in was.items():
        work.git("checkout", "-q", done.commits[old])
        assert work.status() == ""
        present = {
            str(path.relative_to(work.path)): path.read_bytes()
            for path in work.path.rglob("*")
            if path.is_file() and ".git" not in path.parts
        }
        lines = present.pop(".gitattributes").decode().splitlines()
        assert [line.split()[0] for line in lines] == ["*.safetensors", "*.pt"]
        assert present == files
    assert (work.path / "b.safetensors").stat().st_mode & 0o111
    assert (work.path / "link.safetensors").is_symlink()
