import json
from pathlib import Path

import numpy as np
import pytest

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.label_files import LabelledImage
from luss_ray.metrics.evaluation import BEYOND, NOT_ONE_TO_ONE, Matching, Question, read_matching
from luss_ray.metrics.segmentation import SegmentationCounts


def image(seed: int, num_clusters: int = 4, num_categories: int = 4) -> LabelledImage:
    rng = np.random.default_rng(seed)
    ids, mask = (
        np.kron(rng.integers(0, top + 1, (4, 5)), np.ones((9, 7), int)).astype(np.uint16)
        for top in (num_clusters, num_categories)
    )
    mask[:3] = 1000
    return LabelledImage(name=f"image-{seed}", prediction=ids, mask=mask)


def question(**options) -> Question:
    return Question(**{"num_categories": 4, "num_clusters": 4} | options)


def test_each_matching_says_which_it_is_and_scores_its_own_mapping():
    clusters = np.argsort([0, 3, 1, 4, 2]).astype(np.uint16)
    for kind in (Matching.IMAGES, Matching.PIXELS, Matching.MANY_TO_ONE):
        tally = question(matching=kind).tally()
        for category in (1, 2, 3, 4):
            mask = np.zeros((12, 16), np.uint16)
            mask[2:9, 3:8], mask[0] = category, 1000
            predicted = clusters[np.where(mask == 1000, 0, mask)]
            tally.add(LabelledImage(name="", prediction=predicted, mask=mask))
        value = tally.evaluation().to_json()
        assert value["matching_kind"] == kind.value and value["miou"] == pytest.approx(100)
        assert value["matching"] == {"0": 0, "1": 3, "2": 1, "3": 4, "4": 2} and value["matching_total"] == 4


def test_a_matching_from_a_file_is_used_as_it_is(tmp_path: Path):
    file = tmp_path / "match.json"
    file.write_text('{"0": 0, "1": 2, "2": 1, "3": 3, "4": 3}')
    mapping, findings = read_matching(file, 4)
    assert mapping == (0, 2, 1, 3, 3) and findings.found == {NOT_ONE_TO_ONE: (1, f"category 3 in {file}")}
    tally, counts = question(matching=Matching.FILE, mapping=mapping).tally(), SegmentationCounts(4)
    for seed in range(3):
        tally.add(image(seed))
        counts.update(image(seed).prediction, image(seed).mask, mapping=np.array(mapping))
    assert tally.evaluation().scores == counts.compute()


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"1": 5}', '{"1": -1}', '{"x": 1}', '{"0": 1}', '{"-1": 1}', '{"1": null}']
)
def test_a_file_that_is_no_matching_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "match.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"match\.json"):
        read_matching(file, 4)


def test_clusters_that_the_file_does_not_know_are_named(tmp_path: Path):
    file = tmp_path / "match.json"
    file.write_text('{"1": 2, "3": 3}')
    mapping, _ = read_matching(file, 4)
    tally = question(matching=Matching.FILE, mapping=mapping, num_clusters=3).tally()
    for cluster in (2, 9):
        with pytest.raises(UserError, match=f"scene: the matching does not know cluster {cluster}"):
            ids = np.full((4, 4), cluster, np.uint16)
            tally.add(LabelledImage(name="scene", prediction=ids, mask=np.ones_like(ids)))


def test_ids_beyond_the_categories():
    beyond = LabelledImage(name="scene", prediction=np.full((4, 4), 7, np.uint16), mask=np.ones((4, 4), np.uint16))
    tally = question(matching=Matching.NONE).tally()
    tally.add(beyond)
    assert tally.findings.found == {BEYOND: (1, "scene")} and tally.evaluation().scores.miou == 0
    with pytest.raises(UserError, match="scene: id 7 among 4 clusters: give --num-clusters"):
        question().tally().add(beyond)


def test_sizes_must_agree_and_missing_predictions_are_other():
    tally = question().tally()
    with pytest.raises(UserError, match="scene: "):
        tally.add(LabelledImage(name="scene", prediction=np.ones((3, 4), np.uint16), mask=np.ones((4, 4), np.uint16)))
    tally.add(LabelledImage(name="scene", prediction=None, mask=np.array([[0, 0, 0, 1]], np.uint16)))
    assert tally.evaluation().scores.ious[0] == pytest.approx(75)


def test_the_curve_and_its_best_threshold():
    tally = question(thresholds=(0.0, 0.25, 0.5)).tally()
    mask = np.zeros((8, 8), np.uint16)
    mask[:, :4] = 1
    attention = np.where(mask > 0, 0.4, 0.2).astype(np.float32)
    tally.add(LabelledImage(name="", prediction=np.ones_like(mask), mask=mask, attention=attention))
    value = tally.evaluation().to_json()
    assert value["best_threshold"] == 0.25 and value["ious"][:2] == pytest.approx([100, 100])
    assert [round(row["ious"][1]) for row in value["curve"]] == [50, 100, 0]
    assert value["curve"][1]["miou"] == value["miou"] and value["curve"][0]["matching_total"] == 1
    json.dumps(value, allow_nan=False)


def test_tallies_of_workers_add_up():
    for kind in (Matching.NONE, Matching.IMAGES):
        whole, parts = question(matching=kind).tally(), [question(matching=kind).tally() for _ in "ab"]
        for seed in range(6):
            whole.add(image(seed))
            parts[seed % 2].add(image(seed))
        parts[0] += parts[1]
        assert parts[0].evaluation().scores == whole.evaluation().scores
