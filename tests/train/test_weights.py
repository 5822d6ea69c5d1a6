"""Weights between network and store: snapshots are copies, loading is exact, misfits are named."""

from pathlib import Path
from typing import Any

import pytest

from git_gru.store.ingest import ingest_tensors
from git_gru.store.store import Store
from git_gru.train.architecture import (
    ArchitectureError,
    architecture_of,
    check_recipe,
    check_same,
    metadata_of,
    parse_architecture,
)
from git_gru.train.recipe import ModelRecipe

torch = pytest.importorskip("torch")


def network(seed: int, **keys: Any) -> Any:
    from git_gru.train.tasks import task_of

    torch.manual_seed(seed)
    return task_of(
        architecture_of(ModelRecipe(**{"embedding": 4, "hidden": 6, **keys}), {"symbols": 256})
    ).build()


@pytest.mark.parametrize("keys", [{}, {"layers": 2}, {"tied": True, "embedding": 6}])
def test_a_snapshot_comes_back_bit_for_bit(keys: dict[str, Any], tmp_path: Path) -> None:
    from git_gru.train.weights import load, snapshot

    store = Store.open(tmp_path)
    first, second = network(1, **keys), network(2, **keys)
    manifest = ingest_tensors(store, snapshot(first, "fp32"), {})
    load(second, store, manifest, where="m")
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert len(manifest.tensors) == len(set(manifest.tensors)) == len(first.state_dict())


def test_a_snapshot_does_not_change_with_the_network() -> None:
    from git_gru.train.weights import snapshot

    model = network(1)
    taken = snapshot(model, "fp32")
    before = [bytes(data) for *_, data in taken]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert [bytes(data) for *_, data in taken] == before


def test_weights_as_kept_are_rounded_only_meanwhile() -> None:
    from git_gru.train.weights import as_kept

    model = network(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with as_kept(model, "bf16"):
        assert all(torch.equal(t, before[name].bfloat16().float()) for name, t in model.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hidden": 7}, r"m#gru.weight_ih_l0 has the shape \[18, 4\], and the network needs \[21, 4\]"),
        ({"layers": 2}, "m has no tensor gru.bias_hh_l1"),
        ({"tied": True, "embedding": 6}, "m has no tensor bias"),
    ],
)
def test_misfits_are_named(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    from git_gru.train.weights import WeightsError, load, snapshot

    store = Store.open(tmp_path)
    manifest = ingest_tensors(store, snapshot(network(1), "fp32"), {})
    with pytest.raises(WeightsError, match=said):
        load(network(1, **keys), store, manifest, where="m")


def test_an_architecture_comes_back_and_differences_are_named() -> None:
    architecture = architecture_of(ModelRecipe(hidden=32), {"symbols": 256})
    assert parse_architecture(metadata_of(architecture), where="m") == architecture
    with pytest.raises(ArchitectureError, match="model.hidden is 64 in the recipe and 32 in m"):
        check_recipe(ModelRecipe(hidden=64), architecture, where="m")
    with pytest.raises(ArchitectureError, match="data.symbols is 300 in the recipe and 256 in m"):
        check_same({**architecture, "symbols": 300}, architecture, where="m")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "gru"}', "[" * 5000])
def test_metadata_that_is_no_architecture(text: str) -> None:
    with pytest.raises(ArchitectureError, match="m: git-gru.model"):
        parse_architecture({"git-gru.model": text}, where="m")
