"""Two jobs, one folder."""

import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from luss_ray.core.errors import UserError
from luss_ray.storage.lease import HOLDER, Holder, lease
from luss_ray.storage.uri import Location

QUICK = {"beat_s": 0.05, "silence_s": 1.5}


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Return the folder of a run."""
    if request.param == "disk":
        return Location.parse(tmp_path / "run")
    bucket = request.getfixturevalue("s3_environment").bucket(f"lease-{uuid.uuid4().hex[:8]}")
    return Location.parse(f"{bucket}/run")


def elsewhere(folder: Location) -> Holder:
    """Leave the sign of a job on another machine."""
    holder = replace(Holder.mine(), machine="another", who="somebody on another, process 7")
    folder.write_json(HOLDER, asdict(holder))
    return holder


def test_the_second_job_is_told_who_holds_the_folder(location: Location) -> None:
    with (
        lease(location, **QUICK),
        pytest.raises(UserError, match=r"is being written by .* process \d+, since"),
        lease(location, **QUICK),
    ):
        pass
    assert not location.exists(HOLDER)
    with lease(location, **QUICK):
        assert location.exists(HOLDER)


def test_of_racing_jobs_one_gets_it(location: Location) -> None:
    got, most = race(location, wait_s=0.0)
    assert any(got) and most == 1


def test_of_racing_jobs_one_takes_over_from_a_dead_one(location: Location) -> None:
    """They start within the time in which they look for a sign of life, so each finds it dead at another moment."""
    elsewhere(location)
    got, most = race(location, wait_s=0.15)
    assert any(got) and most == 1
    assert not location.exists(HOLDER) and not location.list(suffix=".json")


def test_a_job_that_died_while_it_took_over_is_taken_over_from(location: Location) -> None:
    first = elsewhere(location)
    location.write_json(f"holder-after-{first.token}.json", asdict(replace(first, token="second")))
    with lease(location, **QUICK) as held:
        held.check()
        assert location.list(suffix=".json") == [HOLDER]


def race(location: Location, *, wait_s: float) -> tuple[list[bool], int]:
    """Have eight jobs ask for a folder, each a while after the one before; return who got it, and how many at once."""
    inside, most, count = 0, 0, threading.Lock()

    def work(number: int) -> bool:
        nonlocal inside, most
        time.sleep(number * wait_s)
        try:
            with lease(location, **QUICK):
                with count:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.3)
                with count:
                    inside -= 1
            return True
        except UserError:
            return False

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, range(8))), most


def test_a_job_killed_on_this_machine_is_noticed_at_once(location: Location) -> None:
    program = (
        "import os, sys; from luss_ray.storage.lease import lease; from luss_ray.storage.uri import Location\n"
        "with lease(Location.parse(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, location.uri], check=False)
    assert done.returncode == -9 and location.exists(HOLDER)
    with lease(location, silence_s=3600):
        pass


def test_a_job_elsewhere_counts_as_dead_when_it_is_silent(location: Location) -> None:
    elsewhere(location)
    with lease(location, **QUICK) as held:
        held.check()
        assert location.read_json(HOLDER)["machine"] != "another"


def test_a_job_elsewhere_that_lives_keeps_its_folder(location: Location) -> None:
    holder, end = elsewhere(location), threading.Event()

    def live() -> None:
        beat = 0
        while not end.wait(0.1):
            beat += 1
            location.write_json(HOLDER, asdict(replace(holder, beat=beat)))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(UserError, match="is being written by somebody on another"), lease(location, silence_s=60):
            pass
    finally:
        end.set()
        thread.join()


def test_a_job_that_was_taken_for_dead_stops(location: Location) -> None:
    with lease(location, **QUICK) as held:
        held.check()
        elsewhere(location)
        deadline = time.monotonic() + 30
        with pytest.raises(UserError, match="was taken over by somebody on another"):
            while time.monotonic() < deadline:
                held.check()
                time.sleep(0.02)
    assert location.read_json(HOLDER)["machine"] == "another", "the other one's lease stays"
