"""`git gru recipe`."""

from pathlib import Path

import click

from git_gru.cli.recipe_options import set_option
from git_gru.cli.render import emit_json, json_option, line
from git_gru.errors import InputError
from git_gru.train.recipe_file import DEFAULT_PATH, parse_recipe, recipe_text


@click.command("recipe", short_help="Check a recipe, or show it with all defaults.")
@click.argument("file", default=DEFAULT_PATH, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only say whether it is valid.")
@set_option
@json_option
def command(file: Path, check: bool, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read the recipe FILE (default gru.toml, as it is here) and show it as it would take effect, all defaults filled in.

    \b
    --json: {"model": {key: value}, "data": {…}, …}
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}", hint="Write one with git gru new KIND."
        ) from error
    recipe = parse_recipe(data, where=str(file), overrides=overrides).as_json()
    if as_json:
        emit_json(recipe)
    elif check:
        line(f"{file} is a valid recipe: a {recipe['model']['task']} on {recipe['data']['kind']}")
    else:
        for name, keys in recipe.items():
            line(f"[{name}]")
            for key, value in keys.items():
                line(f"{key} = {recipe_text(value)}")
            line()
