"""What a run leaves in its model's folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import luss_ray
from luss_ray.config.recipe import Prediction
from luss_ray.config.recipes import RECIPES
from luss_ray.metrics.evaluation import Matching, Question
from luss_ray.protocols.export import cluster_names, export
from luss_ray.protocols.rules import Protocol
from luss_ray.stages.evaluate import METRICS
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.train.cluster import Resources
from luss_ray.train.finetune import segmentation_model
from luss_ray.train.limits import Limits

RESOURCES = Resources(
    num_workers=(1, 1), use_gpu=False, num_loaders=1, loader_cpus=1, num_threads=1, preemptible=False, num_actors=1
)


@pytest.fixture
def run(shards: Path, tmp_path: Path) -> Run:
    data = ShardedDataset.open(Location.parse(shards))
    limits = Limits(max_bad_samples=0, max_failures=0, checkpoint_every_s=60)
    folder = Location.parse(tmp_path / "mine")
    return Run(folder=folder, recipe=RECIPES["demo"](), data=data, connect=lambda: RESOURCES, limits=limits)


def finetuned(run: Run) -> Finished:
    """A network that was never trained."""
    folder = run.folder / "finetune"
    state = dict(segmentation_model(run.recipe, len(run.data.categories)).state_dict())
    folder.write("weights.safetensors", safetensors.torch.save(state))
    return Finished(folder=folder, inputs="1", about={})


def evaluated(run: Run, matching: Matching) -> tuple[Finished, list[int] | None]:
    """Scores of one image, whose clusters are the categories shifted by one, and the matching that was found."""
    num = len(run.data.categories)
    mask = np.repeat(np.repeat(np.arange(1, num + 1, dtype=np.uint16)[None], 8, axis=1), 16, axis=0)
    clusters = mask % num + 1
    tally = Question(num_categories=num, num_clusters=num, matching=matching).tally()
    for image in range(num):
        part = np.s_[:, 8 * image : 8 * image + 8]
        tally.counts.update(*((clusters[part], None) if matching is not Matching.NONE else (mask[part],)), mask[part])  # pyright: ignore
    evaluation = tally.evaluation()
    about = {"scores": evaluation.scores.to_json()}
    found = None if evaluation.mapping is None else evaluation.mapping.tolist()
    folder = run.folder / "evaluation"
    folder.write_json(METRICS, about if found is None else about | {"matching": found})
    return Finished(folder=folder, inputs="2", about={}), found


def test_a_run_of_pass_leaves_its_matching_and_how_images_are_prepared(run: Run) -> None:
    scored, matching = evaluated(run, Matching.IMAGES)
    num = len(run.data.categories)
    assert matching is not None
    assert matching == [0, *[(cluster - 2) % num + 1 for cluster in range(1, num + 1)]]
    (run.folder / "pseudo-labels").write_json("stage.json", {"inputs": "0"})
    protocol = Protocol.UNSUPERVISED.value
    export(run, finetuned(run), protocol=protocol, names=cluster_names(run, scored), evaluated=scored)
    config = (run.folder / "model").read_json("config.json")
    assert config["matching"] == matching
    assert config["names"] == ["other", *(run.data.categories[category - 1] for category in matching[1:])]
    assert config["shorter_side_px"] == 64 and config["interpolation"] == "bilinear, antialiased"
    assert config["mean"] == [0.485, 0.456, 0.406] and config["std"] == [0.229, 0.224, 0.225]
    about = config["about"]
    assert run.data.digest in about["data"] and about["protocol"] == protocol
    assert about["metrics"]["finetuned"]["mbiou"] == pytest.approx(100 * num / (num + 1), abs=0.1)
    card = (run.folder / "model").read("README.md").decode()
    assert "| boundary mIoU |" in card and "tags: [semantic-segmentation, unsupervised, PASS]" in card
    model = luss_ray.load(run.folder.uri)
    assert model.config.guided_radius == 0 and "outlines" not in card
    guided = replace(run.recipe, prediction=Prediction(guided_radius=1.5))
    export(replace(run, recipe=guided), finetuned(run), protocol=protocol, names=model.names[1:], evaluated=scored)
    assert luss_ray.load(run.folder.uri).config.guided_radius == 1.5
    assert "follow outlines within 1.5 pixels" in (run.folder / "model").read("README.md").decode()
    assert model.config.matching == tuple(matching) and model(torch.zeros(1, 3, 64, 64)).shape[1] == num + 1


def test_one_that_learnt_from_masks_has_no_matching(run: Run) -> None:
    scored, _ = evaluated(run, Matching.NONE)
    names, protocol = list(run.data.categories), Protocol.SEMI_SUPERVISED.value
    export(run, finetuned(run), protocol=protocol, names=names, evaluated=scored)
    assert (run.folder / "model").read_json("config.json")["matching"] is None
    card = (run.folder / "model").read("README.md").decode()
    assert "tags: [semantic-segmentation, semi-supervised]" in card and "| method | learnt from masks |" in card


def test_one_without_masks_is_exported_without_scores(run: Run) -> None:
    names = [f"cluster {number}" for number, _ in enumerate(run.data.categories, start=1)]
    export(run, finetuned(run), protocol=Protocol.UNSUPERVISED.value, names=names, evaluated=None)
    config = (run.folder / "model").read_json("config.json")
    assert config["matching"] is None and config["about"]["metrics"] == {}
