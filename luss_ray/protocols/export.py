"""The last stage of a run: its model as a folder to take away."""

from typing import Any

import safetensors.torch

from luss_ray.export.card import model_card
from luss_ray.export.config import SegmenterConfig
from luss_ray.export.segmenter import save
from luss_ray.nn.config import ModelConfig
from luss_ray.stages.evaluate import METRICS
from luss_ray.stages.order import Stage
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import segmentation_model

FOLDER = "model"


def export(run: Run, finetuned: Finished, *, protocol: str, names: list[str], evaluated: Finished | None) -> Finished:
    """Return the stage that writes the fine-tuned network's folder.

    Args:
        run: of which it is.
        finetuned: its weights.
        protocol: the rules that it was trained by.
        names: of its outputs, without "other".
        evaluated: its scores, where there are any.
    """

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        recipe = run.recipe
        network = segmentation_model(recipe, len(names))
        network.load_state_dict(safetensors.torch.load((finetuned.folder / "weights.safetensors").read()))
        model = ModelConfig(
            form="segmentation",
            architecture=network.architecture,  # pyright: ignore[reportArgumentType]
            num_categories=len(names),
            head=recipe.finetune.head,
        )
        evaluation = {} if evaluated is None else (evaluated.folder / METRICS).read_json()
        matching = evaluation.get("matching")
        about = {
            "recipe": recipe.recipe_name,
            "protocol": protocol,
            "method": "learnt from masks" if run.finished(Stage.PSEUDO_LABELS.value) is None else "PASS",
            "dataset": run.data.manifest.name,
            "data": f"digest {run.data.digest}",
            "weights digest": run.weights,
            "metrics": {"finetuned": evaluation["scores"]} if evaluation else {},
        }
        config = SegmenterConfig(
            model=model,
            shorter_side_px=recipe.shorter_side_px,
            guided_radius=recipe.prediction.guided_radius,
            names=("other", *names),
            matching=None if matching is None else tuple(matching),
            about=about,
        )
        title = run.folder.uri.rstrip("/").rpartition("/")[2]
        save(folder, dict(network.state_dict()), config, model_card(config, title))
        return {}

    inputs = {"finetuned": finetuned.inputs, "evaluated": evaluated and evaluated.inputs, "names": names}
    return run.stage(FOLDER, {**inputs, "protocol": protocol, **run.recipe.prediction.departures()}, work)


def cluster_names(run: Run, evaluated: Finished | None) -> list[str]:
    """Return what clusters are called: the category that each was matched with, or its number."""
    names = [f"cluster {number}" for number in range(1, run.num_clusters + 1)]
    matching = (evaluated.folder / METRICS).read_json().get("matching") if evaluated else None
    for cluster, category in enumerate((matching or [])[1:]):
        if category:
            names[cluster] = run.data.categories[category - 1]
    return names
