"""`best/` is what the newest state calls the best, wherever a kill strikes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest

import train
from agents.storage import best
from agents.storage.checkpoint import load_checkpoint
from agents.storage.training_state import States
from tests.support.compare_runs import differences
from tests.support.small_run import go_on

FIRST, SECOND, LAST = 60, 120, 130
"""The updates at which a small run evaluates."""


class Killed(BaseException):
    """In the place of SIGKILL: nothing is saved after it."""


class Played(Exception):
    """The final report has begun."""


class Scores:
    """An evaluator whose scores are given, by update."""

    def __init__(self, run, scores):
        self.run, self.scores = run, scores

    def quick(self, model):
        return {"score": 0.0}, self.scores[self.run.trainer.update]

    def final(self, models):
        raise Played(*models)


def train_with(folder, scores):
    """Train the small run with these scores to its end, or until something raises."""
    with go_on(folder) as run:
        evaluated = dataclasses.replace(run.config.eval, episodes=1)
        run.config = dataclasses.replace(run.config, eval=evaluated)
        evaluator = Scores(run, scores)
        train.fit(run, evaluator)
        train.report(run, evaluator)


def played(folder, scores):
    """Return the checkpoints that the final report plays."""
    with pytest.raises(Played) as found:
        train_with(folder, scores)
    return found.value.args


def update_of(folder):
    return load_checkpoint(folder)[1]["update"]


@pytest.fixture
def killed_at(monkeypatch):
    """Return a function that kills a run when a function of a module is called for an update."""

    def kill(folder, scores, module, name, when):
        inner = getattr(module, name)

        def killed(*arguments, **options):
            if when(*arguments):
                raise Killed
            return inner(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(Killed):
                train_with(folder, scores)

    return kill


GROWING = {FIRST: 1.0, SECOND: 2.0, LAST: 0.0}


def test_a_best_that_no_state_speaks_of_is_forgotten(tmp_path, killed_at):
    folder = tmp_path / "run"
    killed_at(
        folder, GROWING, States, "save", lambda _, name, *__: name == f"{SECOND:010d}-evaluated"
    )
    assert update_of(folder / best.NEXT) == SECOND  # else this test kills elsewhere
    assert update_of(folder / "best") == FIRST
    # Where rounding is another, the evaluation that is done again may have another score.
    assert played(folder, GROWING | {SECOND: 0.5}) == ("last", "best")
    assert update_of(folder / "best") == FIRST
    assert not (folder / best.NEXT).exists()


@pytest.mark.parametrize("renames", [0, 1])
def test_a_best_that_a_state_speaks_of_is_had(tmp_path, killed_at, renames):
    folder = tmp_path / "run"

    def strikes(source, target):
        place = (folder / best.NEXT, folder / "best") if renames else (folder / "best", None)
        return source == place[0] and target == (place[1] or folder / ".old-best")

    # The first best has no older one that steps aside.
    def second(source, target):
        return strikes(source, target) and update_of(folder / best.NEXT) == SECOND

    killed_at(folder, GROWING, os, "rename", second)
    assert (folder / "best").exists() == (not renames)
    assert (folder / best.NEXT).exists()
    assert played(folder, {LAST: 0.0}) == ("last", "best")
    assert update_of(folder / "best") == SECOND
    assert played(tmp_path / "alone", GROWING) == ("last", "best")
    assert differences(tmp_path / "alone", folder) == []


def test_a_best_later_than_the_resumed_state_is_chosen_again(tmp_path, killed_at, capsys):
    folder = tmp_path / "run"
    killed_at(folder, GROWING, States, "save", lambda _, name, *__: name.startswith("0000000130"))
    for state in sorted((folder / "state").iterdir())[1:]:
        assert state.name.endswith("-evaluated")
        (state / "state.json").write_text("{")
    played(folder, GROWING)
    assert "best is of update 120, not 60" in capsys.readouterr().out
    assert update_of(folder / "best") == SECOND
    with pytest.raises(Played):
        train_with(tmp_path / "alone", GROWING)
    assert differences(tmp_path / "alone", folder) == []


def remove(folder):
    shutil.rmtree(folder)


def cut(folder):
    (folder / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "why"), [(remove, "no checkpoint in {}"), (cut, "the checkpoint in {} is damaged (")]
)
def test_a_run_whose_best_is_lost_ends_with_the_last_alone(tmp_path, capsys, damage, why):
    folder = tmp_path / "run"
    assert played(folder, GROWING) == ("last", "best")
    damage(folder / "best")
    assert played(folder, {}) == ("last",)
    note = "note   the best checkpoint is lost; the next ones replace it ("
    told = capsys.readouterr().out
    assert note + why.format(folder / "best") in told
    assert "train again" not in told
    assert "give the folder" not in told


def test_the_next_one_is_the_best_where_that_was_lost(tmp_path, killed_at):
    folder = tmp_path / "run"
    killed_at(folder, GROWING, States, "save", lambda _, name, *__: name.startswith("0000000130"))
    remove(folder / "best")
    assert played(folder, GROWING) == ("last",)
    assert update_of(folder / "best") == LAST
    states = [json.loads(path.read_text()) for path in folder.glob("state/*-evaluated/state.json")]
    assert [state["best_update"] for state in states if state["update"] == LAST] == [LAST]
