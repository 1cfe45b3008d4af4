"""The semi-supervised protocol: a backbone learns the masks of train-semi, and is scored without matching."""

import functools
from collections.abc import Callable
from typing import Any

import safetensors.torch

from luss_ray.core.errors import UserError
from luss_ray.metrics.evaluation import Matching
from luss_ray.protocols.export import export
from luss_ray.protocols.plan import PlannedStage, plan
from luss_ray.protocols.rules import ANNOTATED, Protocol
from luss_ray.protocols.training import train_stage
from luss_ray.protocols.weights import GivenWeights, trained_weights, weights_to_start_from
from luss_ray.report.collect import write_report
from luss_ray.stages.evaluate import evaluate
from luss_ray.stages.infer import infer
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.uri import Location
from luss_ray.train.pixel_attention import pixel_attention_model
from luss_ray.train.task import FinetuneTask

WEIGHTS = "weights.safetensors"
PLANNED = ("finetune", "predictions", "evaluation")
"""Stages of a plan."""


def run_semi_supervised(
    run: Run,
    weights: GivenWeights | None,
    *,
    trained: bool = False,
    protocol: Protocol = Protocol.SEMI_SUPERVISED,
) -> dict[str, Any]:
    """Fine-tune on the masks of train-semi, predict and score validation; return what result.json holds.

    Args:
        run: data, backbone, fine-tuning (of its recipe) and folder; `run.weights` is the weights' digest.
        weights: of the backbone; None = it starts from random ones.
        trained: they are of the whole network, which is only to predict and to be scored.
        protocol: the rules that the weights keep, for the result.

    Raises:
        UserError: the data, the weights or the storage don't allow it.
    """
    steps = _steps(run, weights, trained=trained)
    with run.claimed() as claimed:
        finetuned, _, evaluated = steps(claimed)
        names = list(run.data.categories)
        export(claimed, finetuned, protocol=protocol.value, names=names, evaluated=evaluated)
        about = {"protocol": protocol.value, "trained": trained, "weights": weights and weights.about()}
        result = write_report(claimed, supervised=about)
        claimed.trackers.scores(result["metrics"])
        return result


def plan_semi_supervised(run: Run, weights: GivenWeights | None, *, trained: bool = False) -> list[PlannedStage]:
    """Return what `run_semi_supervised` would do, and what of it is done.

    Raises:
        UserError: it would refuse.
    """
    steps = _steps(run, weights, trained=trained)
    return plan(run, steps, PLANNED, {"finetune": ANNOTATED})


def _steps(
    run: Run, weights: GivenWeights | None, *, trained: bool
) -> Callable[[Run], tuple[Finished, Finished, Finished | None]]:
    """Return what takes the run through its stages: fine-tuned network, predictions, and scores where there are masks.

    Raises:
        UserError: the data or the weights don't allow it.
    """
    if trained:
        assert weights is not None
        whole = trained_weights(run.recipe, weights, len(run.data.categories))
        finetune = functools.partial(_take_over, weights=weights, state=whole)
    else:
        _check(run)
        state = None if weights is None else weights_to_start_from(run.recipe, weights)
        finetune = functools.partial(_finetune, weights=weights, state=state)

    def walk(walked: Run) -> tuple[Finished, Finished, Finished | None]:
        finetuned = finetune(walked)
        predictions = infer(walked, "", finetuned, num_outputs=len(run.data.categories))
        evaluated = evaluate(walked, "", predictions, matching=Matching.NONE) if walked.labelled else None
        return finetuned, predictions, evaluated

    return walk


def _check(run: Run) -> None:
    """Refuse, before anything starts, what would fail later."""
    annotated, batch = run.data.split(ANNOTATED), run.recipe.finetune.optimisation.batch_size
    if not annotated.has_masks:
        raise UserError(f"{run.data.location.uri}: {ANNOTATED} has no masks to learn from")
    num_without = len(annotated) - int((annotated.mask_bytes > 0).sum())
    if num_without:
        raise UserError(
            f"{run.data.location.uri}: {num_without} of the {len(annotated)} images of {ANNOTATED} have no mask: "
            "leave them out of that split"
        )
    if len(annotated) < batch:
        raise UserError(
            f"{run.data.location.uri}: {len(annotated)} annotated images are fewer than a batch of {batch}; "
            "give --finetune.optimisation.batch-size"
        )


def _start(run: Run, weights: GivenWeights | None, state: dict[str, Any] | None) -> Finished:
    """The backbone's weights: those given, or random ones."""

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        tensors = dict(pixel_attention_model(run.recipe).state_dict()) if state is None else state
        folder.write(WEIGHTS, safetensors.torch.save(tensors))
        return {} if weights is None else {"weights": weights.about()}

    inputs = {"backbone": run.recipe.backbone, "seed": run.recipe.seed, "weights": run.weights}
    return run.stage("pretrain", inputs, work)


def _finetune(run: Run, *, weights: GivenWeights | None, state: dict[str, Any] | None) -> Finished:
    recipe, start = run.recipe, _start(run, weights, state)
    task = FinetuneTask(
        recipe=recipe,
        data=run.data.location,
        split=ANNOTATED,
        pretrained=start.folder / WEIGHTS,
        num_categories=len(run.data.categories),
    )
    inputs = {"start": start.inputs, "finetune": recipe.finetune, "split": ANNOTATED}
    return train_stage(run, task, inputs, smallest_batch=task.optimisation.batch_size)


def _take_over(run: Run, *, weights: GivenWeights, state: dict[str, Any]) -> Finished:
    """The network as it came, in the place of fine-tuning."""

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        folder.write(WEIGHTS, safetensors.torch.save(state))
        return {"weights": weights.about()}

    follows_from = {"backbone": run.recipe.backbone, "head": run.recipe.finetune.head, "weights": run.weights}
    return run.stage("finetune", follows_from, work)
