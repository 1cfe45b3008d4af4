"""Cards say in words what their pictures show."""

from itertools import pairwise

import numpy as np

from luss_ray.report import gallery
from luss_ray.report.data import Cluster, Example, ReportData

IMAGE = np.zeros((20, 20, 3), np.uint8)


def half(number: int) -> np.ndarray:
    labels = np.zeros((20, 20), np.uint16)
    labels[:10] = number
    return labels


def cards_of(*examples: Example, categories: list[str]) -> list[gallery.ExampleCard]:
    data = ReportData(result={}, examples=list(examples), categories=categories, labelled=bool(categories))
    return gallery.example_cards(data, gallery.Names(data))


def test_mentions_tell_found_wrong_and_missed() -> None:
    wrong = Example(key="a", image=IMAGE, prediction=half(1), truth=half(2))
    found = Example(key="b", image=IMAGE, prediction=half(2), truth=half(2))
    first, second = cards_of(wrong, found, categories=["cat", "dog"])
    assert [(m.name, m.verdict) for m in first.mentions] == [("cat", "wrong"), ("dog", "missed")]
    assert [(m.name, m.verdict) for m in second.mentions] == [("dog", "found")]


def test_alternative_texts_name_categories_and_shares() -> None:
    example = Example(key="a", image=IMAGE, attention=half(1).astype(np.float32), prediction=half(1))
    (card,) = cards_of(example, categories=["cat"])
    assert [picture.kind for picture in card.pictures] == ["image", "attention", "prediction"]
    assert card.pictures[2].alt in ("Prediction: cat 50%, other 50%", "Prediction: other 50%, cat 50%")
    assert card.mentions[0].verdict == ""


def test_ids_beyond_the_categories_are_clusters() -> None:
    (card,) = cards_of(Example(key="a", image=IMAGE, prediction=half(7)), categories=["cat"])
    assert card.mentions[0].name == "cluster 7"
    (card,) = cards_of(Example(key="a", image=IMAGE, pseudo_label=half(3)), categories=[])
    assert card.mentions[0].name == "cluster 3"


def test_hero_shows_different_categories_first() -> None:
    kinds = [1, 1, 2, 0, 3, 1, 4, 2]
    examples = [
        Example(key=str(at), image=IMAGE, prediction=half(5), truth=half(kind)) for at, kind in enumerate(kinds)
    ]
    data = ReportData(result={}, examples=examples, categories=["a", "b", "c", "d", "e"])
    hero = gallery.hero(data, gallery.example_cards(data, gallery.Names(data)))
    assert [card.key for card in hero] == ["0", "2", "4", "6", "1", "3"]


def test_hero_needs_a_segmentation() -> None:
    data = ReportData(result={}, examples=[Example(key="a", image=IMAGE, truth=half(1))], categories=["cat"])
    assert gallery.hero(data, gallery.example_cards(data, gallery.Names(data))) == []


def test_many_clusters_are_thinned_evenly() -> None:
    clusters = [Cluster(number=place + 1, num_images=1, iou=float(place), category="cat") for place in range(300)]
    data = ReportData(result={}, clusters=clusters, categories=["cat"])
    ious = [card.cluster.iou for card in gallery.cluster_cards(data, gallery.Names(data))]
    assert len(ious) == gallery.MAX_CLUSTERS and ious[0] == 299 and ious[-1] == 0
    assert all(a is not None and b is not None and a > b for a, b in pairwise(ious))


def test_colours_of_many_categories_go_to_those_shown() -> None:
    data = ReportData(
        result={},
        examples=[Example(key="a", image=IMAGE, prediction=half(800), truth=half(3))],
        categories=[f"category {number}" for number in range(1, 920)],
    )
    assert sorted(gallery.Names(data).colours) == [3, 800]
