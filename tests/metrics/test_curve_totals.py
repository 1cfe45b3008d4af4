import numpy as np
import pytest

from luss_ray.metrics.curve_totals import CLASS, EVENT, ImageCurve, Slots

IDENTITY = np.arange(3)


def image(classes: list[tuple], events: list[tuple]) -> ImageCurve:
    """Classes (category, pixels, boundary pixels); events (row, cluster, kind, at, delta)."""
    return ImageCurve(np.array(classes, CLASS), np.array(events, EVENT), True)


@pytest.fixture
def slots() -> Slots:
    """Two images of categories 1 and 2; in the first, cluster 1 loses 4 of its 10 pixels at threshold 1, all at 2."""
    first = image([(0, 20, 0), (1, 10, 0)], [(1, 1, 0, 0, 10), (1, 1, 0, 1, -4), (1, 1, 0, 2, -6)])
    second = image([(0, 5, 0), (2, 8, 0)], [(0, 2, 0, 0, 5), (1, 2, 0, 0, 8), (0, 2, 0, 1, -5)])
    return Slots([first, second], num_categories=2, num_clusters=2, boundary=False)


def test_iou_follows_the_thresholds(slots: Slots) -> None:
    expected = [
        (100 * 20 / 25, 100.0, 100 * 8 / 13),
        (100 * 25 / 29, 60.0, 100.0),
        (100 * 25 / 35, 0.0, 100.0),
    ]
    for level, ious in enumerate(expected):
        slots.advance(level)
        assert slots.counts(IDENTITY).compute().ious == pytest.approx(ious)


def test_meetings_follow_the_thresholds(slots: Slots) -> None:
    def met() -> tuple[list, list]:
        counts = slots.cooccurrence(all_images=False).counts()
        return counts.images.tolist(), counts.pixels.tolist()

    slots.advance(0)
    assert met() == ([[1, 0], [0, 1]], [[10, 0], [0, 8]])
    slots.advance(1)
    assert met() == ([[1, 0], [0, 1]], [[6, 0], [0, 8]])
    slots.advance(2)
    assert met() == ([[0, 0], [0, 1]], [[0, 0], [0, 8]])


def test_images_without_attention_meet_only_where_all_are_asked_for() -> None:
    blind = image([(1, 4, 0)], [(0, 2, 0, 0, 4)])._replace(has_attention=False)
    slots = Slots([blind], num_categories=2, num_clusters=2, boundary=False)
    slots.advance(0)
    assert slots.cooccurrence(all_images=False).counts().images.tolist() == [[0, 0], [0, 0]]
    assert slots.cooccurrence(all_images=True).counts().images.tolist() == [[0, 0], [1, 0]]


def test_mapping_decides_votes_and_other(slots: Slots) -> None:
    slots.advance(0)
    assert slots.counts(IDENTITY).compute().acc == 100
    assert slots.counts(np.array([0, 2, 1])).compute().acc == 0
    nothing = slots.counts(np.zeros(3, int)).compute()
    assert (nothing.acc, nothing.f) == (0, 0) and nothing.ious == pytest.approx((100 * 25 / 43, 0, 0))


def test_images_without_events_or_classes_count() -> None:
    slots = Slots([image([], []), image([(0, 4, 0)], [])], num_categories=2, num_clusters=2, boundary=True)
    slots.advance(0)
    scores = slots.counts(IDENTITY).compute()
    assert scores.num_images == 2 and scores.ious == pytest.approx((100, 0, 0))
