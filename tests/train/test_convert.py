"""Checkpoints become safetensors bit for bit, nothing in them is run, and no file is lost."""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from git_gru.cli.boundary import guarded
from git_gru.cli.main import run
from git_gru.errors import InputError, MachineError
from git_gru.formats.dtypes import DTYPES as FORMAT_DTYPES
from git_gru.formats.safetensors import HeaderError
from git_gru.store.ingest import describe
from git_gru.train import convert as converting
from git_gru.train import plan
from git_gru.train.convert import Conversion, TargetError, convert
from git_gru.train.state_dict import DTYPES, MOST_REPEATED, LeftOut, StateDictError
from git_gru.train.torch_file import TorchFileError

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


@pytest.fixture
def made(file: Path) -> Callable[..., tuple[Conversion, dict[str, torch.Tensor]]]:
    """`made(content, legacy=False, **options)`: saves, converts, and loads the result with safetensors' own library."""

    def make(
        content: object, *, legacy: bool = False, **options: Any
    ) -> tuple[Conversion, dict[str, torch.Tensor]]:
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        done = convert(file, **options)
        assert beside(file) == [file.name, done.target.name]
        return done, safetensors.torch.load_file(done.target)

    return make


def beside(file: Path) -> list[str]:
    """All names in the file's folder."""
    return sorted(path.name for path in file.parent.iterdir())


def verb(*args: object) -> int:
    """`git gru convert ARGS`: its exit status."""
    return guarded(lambda: run(["convert", *map(str, args)]), os.environ)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8)

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


# ---- tensors ------------------------------------------------------------------------------------------------------------


def test_every_dtype_comes_through_bit_for_bit(made: Any) -> None:
    random = torch.Generator().manual_seed(0)

    def bits(dtype: torch.dtype) -> torch.Tensor:
        most = 2 if dtype is torch.bool else 256
        count = 3 * dtype.itemsize
        return torch.randint(0, most, (count,), generator=random, dtype=torch.uint8).view(dtype)

    tensors = {name: bits(dtype) for dtype, name in DTYPES.items()}
    done, loaded = made(tensors)
    assert done.tensors == len(DTYPES) == len(loaded)
    assert all(same_bits(tensor, loaded[name]) for name, tensor in tensors.items())
    assert set(DTYPES.values()) <= set(FORMAT_DTYPES)
    assert done.left_out == done.tied == done.keys == ()


def test_the_format_before_the_archive(made: Any) -> None:
    tensors = {
        **WEIGHTS,
        "flags": torch.tensor([True, False]),
        "half": torch.ones(3).half(),
        "tied": WEIGHTS["w"],
    }
    done, loaded = made(tensors, legacy=True)
    assert all(same_bits(tensor, loaded[name]) for name, tensor in tensors.items())
    assert done.tied == (("w", "tied"),)


def test_shapes_and_strides(made: Any) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "transposed": base.T,
        "slice": base[1:, ::2],
        "expanded": torch.ones(1).expand(5),
        "conjugate": torch.randn(2, 2, dtype=torch.complex64).conj(),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    done, loaded = made(tensors)
    assert all(same_bits(tensor, loaded[name]) for name, tensor in tensors.items())
    assert done.tied == ()


def test_the_file_is_one_that_git_gru_keeps_as_tensors(made: Any) -> None:
    tensors = {"flags": torch.ones(3, dtype=torch.bool), "half": torch.ones(3, dtype=torch.half), **WEIGHTS}
    done, _ = made(tensors)
    with open(done.target, "rb") as source:
        described = describe(source, expect_safetensors=True)
    assert described.warning is None
    assert list(described.manifest.tensors) == ["w", "b", "half", "flags"], (
        "wide ones first, so that all are aligned"
    )
    assert described.manifest.size == done.size == done.target.stat().st_size


def test_tied_tensors_are_written_for_each_name_and_kept_once(made: Any) -> None:
    flat = torch.arange(12.0)
    tensors = {
        "embedding": WEIGHTS["w"],
        "head": WEIGHTS["w"],
        "a": flat[:6],
        "b": flat[6:],
        "c": WEIGHTS["w"][0],
    }
    done, loaded = made(tensors)
    assert done.tied == (("embedding", "head"),)
    assert all(same_bits(tensor, loaded[name]) for name, tensor in tensors.items())
    with open(done.target, "rb") as source:
        entries = describe(source, expect_safetensors=True).manifest.tensors
    assert entries["embedding"].chunks == entries["head"].chunks


def test_an_archive_that_was_compressed_is_not_mapped(file: Path) -> None:
    plain = io.BytesIO()
    torch.save({"w": torch.zeros(10_000), "v": torch.arange(10_000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    loaded = safetensors.torch.load_file(convert(file).target)
    assert torch.equal(loaded["v"], torch.arange(10_000))


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
        (torch.ones(2, device="meta"), "no data"),
        (torch.ones(1).expand(MOST_REPEATED // 4 + 1), "would take 67,108,868 bytes"),
    ],
)
def test_a_tensor_that_safetensors_cannot_take_is_named(tensor: Any, why: str, made: Any, file: Path) -> None:
    with pytest.raises(StateDictError, match=f"the tensor 'odd' .*{why}"):
        made({"fine": torch.ones(2), "odd": tensor})
    assert not file.with_suffix(".safetensors").exists()


@pytest.mark.parametrize("name", ["\ud800", "__metadata__"])
def test_a_name_that_safetensors_cannot_take(name: str, made: Any) -> None:
    with pytest.raises(HeaderError, match="name"):
        made({name: torch.ones(2)})


# ---- which state dict ---------------------------------------------------------------------------------------------------

OPTIMIZER = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}},
    "param_groups": [{"lr": 0.1}],
}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (WEIGHTS, ()),
        (OrderedDict(WEIGHTS), ()),
        ({"state_dict": WEIGHTS, "model": {"x": torch.ones(1)}}, ("state_dict",)),
        ({"model": {"state_dict": WEIGHTS}}, ("model", "state_dict")),
        ({"optimizer": OPTIMIZER, "model": WEIGHTS, "step": torch.tensor(5)}, ("model",)),
        ({"model": {"layers": 2}, "model_state_dict": WEIGHTS}, ("model_state_dict",)),
    ],
)
def test_the_state_dict_is_found(content: object, keys: tuple[str, ...], made: Any) -> None:
    done, loaded = made(content)
    assert done.keys == keys
    assert loaded.keys() == WEIGHTS.keys()


def test_what_is_left_out_is_told(made: Any) -> None:
    done, loaded = made(
        {
            "epoch": 3,
            "model": {**WEIGHTS, "version": 1, "extra": {"t": torch.ones(1)}},
            "optimizer": OPTIMIZER,
        }
    )
    assert loaded.keys() == WEIGHTS.keys()
    assert done.left_out == (
        LeftOut(name="epoch", what="int"),
        LeftOut(name="optimizer", what="dict with 2 tensors"),
        LeftOut(name="model.version", what="int"),
        LeftOut(name="model.extra", what="dict with 1 tensor"),
    )


def test_keys_choose(made: Any) -> None:
    content = {"model": {"x": torch.ones(1)}, "ema": {"inner": WEIGHTS}}
    done, loaded = made(content, keys=("ema", "inner"))
    assert (done.keys, loaded.keys()) == (("ema", "inner"), WEIGHTS.keys())


@pytest.mark.parametrize(
    ("content", "keys", "said", "hint"),
    [
        ({"a": WEIGHTS, "n": 1}, (), "none of its entries is a tensor", "choose with --key: a."),
        ({"n": 1}, (), "none of its entries is a tensor", None),
        ({"a": WEIGHTS}, ("b",), "has no key 'b'", "It has: a."),
        ({"a": {"w": torch.ones(1), "c": 1}}, ("a", "b"), "a has no key 'b'", "It has: w, c."),
        ({"a": 1}, ("a",), r"a is no state dict \(int\)", None),
        (torch.ones(2), (), r"is no state dict \(Tensor\)", None),
        ([WEIGHTS], (), r"is no state dict \(list with 2 tensors\)", None),
        ({0: torch.ones(2)}, (), "a key in it is int", None),
    ],
)
def test_no_state_dict(content: Any, keys: Any, said: str, hint: str | None, made: Any) -> None:
    with pytest.raises(StateDictError, match=said) as caught:
        made(content, keys=keys)
    assert (caught.value.hint or "").endswith(hint or "")


def test_a_dict_that_holds_itself_ends(made: Any) -> None:
    content: dict[str, Any] = dict(WEIGHTS)
    content["model"] = content
    content["list"] = [content]
    _, loaded = made(content)
    assert loaded.keys() == WEIGHTS.keys()


# ---- nothing is run -----------------------------------------------------------------------------------------------------


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["archive", "legacy", "pickle"])
def test_a_hostile_file_runs_nothing(
    kind: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = file.with_name("was-run")
    content = {"w": torch.ones(2), "x": Hostile(f"touch {marker}")}
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Hostile(f"touch {marker}"), protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "archive")
    assert verb(file) == 4
    said = capsys.readouterr().err
    assert not marker.exists()
    assert not file.with_suffix(".safetensors").exists()
    assert "asks for posix.system, and git-gru never runs code" in said
    assert "Traceback" not in said and "weights_only" not in said
    assert "hint: " in said
    pickle.loads(pickle.dumps(Hostile(f"touch {marker}")))
    assert marker.exists(), "the payload works"


def test_a_pickled_network_names_the_classes_that_it_asks_for(file: Path) -> None:
    torch.save({"net": torch.nn.GRU(2, 3), "when": torch.nn.Linear(1, 1)}, file)
    with pytest.raises(
        TorchFileError, match=r"asks for torch\.nn\.modules\.\S+, torch\.nn\.modules\.\S+, and"
    ) as caught:
        convert(file)
    assert "torch.save(model.state_dict()" in str(caught.value.hint)


# ---- files that are not what they should be -----------------------------------------------------------------------------


def saved(*, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.arange(1000.0)}, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 100, 0.5, -200, -22, -1])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_refused(kept: float, legacy: bool, file: Path) -> None:
    whole = saved(legacy=legacy)
    file.write_bytes(whole[: int(len(whole) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(TorchFileError, match="damaged, cut short") as caught:
        convert(file)
    assert caught.value.hint
    assert beside(file) == [file.name]


@pytest.mark.parametrize("content", [b"a text\n" * 99, b"\x80\x04N.", b"PK\3\4" + bytes(99), bytes(5000)])
def test_another_kind_of_file_is_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(InputError):
        convert(file)


def test_a_torchscript_program_is_refused(file: Path) -> None:
    file.write_bytes(saved())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/constants.pkl", b"")
    with pytest.raises(TorchFileError, match="is a TorchScript program"):
        convert(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(TorchFileError, match="there is no file"):
        convert(file)
    with pytest.raises(TorchFileError, match="is not a file"):
        convert(file.parent, file)


# ---- the new file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(file: Path) -> Path:
    file.write_bytes(saved())
    return file.with_suffix(".safetensors")


def test_a_file_that_is_there_is_replaced_only_by_force(file: Path, target: Path) -> None:
    target.write_bytes(b"precious")
    with pytest.raises(TargetError, match="is there already"):
        convert(file)
    assert target.read_bytes() == b"precious"
    convert(file, force=True)
    assert torch.equal(safetensors.torch.load_file(target)["w"], torch.arange(1000.0))


def test_a_file_that_comes_meanwhile_is_not_replaced(file: Path, target: Path) -> None:
    with pytest.raises(TargetError, match="is there already"):
        convert(file, progress=lambda done, every: target.write_bytes(b"precious") and None)
    assert target.read_bytes() == b"precious"
    assert beside(file) == [file.name, target.name]


def test_an_interruption_leaves_nothing_behind(file: Path, target: Path) -> None:
    def interrupted(done: int, every: int) -> None:
        assert (done, len(beside(file))) == (every, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(file, progress=interrupted)
    assert beside(file) == [file.name]


def test_a_disk_that_is_too_small(file: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 4000}))
    with pytest.raises(MachineError, match="would take 4,"):
        convert(file)
    assert not target.exists()


def test_other_targets_that_cannot_be(file: Path, target: Path) -> None:
    before = file.read_bytes()
    for out, said in (
        (file, "is the checkpoint itself"),
        (file.parent, "is a folder"),
        (file.parent / "none" / "out.safetensors", "there is no folder"),
    ):
        with pytest.raises(TargetError, match=said):
            convert(file, out, force=True)
    with pytest.raises(TargetError, match="nothing to convert"):
        convert(target, file)
    assert file.read_bytes() == before


# ---- the verb -----------------------------------------------------------------------------------------------------------


def test_json_and_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"step": 3, "model": {"a": WEIGHTS["w"], "b": WEIGHTS["w"]}}, file)
    out = file.with_name("out.safetensors")
    assert verb(file, out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "source": str(file),
        "target": str(out),
        "keys": ["model"],
        "size": out.stat().st_size,
        "tensors": 2,
        "tied": [["a", "b"]],
        "left_out": [{"name": "step", "what": "int"}],
    }
    assert verb(file, out, "--force", "--key", "model") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 2 tensors, {out.stat().st_size} B, the state dict at model",
        "tied, and written for each name: a, b",
        "left out: step (int)",
    ]
    assert verb(file, "--key", "step") == 4


def test_without_torch_it_says_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    assert verb(file) == 6
    assert "pip install torch" in capsys.readouterr().err
