"""What rewritten commits and tags keep byte for byte, and what they lose."""

SIGNATURE = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQEzBAABCAAdFiEE\n =abcd\n -----END PGP SIGNATURE-----"
FOREIGN = ("encoding ISO-8859-1", "change-id zxywvu", "HG:extra branch:default\n more")
MESSAGE = b"caf\xe9, no line feed at the end"


def without_names(commit: bytes) -> bytes:
    """A commit or tag without the lines that name other objects."""
    head, gap, message = commit.partition(b"\n\n")
    kept = [line for line in head.split(b"\n") if not line.startswith((b"tree ", b"parent ", b"object "))]
    return b"\n".join(kept) + gap + message


def test_every_other_byte_stays(history, run):
    first = history.commit({"m.bin": b"weights"}, message=MESSAGE, headers=FOREIGN, ref="refs/heads/main")
    odd = b"tree %b\nparent %b\nauthor A <a@b> 1 +051800\ncommitter  <> 99999999999 -0000\n\n"
    content = odd % (history.tree({"m.bin": b"w"}).encode(), first.encode()) + b"nul\0 inside\n"
    second = history.put("commit", content, "refs/heads/main")
    tag = history.tag(second, "commit", "v1", b"caf\xe9\n")
    history.git("reset", "-q", "--hard")
    done = run(history, "git", "*.bin")
    for old in (first, second):
        assert done.commits[old] != old
        assert without_names(history.raw(old)) == without_names(history.raw(done.commits[old]))
    assert f"parent {done.commits[first]}".encode() in history.raw(done.commits[second])
    new_tag = history.refs()["refs/tags/v1"]
    assert without_names(history.raw(new_tag, "tag")) == without_names(history.raw(tag, "tag"))
    assert done.unsigned == ()


def test_a_commit_before_the_first_model_stays_itself_and_signed(history, run):
    before = history.commit({"a.txt": b"a"}, headers=(SIGNATURE, *FOREIGN))
    signed = history.commit(
        {"m.bin": b"weights"}, before, headers=(SIGNATURE, *FOREIGN), ref="refs/heads/main"
    )
    history.git("reset", "-q", "--hard")
    done = run(history, "git", "*.bin")
    assert done.commits[before] == before
    new = history.raw(done.commits[signed])
    assert b"gpgsig" not in new and b"PGP" not in new
    assert all(header.encode() in new for header in FOREIGN)
    assert done.unsigned == (signed,)
    assert (done.examined, done.rewritten) == (2, 1)


def test_a_signed_tag_loses_its_signature_and_nothing_else(history, run):
    commit = history.commit({"m.bin": b"weights"}, ref="refs/heads/main")
    text = "release\n\n-----BEGIN PGP SIGNATURE-----\nin the text\n"
    for name, kind in (("pgp", "PGP SIGNATURE"), ("ssh", "SSH SIGNATURE"), ("x509", "SIGNED MESSAGE")):
        block = f"-----BEGIN {kind}-----\nabc\n-----END {kind}-----\n"
        history.tag(commit, "commit", name, (text + block).encode())
    nested = history.tag(history.refs()["refs/tags/pgp"], "tag", "nested")
    history.git("reset", "-q", "--hard")
    tags = {ref: oid for ref, oid in history.refs().items() if ref.startswith("refs/tags/")}
    done = run(history, "git", "*.bin")
    for name in ("pgp", "ssh", "x509"):
        made = history.raw(f"refs/tags/{name}", "tag")
        assert made.endswith(b"\n\n" + text.encode())
        assert tags[f"refs/tags/{name}"] in done.unsigned
    assert nested not in done.unsigned
    assert history.git("rev-parse", "nested^{commit}").strip() == done.commits[commit]
    history.git("fsck", "--strict", "--no-dangling")


def test_a_merged_tag_goes_only_where_it_names_a_rewritten_commit(history, run):
    root = history.commit({"a.txt": b"a"})
    plain = history.commit({"a.txt": b"b"}, root)
    model = history.commit({"m.bin": b"weights"}, root)

    def merged(target: str) -> str:
        return f"mergetag object {target}\n type commit\n tag v\n tagger T <t@t> 1 +0000\n \n text"

    files = {"a.txt": b"b", "m.bin": b"weights"}
    merge = history.commit(files, model, plain, headers=(merged(plain),))
    other = history.commit(files, merge, model, headers=(merged(model), *FOREIGN), ref="refs/heads/main")
    history.git("reset", "-q", "--hard")
    done = run(history, "git", "*.bin")
    assert merged(plain).encode() in history.raw(done.commits[merge])
    assert b"mergetag" not in history.raw(done.commits[other])
    assert FOREIGN[2].encode() in history.raw(done.commits[other])
    assert done.unsigned == (other,)


def test_modes_and_names_that_git_no_longer_writes_stay(history, run):
    """Old trees have group-writable files and padded modes; only what is named may change in them."""
    blob, model = history.put("blob", b"x"), history.put("blob", b"weights")
    inner = history.put("tree", b"100664 old.bin\0" + bytes.fromhex(model))
    tree = b"100664 a.txt\0" + bytes.fromhex(blob) + b"040000 in\0" + bytes.fromhex(inner)
    root = history.put("tree", tree)
    who = b"A <a@b> 1 +0000"
    content = b"tree %b\nauthor %b\ncommitter %b\n\nx\n" % (root.encode(), who, who)
    old = history.put("commit", content, "refs/heads/main")
    history.git("reset", "-q", "--hard")
    done = run(history, "git", "*.bin")
    made = history.raw(f"{done.commits[old]}^{{tree}}", "tree")
    assert b"100664 a.txt\0" in made and b"040000 in\0" in made
    assert history.files(done.commits[old])["in/old.bin"][1] == b"weights"
    assert history.models(done.commits[old]) == {"in/old.bin"}
    run(history, "export", "*.bin")
    assert history.refs()["refs/heads/main"] == old
