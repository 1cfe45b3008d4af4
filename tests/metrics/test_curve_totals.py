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
        assert slots.scores(IDENTITY).ious == pytest.approx(ious)


def test_presence_follows_the_thresholds_in_the_chosen_images(slots: Slots) -> None:
    everywhere = np.ones(2, bool)
    slots.advance(0)
    assert np.stack(slots.present_clusters(everywhere)).T.tolist() == [[0, 1], [1, 2]]
    assert np.stack(slots.present_clusters(np.array([False, True]))).T.tolist() == [[1, 2]]
    slots.advance(1)
    slots.advance(2)
    assert np.stack(slots.present_clusters(everywhere)).T.tolist() == [[1, 2]]
    assert slots.truth_present().tolist() == [[True, True, False], [True, False, True]]


def test_mapping_decides_votes_and_other(slots: Slots) -> None:
    slots.advance(0)
    assert slots.scores(IDENTITY).acc == 100
    assert slots.scores(np.array([0, 2, 1])).acc == 0
    nothing = slots.scores(np.zeros(3, int))
    assert (nothing.acc, nothing.f) == (0, 0) and nothing.ious == pytest.approx((100 * 25 / 43, 0, 0))


def test_images_without_events_or_classes_count() -> None:
    slots = Slots([image([], []), image([(0, 4, 0)], [])], num_categories=2, num_clusters=2, boundary=True)
    slots.advance(0)
    scores = slots.scores(IDENTITY)
    assert scores.num_images == 2 and scores.ious == pytest.approx((100, 0, 0))
