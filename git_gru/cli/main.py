"""`git gru`: the verbs, each loaded when it is called.

A verb is one module with an attribute `command`. The registry holds its line for the help as well, so that `git gru -h`
imports none of them.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import click

from git_gru import __version__
from git_gru.cli.boundary import INTERRUPTED, say


@dataclass(frozen=True)
class Verb:
    """Where a verb lives, the heading it stands under in the help, and its summary there."""

    module: str
    section: str
    summary: str


_SETUP = "Set up"
_LOOK = "Look"
_CHANGE = "Combine and take back"
_TRAIN = "Train"
_TRANSFER = "Transfer"
_STORE = "Storage"

VERBS: dict[str, Verb] = {
    "install": Verb("git_gru.cli.install", _SETUP, "Tell Git about git-gru: filter, drivers, hooks."),
    "uninstall": Verb("git_gru.cli.uninstall", _SETUP, "Take away what install wrote."),
    "track": Verb("git_gru.cli.track", _SETUP, "Keep the files that match a pattern as models."),
    "untrack": Verb("git_gru.cli.untrack", _SETUP, "Stop keeping matching files as models."),
    "convert": Verb("git_gru.cli.convert", _SETUP, "Make a safetensors file of a PyTorch checkpoint."),
    "completion": Verb("git_gru.cli.completion", _SETUP, "Print a script that completes git-gru in a shell."),
    "status": Verb("git_gru.cli.status", _LOOK, "Show what is tracked and the state of each model."),
    "ls": Verb("git_gru.cli.ls", _LOOK, "List the models of a commit with their sizes."),
    "show": Verb("git_gru.cli.show", _LOOK, "Show a model or one of its tensors."),
    "log": Verb("git_gru.cli.log", _LOOK, "List the commits that touch models."),
    "diff": Verb("git_gru.cli.diff", _LOOK, "Compare two versions of a model, tensor by tensor."),
    "cat": Verb("git_gru.cli.cat", _LOOK, "Write a model or one of its tensors to standard output."),
    "merge": Verb("git_gru.cli.merge", _CHANGE, "Merge branches by averaging their models."),
    "revert": Verb("git_gru.cli.revert", _CHANGE, "Take a commit's weight change out again."),
    "cherry-pick": Verb("git_gru.cli.cherry_pick", _CHANGE, "Apply a commit's weight change here."),
    "new": Verb("git_gru.cli.new", _TRAIN, "Write a recipe for a new model."),
    "recipe": Verb("git_gru.cli.recipe", _TRAIN, "Check a recipe, or show it with all defaults."),
    "train": Verb("git_gru.cli.train", _TRAIN, "Train from a commit into new commits."),
    "runs": Verb("git_gru.cli.runs", _TRAIN, "List, stop, compare, share and remove training runs."),
    "reproduce": Verb("git_gru.cli.reproduce", _TRAIN, "Run again what made a training commit, and compare."),
    "watch": Verb("git_gru.cli.watch", _TRAIN, "Watch a training run in the terminal."),
    "eval": Verb("git_gru.cli.eval", _TRAIN, "Evaluate a model on the recipe's validation data."),
    "bisect": Verb("git_gru.cli.bisect", _TRAIN, "Find the commit that made a metric bad."),
    "sample": Verb("git_gru.cli.sample", _TRAIN, "Let a model write text."),
    "forecast": Verb("git_gru.cli.forecast", _TRAIN, "Let a model forecast its series."),
    "demo": Verb("git_gru.cli.demo", _TRAIN, "Make a repository that shows it all."),
    "push": Verb("git_gru.cli.push", _TRANSFER, "Send models to a remote, without their branches."),
    "fetch": Verb("git_gru.cli.fetch", _TRANSFER, "Bring models of commits into the store."),
    "pull": Verb("git_gru.cli.pull", _TRANSFER, "Put weights in place of manifests in the worktree."),
    "prefetch": Verb(
        "git_gru.cli.prefetch", _TRANSFER, "Bring the models at all branch tips into the store."
    ),
    "trust": Verb("git_gru.cli.trust", _TRANSFER, "Approve the store that .gruconfig names."),
    "migrate": Verb(
        "git_gru.cli.migrate", _STORE, "Make a history's files models, or its models files again."
    ),
    "du": Verb("git_gru.cli.du", _STORE, "Show where the bytes of models go."),
    "fsck": Verb("git_gru.cli.fsck", _STORE, "Check that all models are there and whole."),
    "gc": Verb("git_gru.cli.gc", _STORE, "Drop models that nothing in the repository needs any more."),
    "prune": Verb("git_gru.cli.prune", _STORE, "Drop local copies of models that a remote has."),
    "repair": Verb("git_gru.cli.repair", _STORE, "Mend a damaged store, with the help of remotes."),
    "maintenance": Verb(
        "git_gru.cli.maintenance", _STORE, "Do now what is otherwise done in the background."
    ),
    "repack": Verb("git_gru.cli.repack", _STORE, "Make the store smaller: older versions become deltas."),
}

COMPLETION_VARIABLE = "_GIT_GRU_COMPLETE"


class VerbGroup(click.Group):
    """A group that imports a verb's module when the verb is called, and lists the verbs under headings."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the registry's order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None for a name that is no verb."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = importlib.import_module(verb.module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs under their headings."""
        width = max(len(name) for name in VERBS)
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            with formatter.section(section):
                rows = [
                    (name.ljust(width), verb.summary)
                    for name, verb in VERBS.items()
                    if verb.section == section
                ]
                formatter.write_dl(rows)


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A model is named REV:PATH, one of its tensors REV:PATH#TENSOR. Help on a verb: git gru VERB -h",
)
@click.version_option(__version__, prog_name="git-gru")
def cli() -> None:
    """Model weights as first-class citizens of a Git repository.

    Start with: git gru install, git gru track '*.safetensors'. From then on use plain Git.
    """


def run(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit status. Wrong usage is told here; other errors are raised."""
    try:
        result = cli.main(
            args=list(argv), prog_name="git gru", complete_var=COMPLETION_VARIABLE, standalone_mode=False
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        say("interrupted")
        return INTERRUPTED
    return result if isinstance(result, int) else 0
