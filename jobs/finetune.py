"""Fine-tunes a backbone on the annotated images (train-semi) and scores it: `python jobs/finetune.py [RECIPE] …`."""

import sys
from dataclasses import dataclass

from luss_ray.config.command_line import parse
from luss_ray.core.command import run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols.datasets import open_dataset
from luss_ray.protocols.options import TrainingOptions
from luss_ray.protocols.rules import Protocol
from luss_ray.stages.run import Run
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """What is fine-tuned on which masks. The recipe says which backbone, and how (--finetune.…)."""

    weights: str | None = None
    """Weights of the backbone: a run of jobs/pass.py, or a .safetensors or .pth; none = it starts from random ones."""
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


def main() -> None:
    """Run the protocol and print where its results are."""
    options, recipe = parse(Options, sys.argv[1:], program="finetune.py", about=__doc__ or "")
    storage = Location.parse(options.storage)
    data = open_dataset(options.data, recipe, storage, options.max_bad_samples, dry=options.dry_run)
    # Imported once the command line is known to be right: it takes seconds.
    from luss_ray.protocols import plan
    from luss_ray.protocols.rules import ANNOTATED
    from luss_ray.protocols.semi_supervised import plan_semi_supervised, run_semi_supervised
    from luss_ray.protocols.weights import find_weights
    from luss_ray.report.collect import RESULT

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
    CONSOLE.print(f"result  {whole.folder / RESULT}")


if __name__ == "__main__":
    run(main)
