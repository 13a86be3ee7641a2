"""Claims: one holder a piece, on one machine and on many, with and without locks of the file system."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tlskit import files
from tlskit.errors import RunError
from tlskit.files import Claims

#: Takes pieces in turn with everybody else and writes down which; a line of its own a piece.
_WORKER = """
import sys, time, pathlib
from tlskit.files import Claims
folder = pathlib.Path(sys.argv[1])
pieces = [str(n) for n in range(30)]
print("ready", flush=True)
sys.stdin.readline()
for piece in Claims(folder / "claims").share(pieces, lambda p: (folder / p).exists(), poll_s=0.02):
    with open(folder / "log", "a") as log: log.write(piece + " " + sys.argv[2] + "\\n")
    time.sleep(0.01)
    (folder / piece).touch()
"""
_HOLDER = """
import sys, time
from tlskit.files import Claims
claims = Claims(sys.argv[1])
print(claims.take("a"), flush=True)
time.sleep(60)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_piece_has_one_holder_until_it_is_given_back(tmp_path):
    mine, others = Claims(tmp_path / "c"), Claims(tmp_path / "c")
    assert mine.take("4x/01") and mine.holds("4x/01") and others.is_taken("4x/01")
    assert not others.take("4x/01") and not mine.take("4x/01") and others.take("1x/01")
    mine.release("4x/01")
    assert others.take("4x/01") and not mine.holds("4x/01")
    for piece in ("4x/01", "1x/01"):
        others.release(piece)
    assert not (tmp_path / "c").exists()


def test_threads_of_one_process_do_not_share_a_piece(tmp_path):
    claims = Claims(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: claims.take("a"), range(64))) == 1


def test_processes_started_together_share_the_work_and_do_nothing_twice(tmp_path):
    workers = [start(_WORKER, tmp_path, name) for name in "abc"]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(str(n) for n in range(30))
    assert {line.split()[1] for line in lines} == set("abc") and not (tmp_path / "claims").exists()


def test_a_killed_holder_of_this_machine_is_seen_at_once(tmp_path):
    holder = start(_HOLDER, tmp_path)
    assert holder.stdout.readline() == "True\n"
    claims = Claims(tmp_path)
    assert not claims.take("a")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    begun = time.monotonic()
    while not claims.take("a"):
        time.sleep(0.02)
    assert time.monotonic() - begun < 5


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(files, "LEASE_S", 0.6)


def of_another_node(folder, piece):
    """What a node that is gone has left of its claim; the claims, that they may not be given back by going."""
    claims = Claims(folder)
    claims.take(piece)
    lease = claims._leases[piece]
    lease._stop_heartbeat()
    path = folder / f"{piece}.claim"
    text = path.read_text().splitlines()
    path.write_text("\n".join("host=node17" if line.startswith("host=") else line for line in text) + "\n")
    return claims


def test_a_node_that_vanished_is_waited_out_and_no_longer(tmp_path, short_lease):
    gone = of_another_node(tmp_path, "a")
    claims, begun = Claims(tmp_path), time.monotonic()
    while not claims.take("a"):
        assert time.monotonic() - begun < 10
        time.sleep(0.05)
    assert 0.5 < time.monotonic() - begun
    assert claims.holds("a") and gone is not claims


def test_a_claim_is_waited_out_within_a_minute():
    assert files.LEASE_S <= 30


def test_a_living_holder_is_not_waited_out(tmp_path, short_lease):
    mine, others = Claims(tmp_path), Claims(tmp_path)
    mine.take("a")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert not others.take("a")
        time.sleep(0.1)
    assert mine.holds("a")


def test_whoever_lost_his_claim_knows(tmp_path, short_lease):
    claims = Claims(tmp_path)
    claims.take("a")
    (tmp_path / "a.claim").unlink()
    until = time.monotonic() + 10
    while claims.holds("a") and time.monotonic() < until:
        time.sleep(0.05)
    assert not claims.holds("a")


def test_a_folder_whose_flock_does_nothing_is_as_good(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(fcntl, "lockf", lambda *_: None)
    test_a_piece_has_one_holder_until_it_is_given_back(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_folder_that_is_read_only_is_a_sentence(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match="read-only"):
        Claims(tmp_path / "run" / ".claims").take("a")


def test_a_file_where_a_folder_should_be_is_a_sentence(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="Nothing can be written into run"):
        Claims(tmp_path / "run" / ".claims").take("a")


def test_a_portable_path_names_no_user_and_is_found_again(tmp_path, monkeypatch):
    home, project = tmp_path / "home" / "somebody", tmp_path / "srv" / "project"
    monkeypatch.setenv("HOME", str(home))
    for place, said in {
        home / "data" / "manifest.csv": "~/data/manifest.csv",
        project / "outputs" / "manifest.csv": "outputs/manifest.csv",
        tmp_path / "srv" / "data" / "manifest.csv": "../data/manifest.csv",
    }.items():
        assert files.portable(place, project) == said
        assert (project / os.path.expanduser(said)).resolve() == place.resolve()
    assert files.portable(home / "data" / "m.csv", home / "project") == "../data/m.csv"
