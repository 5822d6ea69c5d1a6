"""docs/read_without_git_gru.py gets every version out of a repository's store, deltas included, without git-gru."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from git_gru.store.manifest import Manifest
from git_gru.store.repack import repack
from git_gru.store.store import Store

SCRIPT = Path(__file__).parents[2] / "docs" / "read_without_git_gru.py"
Add = Callable[..., Manifest]


@pytest.mark.slow
def test_every_version_comes_out(
    tmp_path: Path, add: Add, lineage: Callable[..., list[bytes]], file_of: Callable[..., bytes]
) -> None:
    work = tmp_path / "a repository"
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    store = Store.open(work / ".git" / "gru")
    rng = np.random.default_rng(0)
    kinds = {"F64": 8, "BF16": 2, "F8_E4M3": 1, "I64": 8, "BOOL": 1, "C64": 8, "LATER": 1}
    old = {dtype: rng.bytes(320) for dtype in kinds}
    new = {dtype: bytes([data[0] ^ 1]) + data[1:] for dtype, data in old.items()}
    mixed = [
        file_of([(dtype, dtype, [320 // kinds[dtype]], data) for dtype, data in parts.items()])
        for parts in (old, new)
    ]
    contents = [*lineage(4, count=3000), *mixed, b"not a safetensors file"]
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[3::-1], manifests[5:3:-1]], set())
    assert any(row.base for row in store.lookup.rows().values())
    store.close()
    # The model's path holds the manifest, as Git's own tree does after `git add`.
    for at, manifest in enumerate(manifests):
        (work / f"{at}.safetensors").write_bytes(manifest.encode())
    subprocess.run(["git", "-C", work, "add", "--all"], check=True)
    subprocess.run(["git", "-C", work, "commit", "-q", "-m", "models"], check=True)
    forbidden = tmp_path / "sitecustomize.py"
    forbidden.write_text("import sys\nsys.modules['git_gru'] = None\nsys.modules['blake3'] = None\n")
    for at, content in enumerate(contents):
        out = tmp_path / f"out{at}"
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(work), f"HEAD:{at}.safetensors", str(out)],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert out.read_bytes() == content


def test_it_is_short_and_needs_nothing_else() -> None:
    text = SCRIPT.read_text()
    imported = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))
    }
    assert imported == {"json", "subprocess", "sys", "numpy", "zstandard", "safetensors"}
    assert len(text.splitlines()) < 90
