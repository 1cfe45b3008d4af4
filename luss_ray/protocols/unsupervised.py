"""The fully unsupervised protocol: PASS from images to scored segmentations and a report."""

import functools
from collections.abc import Iterator
from typing import Any

import safetensors.torch

from luss_ray.config.recipe import Recipe
from luss_ray.core.errors import UserError
from luss_ray.protocols.rules import Protocol, check_split
from luss_ray.report.collect import write_report
from luss_ray.stages.cluster import cluster
from luss_ray.stages.evaluate import evaluate, score_baselines
from luss_ray.stages.extract import extract
from luss_ray.stages.infer import infer
from luss_ray.stages.order import Stage
from luss_ray.stages.pseudo_label import pseudo_label
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.threshold import find_threshold
from luss_ray.storage.uri import Location
from luss_ray.train.figures import read_rows
from luss_ray.train.launch import train
from luss_ray.train.pretrain import pretrain_model
from luss_ray.train.task import FinetuneTask, PixelAttentionTask, PretrainTask, Task

RANDOM_BACKBONE, WEIGHTS = "random-backbone/", "weights.safetensors"


def run_pass(run: Run, until: Stage | None = None, protocol: Protocol = Protocol.UNSUPERVISED) -> dict[str, Any]:
    """Take a run through its stages, skipping what is finished; return what result.json holds.

    Args:
        run: what to do.
        until: last stage to do; None = all, with the random baseline where the recipe asks for it.
        protocol: what may be trained on.

    Raises:
        UserError: the input, the settings or the storage don't allow it.
    """
    check_split(protocol, run.recipe.pretrain.split, run.data)
    _check_size(run)
    with run.claimed() as claimed:
        for stage in _stages(claimed):
            if stage is until:
                break
        result = write_report(claimed)
        claimed.trackers.scores(result["metrics"])
        return result


def _stages(run: Run) -> Iterator[Stage]:
    """Do one stage after the other, yielding its name when it is done."""
    pretrained = _pretrain(run)
    yield Stage.PRETRAIN
    yield from _after_pretraining(run, "", pretrained)
    if run.recipe.random_baseline and run.labelled:
        yield from _after_pretraining(run, RANDOM_BACKBONE, _random_backbone(run))
    yield Stage.REPORT


def _after_pretraining(run: Run, prefix: str, pretrained: Finished) -> Iterator[Stage]:
    """Steps 2 to 4 from any backbone; all folders lie below `prefix`."""
    attention = _learn_attention(run, prefix, pretrained)
    yield Stage.ATTENTION
    features = extract(run, prefix, attention)
    yield Stage.FEATURES
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
    if run.labelled:
        evaluate(run, prefix, predictions)
        score_baselines(run)
    yield Stage.EVALUATION


def _pretrain(run: Run) -> Finished:
    recipe = run.recipe
    inputs = {"seed": recipe.seed, "backbone": recipe.backbone, "prototypes": recipe.prototypes}
    task = PretrainTask(recipe=recipe, data=run.data.location)
    return _train(run, "pretrain", task, {**inputs, "pretrain": recipe.pretrain})


def _random_backbone(run: Run) -> Finished:
    """The backbone as pretraining would have found it at its start."""
    recipe = run.recipe

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        folder.write(WEIGHTS, safetensors.torch.save(dict(pretrain_model(recipe).state_dict())))
        return {}

    inputs = {"seed": recipe.seed, "backbone": recipe.backbone, "prototypes": recipe.prototypes}
    return run.stage(f"{RANDOM_BACKBONE}pretrain", inputs, work)


def _learn_attention(run: Run, prefix: str, pretrained: Finished) -> Finished:
    task = PixelAttentionTask(
        recipe=run.recipe, data=run.data.location, pretrained=pretrained.folder / WEIGHTS, name=f"{prefix}attention"
    )
    return _train(run, task.name, task, {"pretrained": pretrained.inputs, "attention": run.recipe.attention})


def _finetune(run: Run, prefix: str, pretrained: Finished, labels: Finished, threshold: Finished) -> Finished:
    chosen = threshold.about["chosen"]
    task = FinetuneTask(
        recipe=run.recipe,
        data=run.data.location,
        labels=labels.folder,
        threshold=chosen,
        pretrained=pretrained.folder / WEIGHTS,
        num_clusters=run.num_clusters,
        name=f"{prefix}finetune",
    )
    inputs = {
        "pretrained": pretrained.inputs,
        "labels": labels.inputs,
        "threshold": chosen,
        "finetune": run.recipe.finetune,
    }
    return _train(run, task.name, task, inputs)


def _train(run: Run, name: str, task: Task, inputs: dict[str, Any]) -> Finished:
    def work(folder: Location, settings: str) -> dict[str, Any]:
        num_workers, smallest = run.resources.num_workers[1], min(_batch_sizes(run.recipe).values())
        if smallest < 2 * num_workers:
            raise UserError(f"a batch of {smallest} is too small for {num_workers} workers; give fewer --num-workers")
        track = functools.partial(run.trackers.rows, name) if run.trackers else None
        images = train(task, folder, settings=settings, resources=run.resources, limits=run.limits, track=track)
        return {"images": images}

    finished = run.stage(name, {**inputs, "mixed_precision": run.recipe.mixed_precision}, work)
    if run.trackers:  # of a stage that was finished or copied they have seen nothing; what they have is dropped
        run.trackers.rows(name, read_rows(finished.folder))
    return finished


def _batch_sizes(recipe: Recipe) -> dict[str, int]:
    stages = {"pretrain": recipe.pretrain, "attention": recipe.attention, "finetune": recipe.finetune}
    return {name: stage.optimisation.batch_size for name, stage in stages.items()}


def _check_size(run: Run) -> None:
    """Refuse, before anything starts, what would fail after hours."""
    recipe = run.recipe
    num_clusters = run.num_clusters
    for split in {recipe.pretrain.split, "train"}:
        run.data.split(split)
    num_images = len(run.data.split("train"))
    if num_images < num_clusters:
        raise UserError(
            f"{run.data.location.uri}: {num_images} training images for {num_clusters} clusters; add images"
        )
    for name, batch in _batch_sizes(recipe).items():
        if num_images < batch:
            raise UserError(
                f"{run.data.location.uri}: {num_images} training images are fewer than a batch of {batch}; "
                f"add images or give --{name}.optimisation.batch-size"
            )
    if recipe.clustering.crop_px > recipe.shorter_side_px:
        raise UserError(
            f"clustering.crop_px = {recipe.clustering.crop_px} exceeds shorter_side_px = {recipe.shorter_side_px}"
        )
