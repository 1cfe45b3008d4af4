import os
import subprocess
import sys
import threading

from luss_ray.train.stall import StallGuard, stacks


def test_a_worker_that_hangs_shows_where_and_ends():
    left, ended = [], threading.Event()
    with StallGuard(0.2, left.append, end=ended.set, grace_s=0.1):
        assert ended.wait(60)
    assert "test_a_worker_that_hangs_shows_where_and_ends" in left[0]


def test_the_end_comes_even_if_the_stacks_can_not_be_kept():
    ended, never = threading.Event(), threading.Event()
    guard = StallGuard(0.2, lambda stacks: never.wait(60), end=ended.set, grace_s=0.1)
    with guard:
        assert ended.wait(30)
        never.set()


def test_a_worker_that_makes_progress_is_left_alone():
    left, pause = [], threading.Event()
    with StallGuard(30, left.append) as guard:
        for _ in range(20):
            pause.wait(0.05)
            guard.alive()
    assert not left


def test_native_code_that_never_lets_go_ends_too():
    """A thread that holds the interpreter lock for ever stops every Python thread, the guard's among them."""
    program = """
import ctypes, time
from luss_ray.train.stall import StallGuard
with StallGuard(0.5, lambda stacks: None, grace_s=0.2):
    time.sleep(1 / 5)
    ctypes.PyDLL(None).pause()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1 and "Timeout" in done.stderr and "most recent call first" in done.stderr


def test_stacks_name_all_threads():
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    text = stacks()
    waiting.set()
    thread.join()
    assert text.count("Thread 0x") + text.count("Current thread") >= 2
