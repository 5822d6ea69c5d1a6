"""Reading a file of `torch.save` without running code from it.

torch's restricted loader (`weights_only=True`) builds tensors, numbers, text and containers of these. A file that asks for any
other class or function is refused, by name, before that is even imported. Tensors stay in the file, mapped, where it can be.
"""

import re
import warnings
import zipfile
from pathlib import Path

import torch

from git_gru.errors import InputError

_NAMES_SHOWN = 5
_PLAIN = "Where the file was made, save the weights alone: torch.save(model.state_dict(), 'weights.pt'); then convert that."


class TorchFileError(InputError):
    """A file that `torch.save` has not written, that is damaged, or that needs code to be read."""


def read_torch_file(path: Path) -> object:
    """What was saved in the file, on the CPU; its tensors must not be written to. Raises `TorchFileError`."""
    if not path.exists():
        raise TorchFileError(f"there is no file {path}")
    if not path.is_file():
        raise TorchFileError(f"{path} is not a file")
    with open(path, "rb") as file:
        archive = file.read(4) == b"PK\3\4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for whoever calls torch, not for whoever has the file
        try:
            content: object = torch.load(
                path, map_location="cpu", weights_only=True, mmap=archive and _mappable(path)
            )
        except MemoryError:
            raise
        except Exception as error:  # a damaged or hostile file can make the loader raise nearly anything
            raise _refusal(path, error, archive) from error
    return content


def _mappable(path: Path) -> bool:
    """Whether all members of the archive are stored as they are: torch would map compressed ones without a word."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    except zipfile.BadZipFile:
        return False  # torch will say so


def _refusal(path: Path, error: Exception, archive: bool) -> TorchFileError:
    if wanted := _wanted_code(path, str(error), archive):
        shown = ", ".join(name[:80] for name in wanted[:_NAMES_SHOWN])
        more = f" and {len(wanted) - _NAMES_SHOWN} more" if len(wanted) > _NAMES_SHOWN else ""
        return TorchFileError(
            f"{path} is not data alone: it asks for {shown}{more}, and git-gru never runs code that a file asks for",
            hint=_PLAIN,
        )
    if "TorchScript" in str(error):
        return TorchFileError(f"{path} is a TorchScript program, not a checkpoint", hint=_PLAIN)
    return TorchFileError(
        f"{path} cannot be read as a file of torch.save: it is damaged, cut short, or something else ({_told(error)})",
        hint="Compare its size with the original's, and copy or download it again.",
    )


def _wanted_code(path: Path, message: str, archive: bool) -> list[str]:
    """The classes and functions that the file asks for beyond what the restricted loader knows; empty where that is not why."""
    first = re.search(r"GLOBAL (\S+)", message)
    if first is None:
        return []
    try:  # reads the instructions of the pickle, and follows none
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path) if archive else []
    except Exception:
        found = []
    return list(dict.fromkeys([first[1], *sorted(found)]))


def _told(error: Exception) -> str:
    """The sentence of torch's that says what is wrong, without its advice to trust the file."""
    said = re.search(r"WeightsUnpickler error:\s+(.+)", str(error)) or re.match(
        r"(.+?)(?:\. |$)", str(error), re.M
    )
    return f"{type(error).__name__}: {said[1]}" if said else type(error).__name__
