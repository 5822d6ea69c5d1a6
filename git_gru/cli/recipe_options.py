"""The options of the verbs that read a recipe."""

import click

from git_gru.train.recipe_file import DEFAULT_PATH

recipe_option = click.option(
    "--recipe", "recipe_path", default=DEFAULT_PATH, show_default=True, metavar="PATH", help="The recipe in the commit."
)  # fmt: skip
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."
)  # fmt: skip
