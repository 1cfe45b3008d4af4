import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.submission import Method, check_submission, write_submission

KEYS = [f"n01440764/ILSVRC2012_val_{number:08d}" for number in range(3)]
SIZES = dict.fromkeys(KEYS, (4, 6))
METHOD = Method(name="M", training_data="train", training_scheme="from scratch", networks="resnet18")


def predictions(**changed: bytes) -> list[tuple[str, bytes]]:
    good = masks.encode(np.full((4, 6), 2, np.uint16))
    return [(key, changed.get(key[-1], good)) for key in KEYS]


def test_what_is_written_passes_the_check(tmp_path: Path):
    path = tmp_path / "folder" / "submission.zip"
    write_submission(path, predictions(), method=METHOD, matching={1: 2, 2: 1, 3: 0})
    check_submission(path, SIZES, num_categories=2)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted([*(f"{key}.png" for key in KEYS), "match.json", "method.txt"])
        assert json.loads(archive.read("match.json")) == {"1": 2, "2": 1, "3": 0}
        assert archive.read("method.txt").decode().startswith("Name: M\nTraining data: train\n")
    assert [file.name for file in path.parent.iterdir()] == ["submission.zip"]


@pytest.mark.parametrize(
    ("data", "matching", "expected"),
    [
        ({"0": masks.encode(np.ones((4, 5), np.uint16))}, None, "0.png has 5 x 4 pixels, its image 6 x 4"),
        ({"1": masks.encode(np.full((4, 6), 7, np.uint16))}, None, "1.png holds id 7, the highest is 2"),
        ({"2": b"no image"}, None, "2.png: "),
        ({}, {1: 2, 2: 2}, "match.json is not one-to-one"),
        ({}, {1: 3}, "match.json is not one-to-one"),
    ],
)
def test_what_the_server_would_refuse_is_named(tmp_path: Path, data, matching, expected):
    path = tmp_path / "submission.zip"
    write_submission(path, predictions(**data), method=METHOD, matching=matching)
    with pytest.raises(UserError, match=expected.replace(".", r"\.")):
        check_submission(path, SIZES, num_categories=2)


def test_files_that_are_missing_or_too_many(tmp_path: Path):
    path = tmp_path / "submission.zip"
    write_submission(path, predictions()[:2], method=METHOD, matching=None)
    with pytest.raises(UserError, match=f"lacks predictions, 1 of them: {KEYS[2]}"):
        check_submission(path, SIZES, num_categories=2)
    write_submission(path, predictions(), method=METHOD, matching=None)
    with pytest.raises(UserError, match="has files that are none"):
        check_submission(path, dict.fromkeys(KEYS[:2], (4, 6)), num_categories=2)
    write_submission(path, [("car/1", predictions()[0][1])], method=METHOD, matching=None)
    check_submission(path, {"car/1": (4, 6)}, num_categories=2)
    with pytest.raises(UserError, match=r"car/1\.png is not named as ImageNet's"):
        check_submission(path, {"car/1": (4, 6)}, num_categories=50)
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match="no readable zip"):
        check_submission(path, SIZES, num_categories=2)
