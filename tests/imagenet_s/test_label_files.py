from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luss_ray.core.errors import UserError
from luss_ray.core.findings import Findings
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.label_files import EXTRA, MISSING, NO_ATTENTION, NOT_RGB, find_label_files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two masks and their predictions, ids 1 and 300."""
    for part in ("predictions", "masks"):
        for name, value in (("a/one", 1), ("b/two", 300)):
            file = tmp_path / part / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(masks.encode(np.full((4, 6), value, np.uint16)))
    return tmp_path / "predictions", tmp_path / "masks"


def refused(text: str, *arguments, **options) -> None:
    with pytest.raises(UserError) as caught:
        find_label_files(*arguments, **options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_every_mask_is_scored_in_the_order_of_names(folders):
    files, findings = find_label_files(*folders)
    assert files.names == ["a/one.png", "b/two.png"] and findings.lines() == []
    image = files.read("b/two.png", findings)
    assert image.attention is None and image.prediction is not None
    assert (image.prediction == 300).all() and (image.mask == 300).all()


def test_a_names_file_chooses_and_orders(folders, tmp_path):
    listed = tmp_path / "names.txt"
    listed.write_text("b/two.JPEG b/two.png\n\na/one.JPEG a/one.png")
    assert find_label_files(*folders, names=listed)[0].names == ["b/two.png", "a/one.png"]
    for text, expected in (
        ("a/one.JPEG", "line 1: give an image and its mask"),
        ("a/one.JPEG a/one.png\na/x.JPEG a/x.png", "line 2: there is no mask"),
        ("a/one.JPEG a/one.png\na/one.JPEG a/one.png", "named on line 1 already"),
        ("\n", "names no mask"),
    ):
        listed.write_text(text)
        refused(expected, *folders, names=listed)
    refused("cannot read the names", *folders, names=tmp_path / "nowhere.txt")


def test_missing_and_extra_predictions_are_found(folders):
    predictions, _ = folders
    (predictions / "a/one.png").rename(predictions / "a/three.png")
    files, findings = find_label_files(*folders)
    assert findings.found == {MISSING: (1, f"{predictions}/a/one.png"), EXTRA: (1, f"{predictions}/a/three.png")}
    assert files.read("a/one.png", findings).prediction is None
    (predictions / "b/two.png").unlink()
    refused(f"{predictions}/a/one.png was looked for", *folders)


def test_folders_that_are_missing_or_empty(folders, tmp_path):
    predictions, ground_truth = folders
    (tmp_path / "empty").mkdir()
    refused("is not a folder of predictions", tmp_path / "nowhere", ground_truth)
    refused("holds no masks", predictions, tmp_path / "empty")
    refused("is not a folder of attention", predictions, ground_truth, attention=tmp_path / "nowhere")


def test_files_that_are_not_what_they_should_be_are_named(folders):
    predictions, _ = folders
    files, findings = find_label_files(*folders)
    file = predictions / "a/one.png"
    Image.fromarray(np.full((4, 6), 1, np.uint8)).save(file)
    image = files.read("a/one.png", findings)
    assert image.prediction is not None and (image.prediction == 1).all()
    assert findings.found == {NOT_RGB: (1, str(file))}
    for data in (file.read_bytes()[:-30], b"", b"no image"):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"a/one\.png"):
            files.read("a/one.png", findings)


def test_attention_maps(folders, tmp_path):
    maps = tmp_path / "attention"
    (maps / "a").mkdir(parents=True)
    files, findings = find_label_files(*folders, attention=maps)
    np.save(maps / "a/one.npy", np.full((4, 6), 0.5, np.float16))
    attention = files.read("a/one.png", findings).attention
    assert attention is not None and attention.dtype == np.float16
    assert files.read("b/two.png", findings).attention is None
    assert findings.found == {NO_ATTENTION: (1, f"{maps}/b/two.npy")}
    np.save(maps / "a/one.npy", np.zeros((4, 6)))
    with pytest.raises(UserError, match=r"one\.npy holds float64"):
        files.read("a/one.png", Findings())
    (maps / "a/one.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable"):
        files.read("a/one.png", Findings())
