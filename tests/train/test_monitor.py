from luss_ray.train.monitor import Monitor


def test_restarts_without_progress_are_counted_and_told_with_their_reason():
    monitor = Monitor("pretrain", max_failures=2)
    assert [monitor.begin() for _ in range(3)] == [None] * 3
    monitor.fail("ZeroDivisionError: division by zero")
    refusal = monitor.begin()
    assert refusal == "pretrain: gave up after 2 restarts without progress: ZeroDivisionError: division by zero"


def test_a_checkpoint_makes_up_for_all_restarts_before_it():
    monitor = Monitor("pretrain", max_failures=1)
    for _ in range(50):
        assert monitor.begin() is None
        monitor.save()
    assert monitor.begin() is None and monitor.begin() is not None


def test_a_group_that_has_grown_is_no_restart():
    monitor = Monitor("pretrain", max_failures=1)
    assert [monitor.begin(num_workers) for num_workers in (2, 3, 4, 5)] == [None] * 4
    assert monitor.begin(4) is None, "one has died"
    assert monitor.begin(4) is not None


def test_the_first_refusal_stays_and_notes_keep_their_order():
    monitor = Monitor("pretrain", max_failures=1)
    monitor.refuse("no such bucket")
    monitor.refuse("its consequences")
    for line in ("one", "two"):
        monitor.note(line)
    situation = monitor.situation()
    assert situation.refusal == "no such bucket" and situation.notes == ["one", "two"]
