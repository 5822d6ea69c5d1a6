"""Peak memory of git-gru's own process while it cleans and smudges a large model, driven by real Git."""

import sys
from pathlib import Path

from git_gru.formats.safetensors import write_header

PROBE = """
import resource, sys
from git_gru.__main__ import main
sys.argv = ["git-gru", "filter-process"]
try:
    main()
finally:
    open({report!r}, "a").write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) + "\\n")
"""


def large_model(path: Path, gigabytes: int) -> None:
    """Writes a model of noise: tensors of 64 MB, each from its own seed."""
    import numpy as np

    count = gigabytes * 16
    shape = (4096, 4096)
    with open(path, "wb") as file:
        file.write(write_header([(f"layer{i:03d}.weight", "F32", shape) for i in range(count)]))
        for i in range(count):
            weights = np.random.default_rng(i).standard_normal(shape, dtype=np.float32) * 0.05
            file.write(weights.tobytes())


def measure(repository: object, model: Path) -> dict[str, float]:
    """Peak resident memory, in MB, of the filter process in `git add` and `git checkout` of `model`."""
    from benchmarks.peers import Repository

    assert isinstance(repository, Repository)
    report = repository.folder.parent / "memory.txt"
    script = repository.folder.parent / "probe.py"
    script.write_text(PROBE.format(report=str(report)))
    repository.git("config", "filter.gru.process", f"'{sys.executable}' '{script}'")
    found = {}
    for name, work in (
        ("clean", lambda: repository.commit(model, "large")),
        ("smudge", lambda: repository.checkout("HEAD", "large")),
    ):
        report.unlink(missing_ok=True)
        work()
        found[name] = max(int(line) for line in report.read_text().split()) / 1024
    return found
