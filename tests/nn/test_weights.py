import argparse
import json
import os
import pickle
from pathlib import Path

import fixtures_run as job
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.config import ModelConfig, identify
from luss_ray.nn.models import PixelAttentionModel, PretrainModel, SegmentationModel
from luss_ray.nn.resnet import ResNetArchitecture, resnet18
from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location

NET = ResNetArchitecture("bottleneck", (1, 2, 1, 1), widths=(4, 6, 8, 12), stem_width=5)
HEADS = {"hidden": 10, "num_prototypes": 7, "embedding_dim": 5}
MODELS = {
    "backbone": lambda: Backbone(NET),
    "basic": lambda: Backbone(ResNetArchitecture("basic", (2, 1, 1, 2), widths=(4, 6, 8, 12))),
    "pretrain": lambda: PretrainModel(NET, **HEADS, shallow_stages=(3, 2)),
    "plain": lambda: PretrainModel(NET, **HEADS, shallow_stages=()),
    "attention": lambda: PixelAttentionModel(NET, **HEADS),
    "segmentation": lambda: SegmentationModel(NET, num_categories=9),
}
convert = job.load_program("jobs/convert.py")


def run_convert(source: Path, out: Path, **options) -> None:
    convert.main(convert.Options(source=str(source), out=str(out), **options))


@pytest.mark.parametrize("name", MODELS)
def test_a_published_checkpoint_becomes_the_model_it_is_of(name: str, tmp_path: Path) -> None:
    """Published checkpoints hold settings, scores and an optimiser beside the weights, whose names have a prefix."""
    model = MODELS[name]()
    state = {f"module.{entry}": value for entry, value in model.state_dict().items()}
    rest = {"args": argparse.Namespace(lr=0.6), "best_acc": np.float64(1.5), "epoch": np.int64(3)}
    torch.save({"state_dict": state, "optimizer": {"momentum": [torch.zeros(3)]}, **rest}, tmp_path / "c.pth.tar")
    run_convert(tmp_path / "c.pth.tar", tmp_path / "out")
    config = ModelConfig.from_json(json.loads((tmp_path / "out" / "config.json").read_text()))
    built = config.build()
    assert type(built) is type(model)
    built.load_state_dict(safetensors.torch.load_file(tmp_path / "out" / "model.safetensors"))
    assert all(torch.equal(value, model.state_dict()[entry]) for entry, value in built.state_dict().items())


def test_the_backbone_goes_back_to_torchvision(tmp_path: Path) -> None:
    model = PretrainModel(resnet18(), **HEADS)
    torch.save(model.state_dict(), tmp_path / "c.pth")
    for name, load in (
        ("b.pth", lambda path: torch.load(path, weights_only=True)),
        ("b.safetensors", safetensors.torch.load_file),
    ):
        run_convert(tmp_path / "c.pth", tmp_path / name, dry_run=True)
        assert not (tmp_path / name).exists()
        run_convert(tmp_path / "c.pth", tmp_path / name)
        theirs = torchvision.models.resnet18(weights=None)
        missing, unexpected = theirs.load_state_dict(load(tmp_path / name), strict=False)
        assert missing == ["fc.weight", "fc.bias"] and not unexpected
        assert torch.equal(theirs.layer3[1].conv2.weight, model.layer3[1].conv2.weight)
        run_convert(tmp_path / name, tmp_path / f"{name}-again")
        again = safetensors.torch.load_file(tmp_path / f"{name}-again" / "model.safetensors")
        assert torch.equal(again["layer3.1.conv2.weight"], model.layer3[1].conv2.weight)


def test_torchvision_weights_lose_their_classifier_and_say_so(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "r.pth")
    with CONSOLE.capture() as said:
        run_convert(tmp_path / "r.pth", tmp_path / "out", d16=True)
    assert "left out, since the model has no such entry: fc.bias, fc.weight" in said.get()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["architecture"]["dilate_last"]
    torch.save(Backbone(resnet18()).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(UserError, match="no D16"):
        run_convert(tmp_path / "r18.pth", tmp_path / "out18", d16=True)


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def _spoilt(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return files that are no weights, and what is said of them."""
    state = Backbone(NET).state_dict()
    torch.save(state, folder / "whole.pth")
    safetensors.torch.save_file(state, folder / "whole.safetensors")
    whole = {path.suffix: path.read_bytes() for path in folder.glob("whole.*")}
    torch.save({"state_dict": state, "hook": RunsCode(folder / "ran")}, folder / "code.pth")
    contents = {
        "pickle.pth": (pickle.dumps(RunsCode(folder / "ran")), "is no file of weights"),
        "junk.pth": (b"hello", "is no file of weights"),
        "cut.pth": (whole[".pth"][:-2000], "not the whole of it"),
        "cut.safetensors": (whole[".safetensors"][:-1], "not the whole of it"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    torch.save([1, 2], folder / "list.pth")
    torch.save({"conv1.weight": torch.zeros(3)}, folder / "other.pth")
    torch.save({n: v for n, v in state.items() if n != "layer3.0.bn2.weight"}, folder / "lacks.pth")
    torch.save({**state, "layer3.0.bn2.weight": torch.zeros(3)}, folder / "shape.pth")
    torch.save({**state, "conv1.weight": torch.zeros(5, 3, 3, 3)}, folder / "small.pth")
    said = {name: words for name, (_, words) in contents.items()} | {
        "code.pth": "mkdir, which can't be read without running code",
        "list.pth": "holds no named weights",
        "other.pth": "not the weights of a ResNet",
        "lacks.pth": r"lack 1 entries: layer3\.0\.bn2\.weight",
        "shape.pth": r"layer3\.0\.bn2\.weight is \(3,\) in the weights, \(8,\)",
        "small.pth": "give the folder of the run",
        "missing.pth": "no weights at",
    }
    return {name: (folder / name, words) for name, words in said.items()}


def test_what_is_no_weights_is_refused_and_no_code_runs(tmp_path: Path) -> None:
    for path, words in _spoilt(tmp_path).values():
        with pytest.raises(UserError, match=words):
            run_convert(path, tmp_path / "out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    torch.save(Backbone(NET).state_dict(), tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    with pytest.raises(UserError, match=r"a\.pth exists already"):
        run_convert(tmp_path / "a.pth", tmp_path / "a.pth")
    run_convert(tmp_path / "a.pth", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        run_convert(tmp_path / "a.pth", tmp_path / "out")
    assert (tmp_path / "a.pth").read_bytes() == before


def test_a_config_of_a_newer_version_or_of_something_else_is_refused() -> None:
    config = identify(Backbone(NET).state_dict()).to_json()
    for other in (1, 99):
        with pytest.raises(UserError, match=f"format {other}, .* convert"):
            ModelConfig.from_json({**config, "format": other})
    for wrong in ({"format": config["format"]}, {**config, "model": {**config["model"], "form": "transformer"}}):
        with pytest.raises(UserError, match="does not describe a model"):
            ModelConfig.from_json(wrong)


def test_weights_are_read_from_a_store_too(tmp_path: Path) -> None:
    torch.save({"model": {"backbone.a": torch.ones(2)}}, tmp_path / "w.pth")
    assert WeightsFile(Location.parse(tmp_path / "w.pth"))()["a"].tolist() == [1, 1]
