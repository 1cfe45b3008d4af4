import pytest

from luss_ray.core import progress
from luss_ray.core.progress import StageProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose one number is the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def text_after(stage: StageProgress, clock: list[float], seconds: int, steps_per_s: int, first: int) -> str:
    for second in range(1, seconds + 1):
        clock[0] += 1
        stage.update(first + second * steps_per_s)
    return stage._text({})


def test_rate_and_remaining_time(clock: list[float]) -> None:
    stage = StageProgress("pretrain", 1000, "steps", images_per_unit=32)
    stage.update(0)
    assert text_after(stage, clock, 30, 10, 0) == "ETA 1:10, 320 images/s"


def test_a_restart_long_ago_does_not_spoil_the_estimate(clock: list[float]) -> None:
    stage = StageProgress("pretrain", 10_000, "steps")
    stage.update(0)
    text_after(stage, clock, 20, 10, 0)
    clock[0] += 600
    assert text_after(stage, clock, 200, 10, 200) == "ETA 13:00"


def test_work_that_is_done_again_begins_anew(clock: list[float]) -> None:
    stage = StageProgress("pretrain", 1000, "steps")
    stage.update(0)
    text_after(stage, clock, 50, 10, 0)
    stage.update(100)
    assert stage._text({}) == "" and text_after(stage, clock, 20, 10, 100) == "ETA 1:10"
