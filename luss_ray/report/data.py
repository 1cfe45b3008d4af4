"""What the report page is made of: plain values and arrays, gathered by whoever knows the run's files."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8

OTHER = 0
IGNORE = 1000


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image and every map the run made of it, all of the image's height and width.

    It is of the validation split where there is one. Ids are category ids (after the matching) where the run is
    labelled, cluster numbers otherwise; 0 = "other", 1000 = ignore. A map that the run has not made yet is None.
    """

    key: str
    """The sample's key in the dataset."""
    image: UInt8[np.ndarray, "H W 3"]
    attention: Float[np.ndarray, "H W"] | None = None
    """Mean attention over channels, in [0, 1]."""
    pseudo_label: Integer[np.ndarray, "H W"] | None = None
    prediction: Integer[np.ndarray, "H W"] | None = None
    """The fine-tuned network's prediction."""
    truth: Integer[np.ndarray, "H W"] | None = None

    def __post_init__(self) -> None:
        assert self.image.dtype == np.uint8 and self.image.ndim == 3, f"{self.key}: image is not uint8 (H, W, 3)"
        for name in ("attention", "pseudo_label", "prediction", "truth"):
            values = getattr(self, name)
            assert values is None or values.shape == self.image.shape[:2], f"{self.key}: {name} has another shape"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster of the training images."""

    number: int
    """1-based, as in the label maps before the matching."""
    num_images: int
    category: str | None = None
    """Name of the category it was matched to; None without labels or without a match."""
    iou: float | None = None
    """IoU of that category in the fine-tuned network's prediction, in percent."""
    margin: float | None = None
    """Median over its images, of a sample, of the cosine to its centroid minus that to the second best."""
    label_share: float | None = None
    """Its share of the training pixels that keep a label at the threshold used, in percent."""
    nearest: list[UInt8[np.ndarray, "h w 3"]] = field(default_factory=list)
    """Thumbnails of the training images nearest to the centroid, nearest first; sizes may differ."""


@dataclass(frozen=True, kw_only=True)
class ThresholdSweep:
    """How the attention threshold was found."""

    thresholds: list[float]
    """Thresholds tried, ascending; may be empty without labels."""
    mious: list[float | None]
    """mIoU of the pseudo-labels on the validation split at each threshold, in percent; empty without labels."""
    label_free: float | None = None
    """The choice made from the attention histogram alone."""
    validation: float | None = None
    """The choice with the best validation mIoU."""
    used: str = ""
    """Which of them made the labels: "validation" or "label-free"."""
    histogram: list[int] = field(default_factory=list)
    """Pixels per attention bin; bins of equal width over `histogram_range`."""
    histogram_range: tuple[float, float] = (0.0, 1.0)

    coverage: list[float] = field(default_factory=list)
    """Training pixels that keep a label at equally spaced thresholds from 0 to 1, in percent."""

    def __post_init__(self) -> None:
        assert not self.mious or len(self.mious) == len(self.thresholds), "one mIoU per threshold"


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the page shows. Parts that a half-finished run lacks stay empty, and the page says so."""

    result: dict[str, Any]
    """What result.json holds: recipe, settings, versions, data, stages, metrics, threshold; missing keys are fine."""
    name: str = ""
    """The run's name, the page's title."""
    labelled: bool = True
    """Whether the validation split has masks: then ids are categories and scores exist; else ids are clusters."""
    supervised: bool = False
    """Whether the network learnt masks: then there are no clusters, no threshold and no pseudo-labels."""
    under_way: bool = False
    """Whether the job goes on: then the page loads itself again."""
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Training stage -> rows in step order: "step", "epoch", "loss", "lr", "images_per_s" and any named loss parts."""
    threshold: ThresholdSweep | None = None
    examples: list[Example] = field(default_factory=list)
    """Images in the order of the page; 24 of them at most are shown."""
    clusters: list[Cluster] = field(default_factory=list)
    objective: list[list[float | None]] = field(default_factory=list)
    """Objective of k-means by iteration, then by restart; None once a restart was given up."""
    silhouettes: dict[int, float] = field(default_factory=dict)
    """Mean silhouette by number of clusters, -1 .. 1, where their number was found; the best was taken."""
    categories: list[str] = field(default_factory=list)
    """Names; index i = id i + 1. May be empty without labels."""
