"""Threads that follow what other programs leave free."""

import subprocess
import sys
import time

import pytest
import torch

from tlskit.networks import calm


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("taken", "most", "now", "threads"),
    [
        (0.0, 2, 2, 2),
        (0.4, 2, 2, 2),  # between a quarter and a half nothing changes
        (0.4, 2, 1, 1),
        (0.2, 2, 1, 2),
        (0.9, 2, 2, 1),
        (7.0, 2, 2, 1),  # one is left, however busy it is
        (2.1, 8, 8, 6),
        (-0.1, 4, 4, 4),  # clocks of two kinds do not meet exactly
    ],
)
def test_a_core_is_left_to_whoever_takes_it(taken, most, now, threads):
    assert calm.threads_beside(taken, most, now) == threads


def test_two_that_look_at_each_other_share_the_cores():
    threads = [4, 4]
    for _ in range(3):
        # Each has what its threads use, scaled down where there are more threads than cores.
        scale = min(1.0, 4 / sum(threads))
        for mine in (0, 1):
            threads[mine] = calm.threads_beside(threads[1 - mine] * scale, 4, threads[mine])
    assert sum(threads) == 4
    assert min(threads) >= 1


def test_the_number_goes_down_and_up_again_and_is_given_back(two_threads, monkeypatch):
    clock, busy = [0.0], [0.0]
    monkeypatch.setattr(calm.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(calm, "_others_s", lambda: busy[0])
    monkeypatch.setattr(calm, "FIRST_LOOK_S", 0.0)
    with calm.following() as look:
        seen = []
        for cores in (0, 1, 1, 0, 1):
            clock[0] += calm.LOOK_S
            busy[0] += cores * calm.LOOK_S
            seen.append((look(), torch.get_num_threads()))
            clock[0] += calm.LOOK_S / 2  # too early to look
            assert look() == seen[-1][0]
            clock[0] -= calm.LOOK_S / 2
    assert seen == [(2, 2), (1, 1), (1, 1), (2, 2), (1, 1)]
    assert torch.get_num_threads() == 2


def test_a_core_that_is_taken_already_is_seen_before_the_first_step(two_threads, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(calm.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(calm.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(calm, "_others_s", lambda: clock[0])  # one core, all the time
    with calm.following() as look:
        assert look() == 1


def test_a_number_that_was_asked_for_stays(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(calm, "LOOK_S", 0.0)
    monkeypatch.setattr(calm, "_others_s", lambda: pytest.fail("nothing is to be followed"))
    with calm.following() as look:
        assert look() == 2


def test_beside_a_gpu_nothing_follows(two_threads, monkeypatch):
    monkeypatch.setattr(calm, "_others_s", lambda: pytest.fail("nothing is to be followed"))
    with calm.following("cuda") as look:
        assert look() == 2


def test_a_real_program_beside_it_is_seen(two_threads, monkeypatch):
    # As many as there are cores: wherever the system puts them, more than half a core is gone.
    monkeypatch.setattr(calm, "LOOK_S", 0.5)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with calm.following() as look:
            until = time.monotonic() + 60
            while look() == 2:
                assert time.monotonic() < until
                time.sleep(0.1)
            assert torch.get_num_threads() == 1
    finally:
        for each in others:
            each.kill()
            each.wait()
