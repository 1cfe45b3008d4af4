"""One evaluation, whole: label maps and masks are counted once, then matched and scored."""

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from luss_ray.core.errors import UserError
from luss_ray.core.findings import Findings
from luss_ray.imagenet_s.label_files import LabelledImage
from luss_ray.metrics.curve import Curve, ThresholdCurve
from luss_ray.metrics.matching import match_by_images, match_by_pixels, match_many_to_one
from luss_ray.metrics.scores import Scores
from luss_ray.metrics.segmentation import SegmentationCounts

BEYOND = "predictions hold ids beyond the categories; those pixels are of no category, but foreground in F"
NOT_ONE_TO_ONE = "categories are matched to several clusters"
_NO_CLUSTER = -1


class Matching(enum.Enum):
    """How clusters become categories."""

    NONE = "none"
    """Predicted ids are category ids."""
    IMAGES = "auto"
    """One-to-one by the number of images in which both occur: the benchmark's."""
    PIXELS = "pixels"
    """One-to-one by shared pixels; not the benchmark's."""
    MANY_TO_ONE = "many-to-one"
    """Each cluster becomes the category it shares most pixels with; not the benchmark's."""
    FILE = "file"
    """As a file says."""


_MATCHERS = {
    Matching.IMAGES: match_by_images,
    Matching.PIXELS: match_by_pixels,
    Matching.MANY_TO_ONE: match_many_to_one,
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about a set of predictions."""

    num_categories: int
    """N."""
    num_clusters: int
    """C; ids in the predictions."""
    matching: Matching = Matching.IMAGES
    """How clusters become categories."""
    mapping: tuple[int, ...] | None = None
    """With `Matching.FILE`: C + 1 categories, -1 where the file says nothing of a cluster."""
    thresholds: tuple[float, ...] | None = None
    """Thresholds of the attention curve, None = no curve."""

    def __post_init__(self) -> None:
        if self.num_categories < 1 or self.num_clusters < 1:
            raise UserError(f"{self.num_categories} categories, {self.num_clusters} clusters: there must be at least 1")

    def tally(self) -> "Tally":
        """Return an empty tally."""
        if self.thresholds is None and self.matching is Matching.NONE:
            return Tally(question=self, counts=SegmentationCounts(self.num_categories))
        curve = ThresholdCurve(self.num_categories, self.num_clusters, self.thresholds or (0.0,))
        return Tally(question=self, counts=curve)


@dataclass(kw_only=True)
class Tally:
    """The counts of some images; `+=` merges workers' tallies."""

    question: Question
    counts: SegmentationCounts | ThresholdCurve
    findings: Findings = field(default_factory=Findings)

    def add(self, image: LabelledImage) -> None:
        """Count an image.

        Raises:
            UserError: sizes differ or an id is none; the message names the image.
        """
        ids = np.zeros_like(image.mask) if image.prediction is None else image.prediction
        try:
            self._check_ids(image.name, ids)
            if isinstance(self.counts, ThresholdCurve):
                whole = None if self.question.thresholds is None else image.attention
                self.counts.update(ids, whole, image.mask)
            else:
                self.counts.update(ids, image.mask)
        except UserError as error:
            raise UserError(f"{image.name}: {error}") from None

    def _check_ids(self, name: str, ids: np.ndarray) -> None:
        highest, question = int(ids.max(initial=0)), self.question
        if question.mapping is not None:
            present = np.flatnonzero(np.bincount(ids.ravel()))
            known = np.append(question.mapping, [_NO_CLUSTER] * (highest + 1))[present] != _NO_CLUSTER
            if not known.all():
                raise UserError(f"the matching does not know cluster {present[~known][0]}, which is predicted here")
        elif highest > question.num_clusters:
            if isinstance(self.counts, ThresholdCurve):
                raise UserError(f"id {highest} among {question.num_clusters} clusters: give --num-clusters")
            self.findings.add(BEYOND, name)

    def __iadd__(self, other: "Tally") -> "Tally":
        self.counts += other.counts  # pyright: ignore[reportOperatorIssue]  (both are of one question)
        self.findings = self.findings + other.findings
        return self

    def evaluation(self) -> "Evaluation":
        """Return the scores of what was counted.

        Raises:
            UserError: nothing was.
        """
        question = self.question
        if isinstance(self.counts, SegmentationCounts):
            return Evaluation(question=question, scores=self.counts.compute(), mapping=None)
        if question.matching in _MATCHERS:
            curve = self.counts.compute(match=_MATCHERS[question.matching])
        else:
            given = question.mapping or range(question.num_clusters + 1)
            mapping = np.maximum(np.array(given, np.int64), 0)
            curve = self.counts.compute(mappings=np.tile(mapping, (len(self.counts.thresholds), 1)))
        return Evaluation(
            question=question,
            scores=curve.scores[curve.best],
            mapping=None if question.matching is Matching.NONE else curve.mappings[curve.best],
            matching_total=int(curve.matching_totals[curve.best]),
            curve=None if question.thresholds is None else curve,
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores and how they came about."""

    question: Question
    scores: Scores
    """With a curve: those of its best threshold."""
    mapping: Int64[np.ndarray, " clusters"] | None
    """Cluster -> category, None where ids are categories."""
    matching_total: int | None = None
    """Image-level co-occurrence of the mapping's pairs; None where it was not counted."""
    curve: Curve | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: the scores (percent; null for NaN), the matching, and the curve where there is one."""
        value = self.scores.to_json() | {
            "num_categories": self.question.num_categories,
            "matching_kind": self.question.matching.value,
            "matching": self.matching_json(),
            "matching_total": self.matching_total,
        }
        if self.curve is not None:
            rows = zip(
                self.curve.thresholds.tolist(), self.curve.scores, self.curve.matching_totals.tolist(), strict=True
            )
            value["curve"] = [
                {"threshold": threshold, **scores.to_json(), "matching_total": total}
                for threshold, scores, total in rows
            ]
            value["best_threshold"] = self.curve.best_threshold
        return value

    def matching_json(self) -> dict[str, int] | None:
        """Return the mapping as the toolbox writes it: cluster -> category, both from 1, and "0": 0."""
        if self.mapping is None:
            return None
        return {str(cluster): int(category) for cluster, category in enumerate(self.mapping)}


def read_matching(path: Path, num_categories: int) -> tuple[tuple[int, ...], Findings]:
    """Return the mapping in a file as the toolbox writes it, and what is odd about it.

    Args:
        path: JSON, `{"0": 0, "1": category, …}`.
        num_categories: N.

    Returns:
        C + 1 categories with C the highest cluster named, -1 where a cluster is not named.

    Raises:
        UserError: not such a file, or a category that doesn't exist.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        pairs = {int(cluster): int(category) for cluster, category in value.items()}
    except FileNotFoundError:
        kinds = ", ".join(kind.value for kind in Matching if kind is not Matching.FILE)
        raise UserError(f"a matching is one of {kinds}, or a file, and there is none at {path}") from None
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f'{path} is not a matching: JSON like {{"1": 7, "2": 3}}, cluster to category') from None
    wrong = [f'"{cluster}": {category}' for cluster, category in pairs.items() if not 0 <= category <= num_categories]
    if wrong or min(pairs, default=0) < 0 or pairs.get(0, 0) != 0:
        raise UserError(
            f"{path}: {wrong[0] if wrong else 'cluster 0'} is no match: categories are 1 to {num_categories}, 0 stays 0"
        )
    mapping = [0] + [pairs.get(cluster, _NO_CLUSTER) for cluster in range(1, max(pairs, default=0) + 1)]
    findings = Findings()
    chosen = [category for category in mapping if category > 0]
    for category in sorted({category for category in chosen if chosen.count(category) > 1}):
        findings.add(NOT_ONE_TO_ONE, f"category {category} in {path}")
    return tuple(mapping), findings
