#!/usr/bin/env -S uv run
"""PASS, whole: from images to segmentations, scores and a report. `python jobs/pass.py [RECIPE] [options]`.

Without a RECIPE it is the demo; with --data alone it is own-images.
"""

import sys
from dataclasses import dataclass

from rich.table import Table

from luss_ray.config.command_line import parse
from luss_ray.config.recipe import Recipe
from luss_ray.core.command import run
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols.datasets import NotPackedError, open_dataset
from luss_ray.protocols.options import TrainingOptions, check_given
from luss_ray.protocols.rules import Protocol
from luss_ray.stages.order import Stage
from luss_ray.stages.run import Run
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """What a run works on and where, none of which changes its result but the data and the weights."""

    data: str | None = None
    """Sharded dataset (shards/build.py): a folder or s3://bucket/prefix. A local folder of images is packed first. The
    demo recipes bring their own."""
    weights: str | None = None
    """Weights to start from in the place of pretraining: another run's folder, or a .safetensors or .pth; with
    `--backbone timm:NAME` what timm reads."""
    reuse: str | None = None
    """Another run: what it has finished is copied, as far as it follows from the same data and settings."""
    protocol: Protocol = Protocol.UNSUPERVISED
    """What may be trained on; `free` lets a small subset pretrain on all of ImageNet."""
    until: Stage | None = None
    """Stop after this stage."""


def main() -> None:
    """Run PASS and print where its results are."""
    arguments = sys.argv[1:]
    own = any(word.split("=")[0] == "--data" for word in arguments)
    unnamed = "own-images" if own else "demo"
    options, recipe = parse(Options, arguments, program="pass.py", about=__doc__ or "", unnamed=unnamed)
    storage = Location.parse(options.storage)
    check_given(options.weights, options.reuse)
    try:
        data = open_dataset(options.data, recipe, storage, options.max_bad_samples, dry=options.dry_run)
    except NotPackedError as unpacked:
        _show_unpacked(recipe, unpacked, weights=options.weights is not None)
        return
    # Imported once the command line is known to be right: it takes seconds.
    from luss_ray.protocols import plan
    from luss_ray.protocols.unsupervised import plan_pass, run_pass
    from luss_ray.protocols.weights import find_weights
    from luss_ray.report.collect import REPORT, RESULT

    weights = None if options.weights is None else find_weights(options.weights, data, options.protocol)
    whole = Run(
        folder=storage / (options.name or recipe.recipe_name),
        recipe=recipe,
        data=data,
        connect=options.connect,
        limits=options.limits(len(data.split("train"))),
        weights=None if weights is None else weights.sha256,
        track=options.track,
        reuse=None if options.reuse is None else Location.parse(options.reuse),
    )
    if options.dry_run:
        plan.show(whole, plan_pass(whole, options.protocol, weights))
        return
    result = run_pass(whole, options.until, options.protocol, weights)
    CONSOLE.print(f"\nresult  {whole.folder / RESULT}\nreport  {whole.folder / REPORT}")
    if result["threshold"]:
        CONSOLE.print(_threshold(result))
    CONSOLE.print(_table(result))


def _show_unpacked(recipe: Recipe, unpacked: NotPackedError, *, weights: bool) -> None:
    """Print the plan for images that are still to be packed."""
    from luss_ray.protocols import plan
    from luss_ray.protocols.unsupervised import planned_names

    named = recipe.num_categories or unpacked.num_categories > 1
    names = planned_names(estimates=not named and bool(recipe.category_candidates))
    plan.show_unpacked(recipe, unpacked, plan.plan_unpacked(recipe, unpacked, names, weights=weights))


def _threshold(result: dict) -> str:
    """Return which attention threshold made the labels and what chose it."""
    threshold, labels = result["threshold"], result["pseudo_labels"]
    by = "the validation masks" if threshold["used"] == "validation" else "the attention alone, label-free"
    kept = f"; {labels['coverage']:.1f} % of the training pixels keep a label" if labels else ""
    return f"attention threshold {threshold['chosen']:.2f}, chosen by {by}{kept}"


def _table(result: dict) -> Table:
    """Return the scores beside the baselines; or, without labels, the sizes of what was found."""
    table = Table(box=None, pad_edge=False)
    metrics = result["metrics"]
    rows = {"fine-tuned": metrics.get("finetuned"), "pseudo-labels": metrics.get("pseudo_labels")}
    rows |= {name.replace("_", " "): scores for name, scores in metrics.get("baselines", {}).items()}
    if not any(rows.values()):
        table.add_row("no masks to score with: the report shows the clusters")
        return table
    for heading in ("", "mIoU", "acc", "F"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, scores in rows.items():
        if scores:
            table.add_row(name, *(f"{scores[key]:.1f}" for key in ("miou", "acc", "f")))
    return table


if __name__ == "__main__":
    run(main)
