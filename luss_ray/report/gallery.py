"""Examples and clusters as cards of pictures with their words."""

from dataclasses import dataclass

import numpy as np

from luss_ray.report.colours import palette
from luss_ray.report.data import IGNORE, OTHER, Cluster, Example, ReportData
from luss_ray.report.pictures import attention_picture, data_uri, fit, label_picture, shares, square

MAX_EXAMPLES = 24
MAX_CLUSTERS = 60
"""Clusters with pictures; of more, an even choice down the list by IoU is shown."""
MAX_NEAREST = 8
MAX_STABLE_COLOURS = 40
"""Up to this many ids the colour depends on the id alone; beyond, on the ids that the page shows."""
NUM_HERO = 6
SIDE_PX = 288
THUMBNAIL_PX = 104
MIN_SHARE = 0.01
"""Share of an image's pixels from which on a category is named below it."""
MAPS = {"pseudo_label": "Pseudo-label", "prediction": "Prediction", "truth": "Ground truth"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture and its words."""

    title: str
    uri: str
    alt: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A category named below an example."""

    name: str
    colour: str
    verdict: str
    """"found", "wrong" (not in the ground truth), "missed", or "" without ground truth."""


@dataclass(frozen=True, kw_only=True)
class ExampleCard:
    """An example as the page shows it."""

    key: str
    pictures: list[Picture]
    mentions: list[Mention]

    def picture(self, *kinds: str) -> Picture | None:
        """Return the first picture of one of the kinds, by preference; None when there is none."""
        by_kind = {picture.kind: picture for picture in self.pictures}
        return next((by_kind[kind] for kind in kinds if kind in by_kind), None)


@dataclass(frozen=True, kw_only=True)
class ClusterCard:
    """A cluster as the page shows it."""

    cluster: Cluster
    colour: str | None
    nearest: list[str]


class Names:
    """Names and colours of ids: the same everywhere on the page.

    Args:
        data: the run.
    """

    def __init__(self, data: ReportData) -> None:
        self.categories = data.categories if data.labelled else []
        shown = {number for example in data.examples[:MAX_EXAMPLES] for number in _ids(example)}
        num = len(self.categories) or max([0, *shown, *(cluster.number for cluster in data.clusters)])
        ids = list(range(1, num + 1)) if num <= MAX_STABLE_COLOURS else []
        ids += sorted(shown - set(ids))
        self.colours = dict(zip(ids, palette(len(ids)), strict=True))
        self.shown = sorted(shown)
        self.has_ignore = any(bool((e.truth == IGNORE).any()) for e in data.examples if e.truth is not None)

    def name(self, number: int) -> str:
        """Return the name of an id."""
        if number == OTHER:
            return "other"
        return self.categories[number - 1] if number <= len(self.categories) else f"cluster {number}"

    def colour_of_category(self, name: str | None) -> str | None:
        """Return a category's colour, None where it has none."""
        return self.colours.get(self.categories.index(name) + 1) if name in self.categories else None


def example_cards(data: ReportData, names: Names) -> list[ExampleCard]:
    """Return the cards of the first `MAX_EXAMPLES` examples."""
    examples = data.examples[:MAX_EXAMPLES]
    limits = _attention_limits(examples)
    threshold = (data.result.get("threshold") or {}).get("chosen")
    return [
        ExampleCard(
            key=example.key, pictures=_pictures(example, names, limits, threshold), mentions=_mentions(example, names)
        )
        for example in examples
    ]


def hero(data: ReportData, cards: list[ExampleCard]) -> list[ExampleCard]:
    """Return a few cards that show different categories; they are picked in order, never by score.

    Args:
        data: the run.
        cards: its example cards.
    """
    seen: set[int] = set()
    first, others = [], []
    for example, card in zip(data.examples, cards, strict=False):
        if card.picture("prediction", "pseudo_label") is None:
            continue
        main = _main_id(example)
        (others if main in seen or main == OTHER else first).append(card)
        seen.add(main)
    return (first + others)[:NUM_HERO]


def cluster_cards(data: ReportData, names: Names) -> list[ClusterCard]:
    """Return cards of the clusters: by IoU where there is one, else by number of images, both descending."""
    ranked = sorted(data.clusters, key=lambda c: (c.iou is None, -(c.iou or 0), -c.num_images, c.number))
    places = np.linspace(0, len(ranked) - 1, min(MAX_CLUSTERS, len(ranked))).round().astype(int)
    return [_cluster_card(ranked[place], data, names) for place in places]


def _cluster_card(cluster: Cluster, data: ReportData, names: Names) -> ClusterCard:
    colour = names.colour_of_category(cluster.category) if data.labelled else names.colours.get(cluster.number)
    nearest = [data_uri(square(image, THUMBNAIL_PX), quality=75) for image in cluster.nearest[:MAX_NEAREST]]
    return ClusterCard(cluster=cluster, colour=colour, nearest=nearest)


def _pictures(example: Example, names: Names, limits: tuple[float, float], threshold: float | None) -> list[Picture]:
    photo = data_uri(fit(example.image, SIDE_PX))
    pictures = [Picture(title="Photo", uri=photo, alt=f"Image {example.key}", kind="image")]
    if example.attention is not None:
        image = attention_picture(example.image, example.attention, limits, threshold=threshold, side_px=SIDE_PX)
        alt = f"Attention, mean {example.attention.mean():.2f}"
        if threshold is not None:
            alt += f"; {(example.attention >= threshold).mean():.0%} of the pixels above the threshold"
        pictures.append(Picture(title="Attention", uri=data_uri(image), alt=alt, kind="attention"))
    for kind, title in MAPS.items():
        labels = getattr(example, kind)
        if labels is not None:
            image = label_picture(example.image, labels, names.colours, side_px=SIDE_PX)
            pictures.append(
                Picture(title=title, uri=data_uri(image), alt=f"{title}: {_words(labels, names)}", kind=kind)
            )
    return pictures


def _words(labels: np.ndarray, names: Names) -> str:
    named = [f"{names.name(number)} {share:.0%}" for number, share in shares(labels).items() if share >= MIN_SHARE]
    return ", ".join(named) or "nothing"


def _mentions(example: Example, names: Names) -> list[Mention]:
    labels = example.prediction if example.prediction is not None else example.pseudo_label
    if labels is None:
        return []
    found = [number for number, share in shares(labels).items() if number != OTHER and share >= MIN_SHARE]
    verdicts = dict.fromkeys(found, "")
    if example.truth is not None:
        true = [number for number in shares(example.truth) if number != OTHER]
        verdicts = {number: "found" if number in true else "wrong" for number in found}
        verdicts |= {number: "missed" for number in true if number not in found}
    return [
        Mention(name=names.name(number), colour=names.colours[number], verdict=verdict)
        for number, verdict in verdicts.items()
    ]


def _ids(example: Example) -> set[int]:
    maps = [example.pseudo_label, example.prediction, example.truth]
    return {int(number) for labels in maps if labels is not None for number in np.unique(labels)} - {OTHER, IGNORE}


def _main_id(example: Example) -> int:
    maps = [example.truth, example.prediction, example.pseudo_label]
    labels = next(labels for labels in maps if labels is not None)
    return next((number for number in shares(labels) if number != OTHER), OTHER)


def _attention_limits(examples: list[Example]) -> tuple[float, float]:
    maps = [example.attention.ravel() for example in examples if example.attention is not None]
    if not maps:
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate(maps), [1, 99])
    return float(low), float(high)
