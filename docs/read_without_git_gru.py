"""Writes out a model that git-gru keeps, without git-gru: with git, numpy, safetensors and zstandard alone.

    python read_without_git_gru.py REPOSITORY REV:PATH OUTPUT

docs/format.md explains every step. Ids are not verified here (that would take the package `blake3`).
"""

import json
import subprocess
import sys

import numpy as np
import zstandard
from safetensors.numpy import load

WIDTHS = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "C64": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}
FLOATS = {"F64", "F32", "C64", "F16", "BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def git(folder, *arguments):
    """What git says."""
    return subprocess.run(["git", "-C", folder, *arguments], check=True, stdout=subprocess.PIPE).stdout


def decode(blob, chunk):
    """A chunk's bytes from its blob; `chunk` gives the bytes of its base."""
    meta = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
    width, floats = WIDTHS.get(meta["dtype"], 1), meta["dtype"] in FLOATS
    if int(meta["bytes"]) % width:
        width = 1
    planes = load(blob)
    x = np.zeros(int(meta["bytes"]) // width, f"<u{width}")
    for b in range(width):
        plane = planes.get(f"plane{b}")
        if plane is None:
            plane = np.frombuffer(zstandard.decompress(planes[f"plane{b}.zst"].tobytes()), np.uint8)
        x |= plane.astype(x.dtype) << x.dtype.type(8 * b)
    one, top = x.dtype.type(1), x.dtype.type(8 * width - 1)
    if meta["codec"] == "plain":
        return ((x >> one) | (x << top) if floats else x).tobytes()
    base = np.frombuffer(chunk(meta["base"]), x.dtype)
    keys = ((base << one) | (base >> top) if floats else base) >> x.dtype.type(8 * width - 8)
    z, x = x, np.empty_like(x)
    x[np.argsort(keys, kind="stable")] = (z >> one) ^ (x.dtype.type(0) - (z & one))
    return (base + x).tobytes()


def main(repository, name, output):
    """Writes the model `name` (REV:PATH) of the repository to the file `output`."""
    manifest = json.loads(git(repository, "cat-file", "blob", name))
    common = git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir").decode().strip()
    store = f"{common}/gru/store.git"
    tree = f"refs/gru/store:models/{manifest['digest'][:2]}/{manifest['digest'][2:]}"
    listed = (line.split() for line in git(store, "ls-tree", tree).decode().splitlines())
    blobs = {id: oid for _, _, oid, id in listed}

    def chunk(id):
        return decode(git(store, "cat-file", "blob", blobs[id]), chunk)

    ids = manifest.get("raw")
    if ids is None:
        ids = [manifest["header"], *(id for entry in manifest["tensors"].values() for id in entry["chunks"])]
    with open(output, "wb") as file:
        for id in ids:
            file.write(chunk(id))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: read_without_git_gru.py REPOSITORY REV:PATH OUTPUT")
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # git has said what is wrong
