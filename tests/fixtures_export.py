"""Exported models with random weights."""

from pathlib import Path

import torch

from luss_ray.export.card import model_card
from luss_ray.export.config import SegmenterConfig
from luss_ray.export.segmenter import save
from luss_ray.nn.config import ModelConfig
from luss_ray.nn.heads import SegmentationHead
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.resnet import resnet_tiny
from luss_ray.nn.rf_next import RFMode, RFNextArchitecture
from luss_ray.nn.timm_architecture import TimmArchitecture
from luss_ray.storage.uri import Location

ARCHITECTURES = {
    "resnet": resnet_tiny(widths=(4, 6, 8, 12)),
    "vit": TimmArchitecture("test_vit", drop_path=0.1),
    "rf": RFNextArchitecture("test_convnext", mode=RFMode.MULTIPLE),
}
ABOUT = {"recipe": "demo", "protocol": "fully-unsupervised", "data": "digest 0123", "weights digest": None}

CONFIG = SegmenterConfig(
    model=ModelConfig(form="segmentation", architecture=ARCHITECTURES["resnet"], num_categories=3),
    shorter_side_px=256,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.1),
    names=("other", "car", "cat", "bus"),
    matching=(0, 2, 3, 1),
    about={"recipe": "demo"},
)
"""Of a segmenter whose images are prepared unusually."""


def exported(folder: Path, kind: str = "resnet", *, guided_radius: float = 0.0) -> SegmentationModel:
    """A model's folder, and the network that was written there."""
    torch.manual_seed(0)
    head = SegmentationHead(norm=kind != "resnet", patch=1 if kind == "resnet" else 2, std=0.5)
    model = ModelConfig(form="segmentation", architecture=ARCHITECTURES[kind], num_categories=3, head=head)
    network = model.build()
    assert isinstance(network, SegmentationModel)
    about = ABOUT | {"metrics": {"finetuned": {"miou": 41.25, "acc": 60.0}}}
    names = ("other", "car", "cat", "bus")
    config = SegmenterConfig(model=model, shorter_side_px=48, guided_radius=guided_radius, names=names, about=about)
    save(Location.parse(folder), dict(network.state_dict()), config, model_card(config, "my-run"))
    return network.eval()
