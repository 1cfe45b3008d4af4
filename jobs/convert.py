#!/usr/bin/env -S uv run
"""Weights from one form into another: `python jobs/convert.py IN OUT`.

IN is a checkpoint (.pth, .pth.tar, .safetensors) of the published systems, of torchvision or of this project, a run of
jobs/pass.py or jobs/finetune.py, its model/ folder, or a folder that this program wrote. OUT is a new folder, which
gets model.safetensors and config.json, or a new file: .pth or .safetensors for the backbone alone under torchvision's
names, .onnx or .pt2 (torch.export) for the graph of a finished run's segmentation network, compared with the network
before it is written.
"""

import enum
import io
from dataclasses import dataclass

import safetensors.torch
import torch
import tyro
from torch import Tensor

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.nn.config import ModelConfig, backbone_entries, identify
from luss_ray.nn.weights import SAFETENSORS, WeightsFile
from luss_ray.protocols.weights import is_fine_tuning
from luss_ray.stages.run import RUN, read_origin
from luss_ray.storage.uri import Location, json_bytes

MODEL, CONFIG = "model.safetensors", "config.json"
FILES = (".pth", SAFETENSORS)
GRAPHS = (".onnx", ".pt2")
_OTHER_FILES = (".pt", ".pth.tar", ".tar", ".bin", ".ckpt", ".npz")
"""Endings by which people would mean a file, which this program doesn't write."""


class Stage(enum.Enum):
    """Training stages, each of which leaves a model."""

    PRETRAIN = "pretrain"
    ATTENTION = "attention"
    FINETUNE = "finetune"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Weights from one form into another, never running code that a file holds."""

    source: tyro.conf.Positional[str]
    """A checkpoint file, a run's folder, its model/ folder, or a folder that this program wrote; here or in s3://."""
    out: tyro.conf.Positional[str]
    """A new folder for model.safetensors and config.json; a new .pth or .safetensors for the backbone alone, with
    torchvision's names; or a new .onnx or .pt2 for a finished run's graph."""
    stage: Stage | None = None
    """Which model of a run; by default the fine-tuned one of jobs/finetune.py, the pretrained one of others."""
    d16: bool = False
    """The checkpoint's last stage is dilated, which its entries don't tell."""
    size_px: int | None = None
    """Height and width of a graph's images, where they are to be fixed."""
    dry_run: bool = False
    """Say what would be done, and whether it could be; do and write nothing."""

    def __post_init__(self) -> None:
        if self.size_px is not None and self.size_px < 1:
            raise UserError(f"--size-px {self.size_px}: must be at least 1")
        if self.out.endswith(GRAPHS) and self.stage is not None:
            raise UserError("--stage: a graph is of the segmentation network that a finished run leaves; leave it out")


def read(options: Options) -> tuple[dict[str, Tensor], ModelConfig, WeightsFile]:
    """Return the weights, what they are of, and the file they were in."""
    source = Location.parse(options.source)
    if source.exists(RUN):
        recipe = read_origin(source).recipe
        stage = options.stage or (Stage.FINETUNE if is_fine_tuning(source) else Stage.PRETRAIN)
        weights = WeightsFile(source / stage.value / "weights.safetensors")
        state = weights()
        architecture, head = recipe.backbone.architecture(), recipe.finetune.head
        return state, identify(state, architecture=architecture, head=head), weights
    if source.exists(CONFIG):
        weights = WeightsFile(source / MODEL)
        return weights(), _config(source), weights
    weights = WeightsFile(source)
    state = weights()
    return state, identify(state, dilate_last=options.d16), weights


def _config(folder: Location) -> ModelConfig:
    """Return what a folder holds: one that this program wrote, or the model/ folder of a finished run."""
    from luss_ray.export.segmenter import SegmenterConfig

    values = folder.read_json(CONFIG)
    if isinstance(values.get("model"), dict) and "format" in values["model"]:  # the network's own, within the folder's
        return SegmenterConfig.from_json(values, folder.child(CONFIG).uri).model
    return ModelConfig.from_json(values)


def write(state: dict[str, Tensor], config: ModelConfig, weights: WeightsFile, out: Location) -> None:
    """Write what the target asks for; refuse to replace anything."""
    state = {name: value.contiguous() for name, value in state.items()}
    if out.path.endswith(FILES):
        _publish(out.parent, out.path.rpartition("/")[2], _file(backbone_entries(state), out))
        return
    origin = {"file": weights.location.path.rpartition("/")[2], "sha256": weights.sha256()}
    _publish(out, MODEL, safetensors.torch.save(state))
    _publish(out, CONFIG, json_bytes({**config.to_json(), "source": origin}))


def write_graph(options: Options, out: Location) -> None:
    """Write the graph of a finished run, or of its model/ folder."""
    from luss_ray.export.graph import graph_bytes
    from luss_ray.export.segmenter import load

    model = load(options.source)
    content, sizes = graph_bytes(model, f".{out.path.rpartition('.')[2]}", fixed_px=options.size_px)
    if not options.dry_run:
        _publish(out.parent, out.path.rpartition("/")[2], content)
    CONSOLE.print(f"{model.config.model.architecture.about}, {len(model.names)} outputs, images of {sizes}\n{out.uri}")
    _say_if_dry(options)


def _file(state: dict[str, Tensor], out: Location) -> bytes:
    if out.path.endswith(SAFETENSORS):
        return safetensors.torch.save(state)
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def _publish(folder: Location, name: str, data: bytes) -> None:
    if not folder.create(name, data):
        raise _exists(folder.child(name))


def _exists(there: Location) -> UserError:
    return UserError(f"{there.uri} exists already: choose another target")


def main(options: Options) -> None:
    """Convert, and say what it was."""
    out = Location.parse(options.out)
    for there in (out, out / MODEL, out / CONFIG):
        if there.exists():
            raise _exists(there)
    if out.path.endswith(GRAPHS):
        write_graph(options, out)
        return
    if out.path.endswith(_OTHER_FILES):
        raise UserError(f"{out.uri} is no file that can be written: give .pth, .safetensors, .onnx, .pt2, or a folder")
    state, config, weights = read(options)
    left_out = config.check(state)
    if not options.dry_run:
        write({name: value for name, value in state.items() if name not in left_out}, config, weights, out)
    shape = config.architecture
    counts = (("prototypes", config.num_prototypes), ("categories", config.num_categories))
    what = [f"{config.form} on {shape.about}"]
    what += [f"{value} {name}" for name, value in counts if value] + [f"{len(state) - len(left_out)} entries"]
    what.append(f"{sum(value.nbytes for name, value in state.items() if name not in left_out) / 1e6:,.1f} MB")
    CONSOLE.print(f"{weights.location.uri}\n  {', '.join(what)}\n{out.uri}")
    if left_out:
        CONSOLE.print(f"left out, since the model has no such entry: {', '.join(left_out)}")
    _say_if_dry(options)


def _say_if_dry(options: Options) -> None:
    if options.dry_run:
        CONSOLE.print("nothing has been written")


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options, config=(tyro.conf.EnumChoicesFromValues,)))))
