"""Byte pair encoding of text, by the `tokenizers` library (extra `train`): byte-level, so that every text has an encoding.

A *tokenizer* is the JSON text that the library writes; it stands in the model file, so that the commit is all that evaluating and
sampling need. What a symbol stands for is read from that text without the library.
"""

import importlib.util
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from git_gru.errors import MachineError
from git_gru.train.corpus.files import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenizersMissingError(MachineError):
    """The `tokenizers` library is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "byte pair encoding needs the tokenizers library, which is not installed here",
            hint='Install it beside git-gru (pip install tokenizers), or learn bytes: data.tokens = "bytes".',
        )


def require_tokenizers() -> None:
    """Raises `TokenizersMissingError` unless the library is installed."""
    if importlib.util.find_spec("tokenizers") is None:
        raise TokenizersMissingError


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A tokenizer with at most `vocabulary` symbols, the 256 bytes among them, learnt from `texts`.

    The same texts give the same tokenizer. Raises `TokenizersMissingError`.
    """
    require_tokenizers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def open_tokenizer(tokenizer: str, where: str) -> "Tokenizer":
    """The library's tokenizer. `where` names it in messages. Raises `DataError` unless it is a byte-level BPE."""
    require_tokenizers()
    from tokenizers import Tokenizer

    symbol_bytes(tokenizer, where)
    try:
        return Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises plain exceptions
        raise _refusal(where, str(error)) from error


def symbol_bytes(tokenizer: str, where: str) -> list[bytes]:
    """The bytes that each symbol stands for. Raises `DataError` unless it is a byte-level BPE."""
    try:
        content = json.loads(tokenizer)
        vocabulary: dict[str, int] = content["model"]["vocab"]
        kinds = (content["model"]["type"], content["decoder"]["type"], content["normalizer"])
        special: list[dict[str, Any]] = content["added_tokens"]
        if kinds != ("BPE", "ByteLevel", None):
            raise _refusal(where, f"model, decoder and normalizer are {', '.join(map(str, kinds))}")
        names = {number: bytes(_BYTES[char] for char in name) for name, number in vocabulary.items()}
        names |= {token["id"]: token["content"].encode() for token in special}
        if not set(_BYTES) <= vocabulary.keys():
            raise _refusal(where, "some bytes have no symbol")
        if sorted(names) != list(range(len(names))):
            raise _refusal(where, "its symbols are not numbered from 0 on")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refusal(where, f"{type(error).__name__}: {error}") from error
    return [names[number] for number in range(len(names))]


def _refusal(where: str, why: str) -> DataError:
    return DataError(
        f"{where} is no byte-level BPE of the tokenizers library: {why}",
        hint="Leave data.tokenizer out to have one learnt from the training files.",
    )


def _byte_alphabet() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte: itself where that is visible, else one from U+0100 on (GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + place): byte for place, byte in enumerate(hidden)
    }


_BYTES = _byte_alphabet()
