"""`git gru runs logs`."""

import click

from git_gru.cli.boundary import printable
from git_gru.cli.render import emit_json, json_option, line
from git_gru.git.repository import Repository
from git_gru.git.run_control import follow_logs, read_logs
from git_gru.git.run_refs import find_run


@click.command("logs")
@click.argument("run", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over.")
@json_option
def command(run: str, follow: bool, as_json: bool) -> None:
    """Print what the processes of the run ID printed: the agent, and each worker (rank-0.stderr.log, …).

    \b
    --json: {"id", "logs": {name: text}}
    """
    if follow and as_json:
        raise click.UsageError("--follow and --json exclude each other")
    repo = Repository.find()
    id = find_run(repo, run)
    if as_json:
        logs = {name: data.decode("utf-8", "replace") for name, data in read_logs(repo, id).items()}
        emit_json({"id": id, "logs": logs})
        return
    last = None
    for name, data in follow_logs(repo, id) if follow else read_logs(repo, id).items():
        if name != last:
            line(f"==> {name} <==")
            last = name
        click.echo(printable(data.decode("utf-8", "replace"), keep="\n\t"), nl=not data.endswith(b"\n"))
