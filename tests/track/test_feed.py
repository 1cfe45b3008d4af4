import logging
import threading
import time
from collections.abc import Callable

import pytest
from fixtures_track import SECRET, rows

from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location
from luss_ray.track import feed as module
from luss_ray.track.feed import Feed


class Notebook:
    """A tracker that writes down what it is told; `trouble` may raise or linger before each call."""

    advice, where = "buy another one", f"//me:{SECRET}@host"

    def __init__(self, run_id: str = "first", trouble: Callable[[], None] = lambda: None, keeps: bool = True):
        self.run_id, self.trouble, self.keeps = run_id, trouble, keeps
        self.steps: list[tuple[str, int]] = []
        self.scores: list[object] = []

    def begin(self, run_id):
        self.trouble()
        return run_id or self.run_id

    def log(self, stage, rows, at_s):
        self.trouble()
        self.steps += [(stage, row["step"]) for row in rows]

    def keep(self):
        return self.keeps

    def finish(self, scores):
        self.trouble()
        self.scores.append(scores)


@pytest.fixture
def memory(tmp_path) -> Location:
    return Location.parse(tmp_path / "trackers" / "notebook.json")


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(module, "BEGIN_S", 1.0)


def ended(feed: Feed, scores=None, seconds=60.0) -> None:
    feed.finish(scores)
    feed.wait(time.monotonic() + seconds)


def test_every_step_of_a_stage_comes_once(memory):
    notebook = Notebook()
    feed = Feed("notebook", notebook, memory)
    feed.begin()
    feed.rows("pretrain", rows(1, 2, 3, 2, 3))
    feed.rows("pretrain", rows(2, 3, 4))
    feed.rows("attention", rows(1))
    feed.rows("attention", [])
    feed.rows("pretrain", rows(1, 2, 3, 4, 5))
    ended(feed, {"miou": 1.0})
    assert notebook.steps == [("pretrain", step) for step in (1, 2, 3, 4)] + [("attention", 1), ("pretrain", 5)]
    assert notebook.scores == [{"miou": 1.0}]
    assert memory.read_json() == {"id": "first", "steps": {"pretrain": 5, "attention": 1}}


def test_another_process_goes_on_where_the_tracked_rows_end(memory):
    for given in ((1, 2, 3), (2, 3, 4)):
        notebook = Notebook("second" if given[0] == 2 else "first")
        feed = Feed("notebook", notebook, memory)
        feed.begin()
        feed.rows("pretrain", rows(*given))
        ended(feed)
    assert notebook.steps == [("pretrain", 4)]
    assert memory.read_json() == {"id": "first", "steps": {"pretrain": 4}}


def test_a_run_that_the_tracker_has_no_more_is_shown_from_the_start(memory):
    memory.write_json("", {"id": "deleted", "steps": {"pretrain": 7}})
    notebook = Notebook("another")
    notebook.begin = lambda run_id: "another"
    feed = Feed("notebook", notebook, memory)
    feed.begin()
    feed.rows("pretrain", rows(1, 8))
    ended(feed)
    assert notebook.steps == [("pretrain", 1), ("pretrain", 8)]


def test_what_is_not_kept_is_not_remembered(memory):
    feed = Feed("notebook", Notebook(keeps=False), memory)
    feed.begin()
    feed.rows("pretrain", rows(1))
    ended(feed)
    assert not memory.exists()


def test_a_tracker_that_was_away_gets_everything_and_is_named_once(memory, caplog):
    away = 5

    def trouble():
        nonlocal away
        if started and away:
            away -= 1
            raise ConnectionError(f"no route to //me:{SECRET}@host")

    started, notebook = False, Notebook(trouble=trouble)
    feed = Feed("notebook", notebook, memory)
    feed.begin()
    started = True
    for step in range(1, 50):
        feed.rows("pretrain", rows(step))
    ended(feed)
    assert [step for _, step in notebook.steps] == list(range(1, 50)) and away == 0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "tries again" in said[0] and "there again" in said[1]
    assert all(record.name.startswith("luss_ray") for record in caplog.records)
    assert "no route to //host" in said[0] and SECRET not in "".join(said).replace(Notebook.where, "")


def test_a_tracker_that_hangs_or_fails_for_ever_holds_nothing_up(memory, caplog):
    release, started = threading.Event(), False

    def hang():
        if started:
            release.wait(600)

    def fail():
        if started:
            raise OSError("away")

    for trouble in (hang, fail):
        started = False
        feed = Feed("notebook", Notebook(trouble=trouble), memory)
        feed.begin()
        started = True
        for _ in range(3):
            feed.rows("pretrain", rows(*range(1, 5000)))
        ended(feed, {}, seconds=0.2)  # comes back, though nothing was taken
    release.set()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "did not take everything" in caplog.text and "away" in caplog.text


def test_a_tracker_that_can_not_be_reached_is_refused_without_secrets(memory, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)

    def fail():
        raise ConnectionError(f"POST //me:{SECRET}@host refused key {SECRET}")

    class Careful(Notebook):
        where = "the shelf"

    with pytest.raises(UserError) as refusal:
        Feed("notebook", Careful(trouble=fail), memory).begin()
    assert str(refusal.value) == "--track notebook: the shelf: POST //host refused key ***; buy another one"
    release = threading.Event()
    monkeypatch.setattr(module, "BEGIN_S", 0.05)
    with pytest.raises(UserError, match=r"the shelf: no answer in 0\.05 s; buy another one"):
        Feed("notebook", Careful(trouble=lambda: release.wait(600)), memory).begin()
    release.set()
