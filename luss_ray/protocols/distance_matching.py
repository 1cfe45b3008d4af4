"""The distance matching protocol: a pretrained backbone alone, scored by its nearest annotated regions."""

from typing import Any

import torch

from luss_ray.config.recipe import settings
from luss_ray.core.errors import UserError
from luss_ray.metrics.evaluation import Matching, Question
from luss_ray.protocols.plan import PlannedStage, plan
from luss_ray.protocols.rules import ANNOTATED, Protocol
from luss_ray.protocols.weights import GivenWeights
from luss_ray.report.collect import RESULT
from luss_ray.stages.evaluate import METRICS, score_shards
from luss_ray.stages.match_distance import (
    Features,
    NearestWork,
    ReferenceWork,
    read_references,
    reference_file,
)
from luss_ray.stages.run import Run
from luss_ray.stages.shards import ShardWork, run_over_shards
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location


def run_distance_matching(run: Run, weights: GivenWeights, *, shown: str, protocol: Protocol) -> dict[str, Any]:
    """Find references on train-semi, predict a split, score it where it has masks; return what result.json holds.

    Args:
        run: data, backbone (of its recipe) and folder.
        weights: of the backbone.
        shown: the split that is predicted.
        protocol: the rules that the weights keep, for the result.

    Raises:
        UserError: the data, the weights or the storage don't allow it.
    """
    features = _checked(run, weights, shown)
    with run.claimed() as claimed:
        result = _match_distance(claimed, weights, features, shown, protocol)
        result["weights"] = weights.about()
        claimed.folder.write_json(RESULT, result)
        return result


def plan_distance_matching(run: Run, weights: GivenWeights, *, shown: str, protocol: Protocol) -> list[PlannedStage]:
    """Return what `run_distance_matching` would do, and what of it is done.

    Raises:
        UserError: it would refuse.
    """
    features = _checked(run, weights, shown)
    predictions = f"predictions-{shown}"
    names = ["references", predictions] + ["evaluation"] * run.data.split(shown).has_masks
    splits = {"references": ANNOTATED, predictions: shown, "evaluation": shown}
    return plan(run, lambda walked: _match_distance(walked, weights, features, shown, protocol), names, splits)


def _checked(run: Run, weights: GivenWeights, shown: str) -> Features:
    """Return the backbone, or refuse before anything starts what would fail later."""
    run.data.split(shown)
    if not run.data.split(ANNOTATED).has_masks:
        raise UserError(f"{run.data.location.uri}: {ANNOTATED} has no masks, which are the references here")
    features = Features(
        architecture=run.recipe.backbone.architecture(),
        read_weights=weights.file,
        shorter_side_px=run.recipe.shorter_side_px,
    )
    features.load(torch.device("cpu"))
    return features


def _match_distance(
    run: Run, weights: GivenWeights, features: Features, shown: str, protocol: Protocol
) -> dict[str, Any]:
    semi, split = run.data.split(ANNOTATED), run.data.split(shown)
    inputs = {"weights": weights.sha256, "backbone": run.recipe.backbone, "side": run.recipe.shorter_side_px}

    def find_references(folder: Location, digest: str) -> dict[str, Any]:
        there = set(folder.list(suffix=".npz"))
        todo = [shard for shard in range(len(semi.shards)) if reference_file(semi, shard) not in there]
        _over_shards(run, ReferenceWork(split=semi, features=features, folder=folder), semi, todo, "references")
        return {"images": len(semi)}

    references = run.stage("references", inputs, find_references)
    labels, vectors = read_references(references.folder, semi)

    def predict(folder: Location, digest: str) -> dict[str, Any]:
        predictions = LabelShards(folder, split)
        work = NearestWork(split=split, features=features, labels=labels, vectors=vectors, predictions=predictions)
        todo = sorted(set(range(len(split.shards))) - set(predictions.published()))
        _over_shards(run, work, split, todo, "predictions")
        return {"images": len(split), "references": len(labels)}

    predicted = run.stage(f"predictions-{shown}", {"references": references.inputs, "split": shown}, predict)
    result: dict[str, Any] = {
        "protocol": protocol.value,
        "recipe": run.recipe.recipe_name,
        "settings": settings(run.recipe),
        "data": {"uri": run.data.location.uri, "digest": run.data.digest, "split": shown},
        "num_references": len(labels),
        "metrics": {},
    }
    if split.has_masks:
        num_categories = len(run.data.categories)
        question = Question(num_categories=num_categories, num_clusters=num_categories, matching=Matching.NONE)

        def evaluate(folder: Location, digest: str) -> dict[str, Any]:
            scores = score_shards(LabelShards(predicted.folder, split), question).evaluation().scores
            folder.write_json(METRICS, {"scores": scores.to_json(), "protocol": protocol.value})
            return {"images": len(split)}

        evaluated = run.stage("evaluation", {"predictions": predicted.inputs}, evaluate)
        result["metrics"] = {"distance_matching": (evaluated.folder / METRICS).read_json()["scores"]}
    return result


def _over_shards(run: Run, work: ShardWork, split: Split, todo: list[int], name: str) -> None:
    run_over_shards(work, todo, split.shard_sizes, name, run.resources, max_bad_samples=run.limits.max_bad_samples)
