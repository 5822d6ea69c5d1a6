"""Which model a name means. Free of torch."""

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelName, models_at


def name_model(repo: Repository, text: str, *, preferred: str | None = None) -> ModelName:
    """The model that `REV:PATH` or a bare `REV` means: in the latter case `preferred` (a path), or the only one there is.

    Raises `InputError` when there is none, or more than one to choose from.
    """
    if ":" in text:
        return ModelName.parse(text)
    found = models_at(repo, text)
    if preferred in found:
        return ModelName(text, preferred)
    if len(found) == 1:
        return ModelName(text, next(iter(found)))
    if not found:
        raise InputError(
            f"there is no model in {text}",
            hint="Train one with git gru train, or name a commit that holds one.",
        )
    raise InputError(
        f"{text} holds {len(found)} models: {', '.join(found)}", hint=f"Name one: {text}:{next(iter(found))}"
    )
