"""Command lines of jobs that run a recipe: `[RECIPE] [options of the job] [fields of the recipe]`."""

from typing import Annotated, Any, TypeVar

import tyro

from luss_ray.config.recipe import Recipe
from luss_ray.config.recipes import RECIPES
from luss_ray.core.command import nearest, parsed
from luss_ray.core.errors import UserError

_Options = TypeVar("_Options")


def recipe_named(name: str) -> Recipe:
    """Return the recipe of a name; UserError with the nearest one where there is none."""
    if name not in RECIPES:
        near = nearest(name, RECIPES)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(RECIPES)}"
        raise UserError(f"no recipe {name!r}: {hint}")
    return RECIPES[name]()


def parse(
    options: type[_Options], arguments: list[str], *, program: str, about: str, unnamed: str = "demo"
) -> tuple[_Options, Recipe]:
    """Return a job's options and the recipe with its overridden fields.

    Args:
        options: dataclass of the job's options.
        arguments: what follows the program's name; the first may name a recipe.
        program: the program's name.
        about: what it does.
        unnamed: the recipe where none is named.

    Raises:
        UserError: the command line is wrong.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    default = recipe_named(arguments[0] if named else unnamed)
    completion = any("-tyro-" in word for word in arguments)  # a script for the shell is one for all recipes

    def both(
        options: Annotated[options, tyro.conf.arg(name="")],  # pyright: ignore[reportInvalidTypeForm]
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = default,
    ) -> Any:  # tyro reads annotations, and can't resolve the type variable
        return options, recipe

    return parsed(
        lambda: tyro.cli(
            tyro.conf.configure(tyro.conf.SuppressFixed, tyro.conf.EnumChoicesFromValues)(both),
            args=arguments[named:],
            prog=program if completion else f"{program} {default.recipe_name}",
            description=f"{about} Recipes: {', '.join(RECIPES)}.",
        )
    )
