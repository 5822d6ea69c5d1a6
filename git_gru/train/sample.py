"""Letting a language model write: one symbol after the other, each drawn from what the model expects next."""

from typing import cast

import torch

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.train.corpus.tokens import open_tokenizer, symbol_bytes
from git_gru.train.models import open_model
from git_gru.train.naming import name_model
from git_gru.train.tasks.language_model import GruLanguageModel


@torch.no_grad()
def sample(
    repo: Repository,
    name: str,
    *,
    prompt: bytes = b"",
    length: int = 400,
    temperature: float = 0.8,
    seed: int = 0,
) -> bytes:
    """`length` symbols, as bytes, that the model `name` (REV or REV:PATH) writes after `prompt`.

    An empty prompt is a line's start. `temperature` divides the logits: 1 draws from the model's own probabilities, less is
    bolder, 0 takes the likeliest symbol. The same seed gives the same text. Needs nothing but the commit. Raises `InputError`.
    """
    torch.set_num_threads(1)  # products of one row: threads would wait for each other longer than they work
    model = open_model(repo, name_model(repo, name), torch.device("cpu"))
    if model.task.architecture["task"] != "language-model":
        raise InputError(f"{model.name} is no language model: it writes no text")
    network = cast("GruLanguageModel", model.network)
    random = torch.Generator().manual_seed(seed)
    tokenizer = model.task.architecture.get("tokenizer")
    symbols = torch.tensor([_symbols(prompt or b"\n", tokenizer)])
    state: torch.Tensor | None = None
    written: list[int] = []
    for _ in range(length):
        logits, state = network(symbols, state)
        last = logits[0, -1].double()
        if temperature > 0:
            symbol = torch.multinomial(torch.softmax(last / temperature, 0), 1, generator=random)
        else:
            symbol = last.argmax().reshape(1)
        written.append(int(symbol))
        symbols = symbol.reshape(1, 1)
    if tokenizer is None:
        return bytes(written)
    meanings = symbol_bytes(tokenizer, str(model.name))
    return b"".join(meanings[symbol] for symbol in written)


def _symbols(prompt: bytes, tokenizer: str | None) -> list[int]:
    if tokenizer is None:
        return list(prompt)
    opened = open_tokenizer(tokenizer, "the model's tokenizer")
    encoded: list[int] = opened.encode(prompt.decode("utf-8", "replace"), add_special_tokens=False).ids
    return encoded
