#!/usr/bin/env -S uv run
"""Fine-tunes a backbone on the annotated images (train-semi) and scores it: `python jobs/finetune.py [RECIPE] …`.

Without a RECIPE it is that of the --backbone; without one and without --data the demo's.
"""

import sys
from dataclasses import dataclass

from luss_ray.config.command_line import parse
from luss_ray.config.recipe import Recipe
from luss_ray.config.recipes import SEMI_SUPERVISED
from luss_ray.core.command import nearest, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols.datasets import NotPackedError, open_dataset
from luss_ray.protocols.options import TrainingOptions, check_given
from luss_ray.protocols.rules import Protocol
from luss_ray.stages.run import Run
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """What is fine-tuned on which masks. The recipe says which backbone, and how (--finetune.…)."""

    weights: str | None = None
    """Weights of the backbone: a run of jobs/pass.py or of this job, or a .safetensors or .pth; none = it starts from
    random ones."""
    trained: bool = False
    """The weights are of the whole network, fine-tuned already (here, or published for ImageNetSegModel): they are only
    scored."""
    data: str | None = None
    """Sharded dataset with train-semi masks: a folder or s3://bucket/prefix. The demo recipes bring their own."""
    protocol: Protocol = Protocol.SEMI_SUPERVISED
    """Which weights are allowed: of a run on this very dataset, or (free) any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained and self.weights is None:
            raise UserError("--trained: say which --weights")


def unnamed_recipe(arguments: list[str]) -> str:
    """Return the recipe of a command line that names none: the first that was made for its backbone.

    Raises:
        UserError: data are given, and there is no such recipe.
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    named = bool(words) and not words[0].startswith("-")
    if named or "--data" not in words or {"-h", "--help"} & set(words):
        return "demo"
    made_for = {recipe.backbone.name: recipe.recipe_name for recipe in reversed(SEMI_SUPERVISED)}
    follows = {words[i - 1]: word for i, word in enumerate(words)}
    backbone = follows.get("--backbone", follows.get("--backbone.name", ""))
    if backbone in made_for:
        return made_for[backbone]
    near = nearest(backbone, made_for)
    hint = f"did you mean {near}?" if near else f"give a recipe first, one of {', '.join(made_for.values())}"
    raise UserError(f"no recipe was made for --backbone {backbone}: {hint}" if backbone else f"which recipe: {hint}")


def main() -> None:
    """Run the protocol and print where its results are."""
    arguments = sys.argv[1:]
    unnamed = unnamed_recipe(arguments)
    options, recipe = parse(Options, arguments, program="finetune.py", about=__doc__ or "", unnamed=unnamed)
    storage = Location.parse(options.storage)
    check_given(options.weights)
    try:
        data = open_dataset(options.data, recipe, storage, options.max_bad_samples, dry=options.dry_run)
    except NotPackedError as unpacked:
        _show_unpacked(recipe, unpacked)
        return
    # Imported once the command line is known to be right: it takes seconds.
    from luss_ray.protocols import plan
    from luss_ray.protocols.rules import ANNOTATED
    from luss_ray.protocols.semi_supervised import plan_semi_supervised, run_semi_supervised
    from luss_ray.protocols.weights import find_weights
    from luss_ray.report.collect import REPORT, RESULT

    weights = None if options.weights is None else find_weights(options.weights, data, options.protocol)
    whole = Run(
        folder=storage / (options.name or f"{recipe.recipe_name}-semi-supervised"),
        recipe=recipe,
        data=data,
        connect=options.connect,
        limits=options.limits(len(data.split(ANNOTATED))),
        weights=None if weights is None else weights.sha256,
        track=options.track,
    )
    if options.dry_run:
        plan.show(whole, plan_semi_supervised(whole, weights, trained=options.trained))
        return
    result = run_semi_supervised(whole, weights, trained=options.trained, protocol=options.protocol)
    for name, scores in result["metrics"].items():
        CONSOLE.print(f"{name}: mIoU {scores['miou']:.1f}, acc {scores['acc']:.1f}, F {scores['f']:.1f}")
    CONSOLE.print(f"result  {whole.folder / RESULT}\nreport  {whole.folder / REPORT}")


def _show_unpacked(recipe: Recipe, unpacked: NotPackedError) -> None:
    """Print the plan for images that are still to be packed."""
    from luss_ray.protocols import plan
    from luss_ray.protocols.rules import ANNOTATED
    from luss_ray.protocols.semi_supervised import PLANNED

    plan.show_unpacked(recipe, unpacked, plan.plan_unpacked(recipe, unpacked, PLANNED, {"finetune": ANNOTATED}))


if __name__ == "__main__":
    run(main)
