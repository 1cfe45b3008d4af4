"""Rows of the page's tables."""

import math

from luss_ray.report import scores
from luss_ray.report.data import ReportData


def test_methods_come_in_the_pages_order(run: ReportData) -> None:
    assert [method.key for method in scores.methods(run)] == list(scores.METHODS)


def test_methods_not_measured_are_left_out() -> None:
    part = ReportData(result={"metrics": {"pseudo_labels": {"miou": 12.0}, "baselines": {"other": {"miou": 3.0}}}})
    assert [method.key for method in scores.methods(part)] == ["pseudo_labels", "other"]
    assert scores.methods(ReportData(result={})) == []


def test_scores_that_are_not_numbers_are_none() -> None:
    method = scores.Method(key="finetuned", name="", scores={"miou": math.nan, "acc": None, "f": 3})
    assert [method.score(measure) for measure in ("miou", "acc", "f", "s")] == [None, None, 3, None]


def test_categories_are_ranked_with_other_among_them() -> None:
    rows = [scores.Method(key="finetuned", name="", scores={"ious": [50.0, 10.0, None, 80.0]})]
    table = scores.category_rows(rows, ["a", "b", "c"], {1: "#000000"})
    assert [(row.name, row.finetuned) for row in table] == [("c", 80.0), ("other", 50.0), ("a", 10.0), ("b", None)]
    assert table[2].colour == "#000000" and table[0].pseudo_labels is None
    assert scores.category_rows([], ["a"], {}) == []


def test_size_columns_only_where_measured(run: ReportData) -> None:
    assert [key for key, _ in scores.size_columns(scores.methods(run))] == ["s", "ms", "ml", "l"]
    assert scores.size_columns([scores.Method(key="other", name="", scores={"miou": 1.0, "s": None})]) == []


def test_settings_are_grouped_and_flattened() -> None:
    grouped = scores.groups({"seed": 1, "a": {"b": {"c": [1, 2]}, "d": None}, "empty": {}})
    assert grouped == {"run": [("seed", "1")], "a": [("b.c", "[1, 2]"), ("d", "None")]}
