"""The store: computed once, shared, atomic; damage is noticed and a killed builder is not waited for."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from dcsft.artefacts import DONE, Artefact, Store


def artefact(recipe=None, stage="label", version=1, parents=None) -> Artefact:
    return Artefact(stage, version, recipe or {"a": 1}, parents or {})


def write(text):
    return lambda folder: (folder / "payload.txt").write_text(text)


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said) -> Store:
    return Store(tmp_path, said.append)


def test_a_key_depends_on_stage_version_recipe_and_parents_and_not_on_the_order_of_the_recipe():
    base = artefact({"a": 1, "b": 2})
    assert base.key == artefact({"b": 2, "a": 1}).key
    others = [
        artefact({"a": 1, "b": 3}),
        artefact({"a": 1, "b": 2}, stage="train"),
        artefact({"a": 1, "b": 2}, version=2),
        artefact({"a": 1, "b": 2}, parents={"cold_start": artefact()}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5
    assert len(base.key) == 12


def test_the_second_get_computes_nothing(store, tmp_path):
    folder, reused = store.get(artefact(), write("one"))
    assert not reused
    again, reused = Store(tmp_path, print).get(artefact(), lambda folder: pytest.fail("computed twice"))
    assert (again, reused) == (folder, True)
    assert (folder / "payload.txt").read_text() == "one"
    assert json.loads((folder / "recipe.json").read_text())["recipe"] == {"a": 1}


def test_a_build_that_fails_leaves_nothing_finished_and_the_next_goes_on_from_its_files(store):
    def fails(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.get(artefact(), fails)
    assert store.find(artefact()) is None

    def goes_on(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half"

    folder, _ = store.get(artefact(), goes_on)
    assert (folder / DONE).exists()


@pytest.mark.parametrize("harm", ["change", "truncate", "remove", "no DONE", "torn DONE"])
def test_a_damaged_artefact_is_set_aside_said_and_computed_again(store, tmp_path, said, harm):
    folder, _ = store.get(artefact(), write("good"))
    payload = folder / "payload.txt"
    match harm:
        case "change":
            payload.write_text("evil")  # the same size
        case "truncate":
            payload.write_text("go")
        case "remove":
            payload.unlink()
        case "no DONE":
            (folder / DONE).unlink()
        case "torn DONE":
            (folder / DONE).write_text('{"payload.txt": [4')
    again, reused = Store(tmp_path, said.append).get(artefact(), write("good"))
    assert not reused
    assert (again / "payload.txt").read_text() == "good"
    assert len(said) == 1
    assert "set aside as" in said[0]
    assert len(list(folder.parent.glob("*.damaged-*"))) == 1


def test_losing_the_race_to_rename_is_harmless(store, said):
    wanted = artefact()

    def slow(folder: Path) -> None:
        (folder / "payload.txt").write_text("ours")
        # Another host, whose locks we do not see, finishes first.
        winner = store.folder(wanted)
        winner.mkdir()
        (winner / DONE).write_text("{}")

    folder, _ = store.get(wanted, slow)
    assert not (folder / "payload.txt").exists()
    assert "another process was first" in said[0]
    assert not folder.with_name(folder.name + ".partial").exists()


def _build_slowly(root: str, marks: str, hang: bool) -> None:
    def build(folder: Path) -> None:
        Path(marks).joinpath(f"{os.getpid()}").touch()
        time.sleep(60 if hang else 0.5)
        (folder / "payload.txt").write_text("x")

    Store(Path(root), lambda line: Path(marks).joinpath("said").open("a").write(line + "\n")).get(artefact(), build)


@pytest.mark.slow
def test_four_processes_compute_it_once_and_the_others_say_for_whom_they_wait(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_build_slowly, args=(str(tmp_path / "store"), str(marks), False)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    builders = [mark.name for mark in marks.iterdir() if mark.name != "said"]
    assert len(builders) == 1
    waiting = (marks / "said").read_text().splitlines()
    assert len(waiting) == 3
    assert all("waiting for" in line for line in waiting)
    assert any(f"process {builders[0]} on" in line for line in waiting)


@pytest.mark.slow
def test_a_killed_builder_is_not_waited_for(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=_build_slowly, args=(str(tmp_path / "store"), str(marks), True))
    worker.start()
    while not any(marks.iterdir()):
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    start = time.monotonic()
    _, reused = Store(tmp_path / "store", print).get(artefact(), write("mine"))
    assert not reused
    assert time.monotonic() - start < 5


def test_a_file_system_without_locks_is_said_and_the_first_result_is_used(store, said, monkeypatch):
    def has_none(self, timeout=None):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", has_none)
    other = Store(store.root, said.append)

    def slow(folder: Path) -> None:
        other.get(artefact(), write("theirs"))  # another process is faster
        (folder / "payload.txt").write_text("ours")

    folder, _ = store.get(artefact(), slow)
    assert (folder / "payload.txt").read_text() == "theirs"
    assert any("the file system has no locks" in line for line in said)
    assert any("another process was first; its result is used" in line for line in said)
    assert not list(folder.parent.glob("*.partial*"))
