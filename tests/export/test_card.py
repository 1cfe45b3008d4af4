from dataclasses import fields, replace

import numpy as np
import pytest
from fixtures_export import CONFIG

from luss_ray.export import card
from luss_ray.export.card import model_card, tags
from luss_ray.metrics.scores import Scores
from luss_ray.metrics.segmentation import SegmentationCounts
from luss_ray.protocols.rules import Protocol


def test_every_score_of_a_real_evaluation_is_shown() -> None:
    mask = np.zeros((40, 40), np.uint16)
    mask[10:30, 10:30] = 2
    counts = SegmentationCounts(3)
    counts.update(mask, mask)
    scores = counts.compute().to_json()
    text = model_card(replace(CONFIG, about={"metrics": {"finetuned": scores}}), "mine")
    for key, name in card._SCORES.items():
        assert f"| {name} | {scores[key]:.1f} |" in text
    assert "| boundary mIoU |" in text and card._SCORES.keys() <= {field.name for field in fields(Scores)}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (
            {"protocol": Protocol.UNSUPERVISED.value, "method": "PASS", "dataset": "imagenet-s-50"},
            ["unsupervised", "PASS", "ImageNet-S"],
        ),
        (
            {"protocol": Protocol.SEMI_SUPERVISED.value, "method": "learnt from masks", "dataset": "imagenet-s-919"},
            ["semi-supervised", "ImageNet-S"],
        ),
        (
            {"protocol": Protocol.UNSUPERVISED.value, "method": "PASS", "dataset": "my-images"},
            ["unsupervised", "PASS"],
        ),
        ({"protocol": Protocol.FREE.value, "method": "PASS", "dataset": "my-images"}, ["PASS"]),
        ({}, []),
    ],
)
def test_tags_follow_from_protocol_method_and_data(about: dict[str, str], expected: list[str]) -> None:
    assert tags(about) == ["semantic-segmentation", *expected]
    assert f"tags: [{', '.join(tags(about))}]\n" in model_card(replace(CONFIG, about=about), "mine")


def test_how_images_are_prepared_is_told() -> None:
    assert "| 0.5, 0.4, 0.3; 0.2, 0.3, 0.1 |" in model_card(CONFIG, "mine")
