"""Weights that a run's name stands for."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from luss_ray.config.recipe import Backbone, Recipe, settings
from luss_ray.core.errors import UserError
from luss_ray.protocols.rules import Protocol
from luss_ray.protocols.weights import find_weights, trained_weights, weights_to_start_from
from luss_ray.storage.dataset import Manifest, ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import segmentation_model
from luss_ray.train.pixel_attention import pixel_attention_model

RECIPE = Recipe(recipe_name="small", backbone=Backbone(name="tiny"))
_MANIFEST = Manifest(name="x", categories=tuple("abcd"), splits={}, shards={}, index_sha256="", digest="d")
DATA = ShardedDataset(Location.parse("/data/here"), _MANIFEST)


def made(folder: Path, *stages: str, result: dict | None = None) -> str:
    """Return a run's folder with weights of the stages."""
    run = Location.parse(folder)
    run.write_json("run.json", {"settings": settings(RECIPE), "data": "d", "data_uri": "/data/here"})
    for stage in stages:
        network = segmentation_model(RECIPE, 4) if stage == "finetune" else pixel_attention_model(RECIPE)
        state = {name: torch.full_like(value, len(stage)) for name, value in network.state_dict().items()}
        run.write(f"{stage}/weights.safetensors", safetensors.torch.save(state))
        run.write_json(f"{stage}/begun.json", {"inputs": "i"})
        run.write_json(f"{stage}/stage.json", {"inputs": "i"})
    if result is not None:
        run.write_json("result.json", result)
    return str(folder)


@pytest.mark.parametrize(
    "result", [{"trained": False, "protocol": "semi-supervised"}, None], ids=["finished", "scoring"]
)
def test_a_fine_tuning_run_stands_for_its_fine_tuned_network(result: dict | None, tmp_path: Path) -> None:
    run = made(tmp_path, "pretrain", "finetune", result=result)
    given = find_weights(run, DATA, Protocol.SEMI_SUPERVISED)
    assert given.file.location.uri.endswith("finetune/weights.safetensors") and "masks" in given.trained_by
    assert (weights_to_start_from(RECIPE, given)["layer1.0.conv1.weight"] == len("finetune")).all()
    assert (trained_weights(RECIPE, given, 4)["last_layer.weight"] == len("finetune")).all()


def test_a_network_that_was_only_scored_is_taken_again(tmp_path: Path) -> None:
    run = made(tmp_path, "finetune", result={"trained": True, "protocol": "free"})
    given = find_weights(run, DATA, Protocol.SEMI_SUPERVISED)
    assert given.file.location.uri.endswith("finetune/weights.safetensors")


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("result", [{"metrics": {}}, None], ids=["finished", "stopped"])
def test_other_runs_stand_for_their_pretrained_backbone(
    protocol: Protocol, result: dict | None, tmp_path: Path
) -> None:
    given = find_weights(made(tmp_path, "pretrain", "attention", "finetune", result=result), DATA, protocol)
    assert given.file.location.uri.endswith("pretrain/weights.safetensors") and given.trained_by.endswith(str(tmp_path))
    stopped = find_weights(made(tmp_path / "early", "pretrain"), DATA, protocol)
    assert stopped.file.location.uri.endswith("pretrain/weights.safetensors")


def test_what_learnt_masks_is_refused_where_none_may_be_learnt(tmp_path: Path) -> None:
    run = made(tmp_path, "pretrain", "finetune", result={"trained": False})
    for protocol in (Protocol.UNSUPERVISED, Protocol.DISTANCE_MATCHING):
        with pytest.raises(UserError, match=f"masks, which the protocol {protocol.value} does not allow.* free"):
            find_weights(run, DATA, protocol)
    assert find_weights(run, DATA, Protocol.FREE).file.location.uri.endswith("finetune/weights.safetensors")


def test_a_network_that_still_learns_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path, "pretrain")
    Location.parse(run).write_json("finetune/begun.json", {"inputs": "i"})
    with pytest.raises(UserError, match=r"not fine-tuned yet: run jobs/finetune\.py again"):
        find_weights(run, DATA, Protocol.SEMI_SUPERVISED)
