from dataclasses import replace
from typing import Any

import pytest
from fixtures_export import CONFIG

from luss_ray.core.errors import UserError
from luss_ray.data.colour import MEAN, STD
from luss_ray.export.config import SegmenterConfig


def test_it_is_read_as_it_was_written() -> None:
    assert SegmenterConfig.from_json(CONFIG.to_json(), "config.json") == CONFIG
    unmatched = replace(CONFIG, matching=None)
    assert SegmenterConfig.from_json(unmatched.to_json(), "config.json") == unmatched


def test_only_what_follows_outlines_needs_a_later_version() -> None:
    assert CONFIG.to_json()["format"] == 1 and "guided_radius" not in CONFIG.to_json()
    guided = replace(CONFIG, guided_radius=1.25)
    assert guided.to_json()["format"] == 2
    assert SegmenterConfig.from_json(guided.to_json(), "config.json") == guided


def test_what_was_written_without_mean_and_matching_is_read_with_imagenets() -> None:
    values = CONFIG.to_json()
    old = {name: values[name] for name in ("format", "model", "shorter_side_px", "names", "about")}
    assert SegmenterConfig.from_json(old, "config.json") == replace(CONFIG, mean=MEAN, std=STD, matching=None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["other", "car"], "runs/a/config.json: 2 names for a model with 4 outputs: give 4 names"),
        (["other", "car", "cat", "bus", "tree"], "5 names for a model with 4 outputs"),
        ("abcd", "runs/a/config.json: names must be a list of 4 texts"),
        (["other", "car", "cat", 3], "names must be a list of 4 texts"),
    ],
)
def test_names_that_do_not_fit_are_refused(names: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        SegmenterConfig.from_json(CONFIG.to_json() | {"names": names}, "runs/a/config.json")
    assert "\n" not in str(refusal.value)


def test_what_describes_no_preparation_is_refused() -> None:
    for change in (
        {"mean": 3},
        {"std": [1.0]},
        {"model": []},
        {"matching": 3},
        {"guided_radius": -1},
        {"guided_radius": "far"},
    ):
        with pytest.raises(UserError, match="describes no model"):
            SegmenterConfig.from_json(CONFIG.to_json() | change, "config.json")
