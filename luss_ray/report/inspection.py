"""How good a run's clusters are: sizes, objective, margins, agreement with classes, what their labels cover."""

from dataclasses import asdict, dataclass
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.stages.cluster import CLUSTERS, MARGIN_QUANTILES
from luss_ray.stages.coverage import THRESHOLDS
from luss_ray.storage.dataset import Split
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known of a run's clusters."""

    sizes: list[int]
    """Training images of each cluster."""
    objective: list[list[float | None]]
    """Sum of squared distances by iteration, then by restart; None from where a restart was given up."""
    restart: int | None
    """The restart that won."""
    margin: float | None
    """Median over all images of how far ahead their centroid is of the next cluster's, in cosine."""
    margins: list[list[float | None]]
    """By cluster the `MARGIN_QUANTILES` of its images; None of no images."""
    nmi: float | None
    """Normalised mutual information with the images' classes, 0..1; None without classes."""
    accuracy: float | None
    """Images in the class that their cluster is matched to one to one, percent; None without classes."""
    coverage: dict[float, float]
    """Share of training pixels that keep a label by threshold, percent."""
    examples: list[list[str]]
    """By cluster the keys of the images nearest to its centroid, nearest first."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return {**asdict(self), "quantiles": MARGIN_QUANTILES}


def inspect_clusters(run: Location, split: Split) -> Inspection:
    """Return what is known of a run's clusters.

    Args:
        run: folder of the run, with the stage of clusters finished.
        split: the training split that it is made from.

    Raises:
        UserError: there are no clusters yet.
    """
    found = _read(run, f"clusters/{CLUSTERS}")
    about = _read(run, "clusters/stage.json")
    if not found or not about:
        raise UserError(f"{run.uri} has no clusters yet: run jobs/pass.py until that stage")
    return Inspection(
        sizes=found["sizes"],
        objective=_objective(found["history"], found["dropped_at"]),
        restart=about.get("restart"),
        margin=found["margins"][MARGIN_QUANTILES.index(0.5)],
        margins=found["margins_by_cluster"],
        nmi=about.get("nmi"),
        accuracy=about.get("image_accuracy"),
        coverage=dict(zip(THRESHOLDS, _read(run, "pseudo-labels/stage.json").get("coverage", []), strict=False)),
        examples=[[split.key(row) for row in rows] for rows in found["nearest"]],
    )


def _read(run: Location, name: str) -> dict[str, Any]:
    return run.read_json(name) if run.exists(name) else {}


def _objective(history: list[list[float]], dropped_at: list[int | None]) -> list[list[float | None]]:
    """Return the history without what follows the iteration at which a restart was given up."""
    last = {restart: iteration for restart, iteration in enumerate(dropped_at) if iteration is not None}
    return [
        [None if iteration > last.get(restart, iteration) else value for restart, value in enumerate(values)]
        for iteration, values in enumerate(history)
    ]
