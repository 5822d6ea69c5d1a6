"""`git gru trust`."""

import click

from git_gru.cli.render import emit_json, json_option, line
from git_gru.git.repository import Repository
from git_gru.git.sources import CONFIG_FILE, committed_store, trust, trusted_stores


@click.command("trust", short_help="Approve the store that .gruconfig names.")
@click.option("--show", is_flag=True, help="Only say which store is named and whether it is approved.")
@json_option
def command(show: bool, as_json: bool) -> None:
    """Approve the store that the committed file .gruconfig names, so that models are fetched from there.

    A repository's file must not send this machine anywhere by itself: the address is used only after this, and only while the
    file goes on naming the same one. Models are looked for there last, after all remotes.

    \b
    --json: {"url": address or null, "trusted": bool}
    """
    repo = Repository.find()
    url = committed_store(repo) if show else trust(repo)
    trusted = url is not None and url in trusted_stores(repo)
    if as_json:
        emit_json({"url": url, "trusted": trusted})
    elif url is None:
        line(f"no {CONFIG_FILE} here names a store")
    else:
        line(f"{url} is {'approved' if trusted else 'not approved'} for this repository")
