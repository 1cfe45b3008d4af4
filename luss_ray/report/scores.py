"""The run's numbers as rows of the page's tables."""

import math
from dataclasses import dataclass
from typing import Any

from luss_ray.report.data import ReportData

METHODS = {
    "finetuned": "Fine-tuned network",
    "pseudo_labels": "Pseudo-labels it learnt from",
    "random_backbone": "Random backbone, same pipeline",
    "whole_image": "True label on the whole image",
    "other": "Everything “other”",
}
"""Entry of `metrics` (or of its `baselines`) -> what the page calls it, in the page's order."""
MEASURES = {"miou": "mIoU", "acc": "Accuracy", "f": "F measure"}
SIZES = {"s": ("S", "up to 5 %"), "ms": ("MS", "5–25 %"), "ml": ("ML", "25–50 %"), "l": ("L", "over 50 %")}


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one way of segmenting scores, in percent."""

    key: str
    name: str
    scores: dict[str, Any]

    def score(self, measure: str) -> float | None:
        """Return one score, None where there is none."""
        return finite(self.scores.get(measure))


@dataclass(frozen=True, kw_only=True)
class CategoryRow:
    """IoU of one category, in percent."""

    name: str
    colour: str | None
    finetuned: float | None
    pseudo_labels: float | None


def finite(value: float | None) -> float | None:
    """Return the value, None where it is None or not finite."""
    return value if value is not None and math.isfinite(value) else None


def methods(data: ReportData) -> list[Method]:
    """Return the run's scores and those of the baselines that it measured, in the page's order."""
    metrics = data.result.get("metrics") or {}
    present = {**(metrics.get("baselines") or {}), **{key: metrics.get(key) for key in ("finetuned", "pseudo_labels")}}
    return [Method(key=key, name=name, scores=present[key]) for key, name in METHODS.items() if present.get(key)]


def size_columns(rows: list[Method]) -> list[tuple[str, str]]:
    """Return (score, column title) of each size bucket, nothing where no method has one."""
    any_size = any(row.score(size) is not None for row in rows for size in SIZES)
    return [(size, f"{name}: {limits}") for size, (name, limits) in SIZES.items()] if any_size else []


def category_rows(rows: list[Method], categories: list[str], colours: dict[int, str]) -> list[CategoryRow]:
    """Return the IoU of "other" and every category, best first.

    Args:
        rows: scores; fine-tuned and pseudo-labels are taken.
        categories: names.
        colours: id -> colour.
    """
    ious = {row.key: row.scores.get("ious") or [] for row in rows}
    if not (ious.get("finetuned") or ious.get("pseudo_labels")):
        return []

    def iou(method: str, number: int) -> float | None:
        values = ious.get(method, [])
        return finite(values[number]) if number < len(values) else None

    table = [
        CategoryRow(
            name=name,
            colour=colours.get(number),
            finetuned=iou("finetuned", number),
            pseudo_labels=iou("pseudo_labels", number),
        )
        for number, name in enumerate(["other", *categories])
    ]
    main = "finetuned" if ious.get("finetuned") else "pseudo_labels"
    return sorted(table, key=lambda row: -(getattr(row, main) or 0.0))


def flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted name, value) pairs."""
    pairs = []
    for name, value in settings.items():
        full = f"{prefix}{name}"
        pairs += flat(value, f"{full}.") if isinstance(value, dict) and value else [(full, str(value))]
    return pairs


def groups(settings: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return the settings by their first name; those without a group come first, under "run"."""
    alone = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    nested = {name: value for name, value in settings.items() if isinstance(value, dict) and value}
    return ({"run": flat(alone)} if alone else {}) | {name: flat(value) for name, value in nested.items()}
