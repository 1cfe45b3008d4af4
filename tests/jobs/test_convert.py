"""Networks of runs, and the folders that they leave, in other forms and back."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fixtures_export
import fixtures_run as job
import pytest
import safetensors.torch
import torch

from luss_ray.config.recipe import Backbone, Recipe, settings
from luss_ray.config.recipes import RECIPES
from luss_ray.core.errors import UserError
from luss_ray.export.segmenter import SegmenterConfig, load, save
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.config import ModelConfig, identify
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.rf_next import RFMode, RFNextArchitecture, rf_convolutions
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import segmentation_model
from luss_ray.train.pixel_attention import pixel_attention_model

convert = job.load_program("jobs/convert.py")
BACKBONES = {
    "semi-convnext-t": "timm:test_convnext",
    "semi-vit-b16": "timm:test_vit",
    "semi-resnet50": "tiny",
    "semi-rf-convnext-t-multiple": "rf-next:test_convnext",
    "semi-rf-convnext-t-merge": "rf-next:test_convnext",
}


def run_convert(source: Path, out: Path, **options) -> None:
    convert.main(convert.Options(source=str(source), out=str(out), **options))


def converted(folder: Path) -> SegmentationModel:
    """Return the network in a folder that the program wrote."""
    model = ModelConfig.from_json(json.loads((folder / "config.json").read_text())).build()
    assert isinstance(model, SegmentationModel)
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model.eval()


def small(name: str) -> Recipe:
    """Return a recipe with a small network."""
    recipe = RECIPES[name]()
    drop_path = 0.0 if BACKBONES[name] == "tiny" else 0.1
    backbone = Backbone(name=BACKBONES[name], drop_path=drop_path, rf_mode=recipe.backbone.rf_mode)
    return replace(recipe, backbone=backbone)


def wide(network: SegmentationModel) -> SegmentationModel:
    """Return a merged network with a kernel that grew."""
    state = dict(network.state_dict())
    name = next(name for name in state if name.endswith("conv_dw.weight"))
    state[name] = torch.randn(*state[name].shape[:2], 13, 13)
    network.load_state_dict(state)
    assert {c.kernel_size[0] for c in rf_convolutions(network)} == {7, 13}
    return network


def fine_tuned(folder: Path, recipe: Recipe) -> SegmentationModel:
    """Return a network of 3 categories, and write the run of jobs/finetune.py that made it."""
    network, run = segmentation_model(recipe, 3).eval(), Location.parse(folder)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    network = wide(network) if recipe.backbone.rf_mode is RFMode.MERGE else network
    run.write_json("run.json", {"settings": settings(recipe), "data": "d", "data_uri": "there"})
    run.write_json("result.json", {"trained": False})
    run.write("finetune/weights.safetensors", safetensors.torch.save(dict(network.state_dict())))
    run.write("pretrain/weights.safetensors", safetensors.torch.save(dict(pixel_attention_model(recipe).state_dict())))
    return network


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fine_tuned_network_keeps_its_head(name: str, tmp_path: Path) -> None:
    recipe, pixels = small(name), torch.randn(2, 3, 64, 96)
    network = fine_tuned(tmp_path / "run", recipe)
    run_convert(tmp_path / "run", tmp_path / "out", stage=convert.Stage.FINETUNE)
    config = ModelConfig.from_json(json.loads((tmp_path / "out" / "config.json").read_text()))
    assert config.num_categories == 3 and config.head == recipe.finetune.head
    again = converted(tmp_path / "out")
    torch.testing.assert_close(again(pixels), network(pixels))
    assert again.state_dict().keys() == network.state_dict().keys()


def test_a_fine_tuning_run_gives_its_fine_tuned_network_unless_asked_otherwise(tmp_path: Path) -> None:
    recipe = small("semi-vit-b16")
    network = fine_tuned(tmp_path / "run", recipe)
    run_convert(tmp_path / "run", tmp_path / "fine-tuned.pth")
    run_convert(tmp_path / "run", tmp_path / "start.pth", stage=convert.Stage.PRETRAIN)
    ends, starts = (torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in ("fine-tuned", "start"))
    expected = network.state_dict()["trunk.norm.bias"]
    assert torch.equal(ends["norm.bias"], expected) and not torch.equal(starts["norm.bias"], expected)


def test_options_that_can_not_be_meant_are_refused_and_a_dry_run_sees_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--size-px 0"):
        convert.Options(source="run", out="x.onnx", size_px=0)
    with pytest.raises(UserError, match="leave it out"):
        convert.Options(source="run", out="x.pt2", stage=convert.Stage.FINETUNE)
    fixtures_export.exported(tmp_path / "model")
    run_convert(tmp_path / "model", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        run_convert(tmp_path / "model", tmp_path / "out", dry_run=True)
    with pytest.raises(UserError, match="describes no model that segments images"):
        load(tmp_path / "out")
    words = [str(tmp_path / name) for name in ("model", "x.pth")]
    command = [sys.executable, str(job.ROOT / "jobs" / "convert.py"), *words, "--stage", "finetune", "--dry-run"]
    done = subprocess.run(command, env=job.job_environment(), capture_output=True, text=True, check=True)
    assert "nothing has been written" in done.stdout


@pytest.mark.parametrize("kind", fixtures_export.ARCHITECTURES)
def test_the_model_of_a_run_converts_back(kind: str, tmp_path: Path) -> None:
    network, pixels = fixtures_export.exported(tmp_path / "model", kind), torch.randn(1, 3, 64, 64)
    run_convert(tmp_path / "model", tmp_path / "out")
    torch.testing.assert_close(converted(tmp_path / "out")(pixels), network(pixels))
    run_convert(tmp_path / "model", tmp_path / "x.pth")
    again = SegmentationModel(network.architecture, num_categories=3).eval()
    load_backbone(torch.load(tmp_path / "x.pth", weights_only=True), again)
    torch.testing.assert_close(again.stages(pixels)[3], network.stages(pixels)[3])
    run_convert(tmp_path / "out", tmp_path / "y.pth")
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("x.pth", "y.pth"))
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_merged_network_loads_from_its_folder(tmp_path: Path) -> None:
    recipe, pixels = small("semi-rf-convnext-t-merge"), torch.randn(1, 3, 64, 64)
    network = fine_tuned(tmp_path / "run", recipe)
    architecture, head = network.architecture, recipe.finetune.head
    assert isinstance(architecture, RFNextArchitecture)
    model = ModelConfig(form="segmentation", architecture=architecture, num_categories=3, head=head)
    config = SegmenterConfig(model=model, shorter_side_px=48, names=("other", "a", "b", "c"), about={})
    save(Location.parse(tmp_path / "model"), dict(network.state_dict()), config, "card")
    torch.testing.assert_close(load(tmp_path / "model")(pixels), network(pixels))
    run_convert(tmp_path / "model", tmp_path / "out")
    torch.testing.assert_close(converted(tmp_path / "out")(pixels), network(pixels))


def test_a_norm_before_the_classifier_is_told_from_the_entries(tmp_path: Path) -> None:
    network = fine_tuned(tmp_path / "run", small("semi-convnext-t"))
    config = identify(network.state_dict(), architecture=network.architecture)  # pyright: ignore[reportArgumentType]
    assert config.head.norm


def test_a_folder_of_a_later_version_is_refused(tmp_path: Path) -> None:
    fixtures_export.exported(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(UserError, match="install a newer luss_ray"):
        run_convert(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize("name", ["x.pt", "x.pth.tar", "x.bin"])
def test_a_file_of_another_kind_is_not_taken_for_a_folder(tmp_path: Path, name: str) -> None:
    fixtures_export.exported(tmp_path / "model")
    with pytest.raises(UserError, match="no file that can be written"):
        run_convert(tmp_path / "model", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_network_whose_attention_was_left_out_goes_along(tmp_path: Path) -> None:
    recipe = small("semi-resnet50")
    recipe = replace(recipe, attention=replace(recipe.attention, enabled=False))
    state = pixel_attention_model(recipe).state_dict()
    config = identify(state, architecture=recipe.backbone.architecture())
    assert config.form == "pixel-attention" and not config.attentive and not config.check(state)
    config.build().load_state_dict(state)
    assert ModelConfig.from_json(config.to_json()) == config
