"""The fully unsupervised protocol: PASS from images to scored segmentations and a report."""

import time
from collections.abc import Iterator
from typing import Any

import safetensors.torch
from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.protocols.export import cluster_names, export
from luss_ray.protocols.plan import PlannedStage, plan
from luss_ray.protocols.rules import Protocol, check_split
from luss_ray.protocols.training import train_stage
from luss_ray.protocols.weights import GivenWeights, weights_to_start_from
from luss_ray.report.collect import write_report
from luss_ray.stages.cluster import cluster
from luss_ray.stages.estimate import estimate
from luss_ray.stages.evaluate import evaluate, score_baselines
from luss_ray.stages.extract import extract
from luss_ray.stages.infer import infer
from luss_ray.stages.order import Stage
from luss_ray.stages.pseudo_label import pseudo_label
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.threshold import find_threshold
from luss_ray.storage.uri import Location
from luss_ray.train.pixel_attention import pixel_attention_model
from luss_ray.train.pretrain import pretrain_model
from luss_ray.train.task import FinetuneTask, PixelAttentionTask, PretrainTask, Task

_REPORT_EVERY_S = 20.0
"""The report is written after each stage, but not again so soon: stages that are done already take no time."""
RANDOM_BACKBONE, WEIGHTS = "random-backbone/", "weights.safetensors"


def run_pass(
    run: Run,
    until: Stage | None = None,
    protocol: Protocol = Protocol.UNSUPERVISED,
    weights: GivenWeights | None = None,
) -> dict[str, Any]:
    """Take a run through its stages, skipping what is finished; return what result.json holds.

    Args:
        run: what to do.
        until: last stage to do; None = all, with the random baseline where the recipe asks for it.
        protocol: what may be trained on.
        weights: take the place of pretraining; `run.weights` is their digest.

    Raises:
        UserError: the input, the settings or the storage don't allow it.
    """
    if until is Stage.ESTIMATE and not run.estimates:
        raise UserError("--until estimate: the number of clusters is known; stop after features, or clusters")
    check_split(protocol, run.recipe.pretrain.split, run.data)
    _check_size(run)
    start = None if weights is None else (weights, weights_to_start_from(run.recipe, weights))
    with run.claimed() as claimed:
        written = time.monotonic()
        for stage in _stages(claimed, start, protocol):
            if stage is until:
                break
            if time.monotonic() - written > _REPORT_EVERY_S:
                write_report(claimed, under_way=True)
                written = time.monotonic()
        result = write_report(claimed)
        claimed.trackers.scores(result["metrics"])
        return result


def plan_pass(
    run: Run, protocol: Protocol = Protocol.UNSUPERVISED, weights: GivenWeights | None = None
) -> list[PlannedStage]:
    """Return what `run_pass` would do, and what of it is done.

    Raises:
        UserError: it would refuse.
    """
    check_split(protocol, run.recipe.pretrain.split, run.data)
    _check_size(run)
    start = None if weights is None else (weights, weights_to_start_from(run.recipe, weights))
    return plan(run, lambda looked_at: _stages(looked_at, start, protocol), planned_names(estimates=run.estimates))


def planned_names(*, estimates: bool) -> list[str]:
    """Return the names of the stages of a plan; `estimates`: whether the number of clusters is to be found."""
    left_out = {Stage.REPORT} if estimates else {Stage.REPORT, Stage.ESTIMATE}
    return [stage.value for stage in Stage if stage not in left_out]


def _stages(run: Run, start: tuple[GivenWeights, dict[str, Tensor]] | None, protocol: Protocol) -> Iterator[Stage]:
    """Do one stage after the other, yielding its name when it is done."""
    pretrained = _pretrain(run) if start is None else _start_from(run, *start)
    yield Stage.PRETRAIN
    yield from _after_pretraining(run, "", pretrained, protocol)
    if run.recipe.random_baseline and run.labelled:
        yield from _after_pretraining(run, RANDOM_BACKBONE, _random_backbone(run), protocol)
    yield Stage.REPORT


def _after_pretraining(run: Run, prefix: str, pretrained: Finished, protocol: Protocol) -> Iterator[Stage]:
    """Steps 2 to 4 from any backbone; all folders lie below `prefix`."""
    attention = _learn_attention(run, prefix, pretrained)
    yield Stage.ATTENTION
    features = extract(run, prefix, attention)
    yield Stage.FEATURES
    if run.estimates:
        estimate(run, features)
        yield Stage.ESTIMATE
    clusters = cluster(run, prefix, features)
    yield Stage.CLUSTERS
    threshold = find_threshold(run, prefix, attention, features, clusters)
    yield Stage.THRESHOLD
    labels = pseudo_label(run, prefix, attention, clusters)
    yield Stage.PSEUDO_LABELS
    finetuned = _finetune(run, prefix, pretrained, labels, threshold)
    yield Stage.FINETUNE
    predictions = infer(run, prefix, finetuned)
    yield Stage.PREDICTIONS
    evaluated = evaluate(run, prefix, predictions) if run.labelled else None
    if run.labelled:
        score_baselines(run)
    if not prefix:
        names = cluster_names(run, evaluated)
        export(run, finetuned, protocol=protocol.value, names=names, evaluated=evaluated)
    yield Stage.EVALUATION


def _pretrain(run: Run) -> Finished:
    recipe = run.recipe
    inputs = {"seed": recipe.seed, "backbone": recipe.backbone, "prototypes": recipe.prototypes}
    task = PretrainTask(recipe=recipe, data=run.data.location)
    return _train(run, task, {**inputs, "pretrain": recipe.pretrain})


def _start_from(run: Run, weights: GivenWeights, state: dict[str, Tensor]) -> Finished:
    """Weights that were given, in the place of pretraining's."""

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        folder.write(WEIGHTS, safetensors.torch.save(state))
        return {"weights": weights.about()}

    recipe = run.recipe  # what the weights lack is drawn
    drawn = {"seed": recipe.seed, "backbone": recipe.backbone, "prototypes": recipe.prototypes}
    return run.stage("pretrain", {**drawn, "weights": weights.sha256}, work)


def _random_backbone(run: Run) -> Finished:
    """The backbone as pretraining would have found it at its start."""
    recipe = run.recipe

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        folder.write(WEIGHTS, safetensors.torch.save(dict(pretrain_model(recipe).state_dict())))
        return {}

    inputs = {"seed": recipe.seed, "backbone": recipe.backbone, "prototypes": recipe.prototypes}
    return run.stage(f"{RANDOM_BACKBONE}pretrain", inputs, work)


def _learn_attention(run: Run, prefix: str, pretrained: Finished) -> Finished:
    recipe, weights = run.recipe, pretrained.folder / WEIGHTS
    task = PixelAttentionTask(recipe=recipe, data=run.data.location, pretrained=weights, name=f"{prefix}attention")
    inputs = {"pretrained": pretrained.inputs, "attention": recipe.attention}
    if recipe.attention.enabled:
        return _train(run, task, inputs)

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        model = pixel_attention_model(recipe)
        load_backbone(safetensors.torch.load(weights.read()), model)
        folder.write(WEIGHTS, safetensors.torch.save(dict(model.state_dict())))
        return {}

    return run.stage(task.name, inputs, work)


def _finetune(run: Run, prefix: str, pretrained: Finished, labels: Finished, threshold: Finished) -> Finished:
    chosen = threshold.about["chosen"]
    task = FinetuneTask(
        recipe=run.recipe,
        data=run.data.location,
        labels=labels.folder,
        threshold=chosen,
        pretrained=pretrained.folder / WEIGHTS,
        num_categories=run.num_clusters,
        name=f"{prefix}finetune",
    )
    inputs = {
        "pretrained": pretrained.inputs,
        "labels": labels.inputs,
        "threshold": chosen,
        "finetune": run.recipe.finetune,
    }
    return _train(run, task, inputs)


def _train(run: Run, task: Task, inputs: dict[str, Any]) -> Finished:
    return train_stage(run, task, inputs, smallest_batch=min(_batch_sizes(run).values()))


def _batch_sizes(run: Run) -> dict[str, int]:
    recipe = run.recipe
    stages = {"attention": recipe.attention, "finetune": recipe.finetune}
    stages |= {} if run.weights else {"pretrain": recipe.pretrain}
    return {name: stage.optimisation.batch_size for name, stage in stages.items()}


def _check_size(run: Run) -> None:
    """Refuse, before anything starts, what would fail after hours."""
    recipe = run.recipe
    _ = recipe.backbone.architecture().channels  # refuses a model that timm does not have
    num_clusters = min(recipe.category_candidates) if run.estimates else run.num_clusters
    for split in {recipe.pretrain.split, "train"}:
        run.data.split(split)
    num_images = len(run.data.split("train"))
    num_centroids = num_clusters * recipe.clustering.parts_per_cluster
    if num_images < num_centroids:
        parts = f" of {recipe.clustering.parts_per_cluster} parts" if num_centroids > num_clusters else ""
        raise UserError(
            f"{run.data.location.uri}: {num_images} training images for {num_clusters} clusters{parts}; add images"
        )
    for name, batch in _batch_sizes(run).items():
        if num_images < batch:
            raise UserError(
                f"{run.data.location.uri}: {num_images} training images are fewer than a batch of {batch}; "
                f"add images or give --{name}.optimisation.batch-size"
            )
    if recipe.clustering.crop_px > recipe.shorter_side_px:
        raise UserError(
            f"clustering.crop_px = {recipe.clustering.crop_px} exceeds shorter_side_px = {recipe.shorter_side_px}"
        )
