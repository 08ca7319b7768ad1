"""evaluate.py on runs of untrained agents in Hopper, in this process."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

import evaluate
from agents.acting import engines
from agents.evaluation import checkpoints, latency
from agents.evaluation import evaluate as evaluation
from agents.machine import device
from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from agents.report.media import rendering, video
from agents.storage.checkpoint import save_checkpoint
from configs import ModelConfig
from envs.errors import UserError
from envs.files import write_json

ENV = "Hopper-v5"


@pytest.fixture(autouse=True)
def this_process_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(device, "configure", lambda threads: None)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run as train.py leaves it."""
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def write_run(folder, seed=0, env_id=ENV, window=None):
    torch.manual_seed(0)
    spaces = Spaces([0.0] * 11, [1.0] * 11, [-1.0] * 3, [1.0] * 3, 10.0, 0.0, 50.0)
    model = DecisionModel(ModelConfig(dim=16, num_layers=2), spaces)
    metadata = {"env_id": env_id, "data": "toy/toy-v0", "targets": [10.0, 40.0], "window": window}
    for name, update in (("last", 20), ("best", 10)):
        save_checkpoint(folder / name, model, {**metadata, "update": update})
    write_json(folder / "config.json", {"seed": seed, "env": "toy/toy-v0"})
    write_json(folder / checkpoints.DATA_FILE, {"returns": [0.0, 10.0, 50.0]})
    rows = [{"update": 1, "train/loss": 1.0}, {"update": 20, "eval/return_asked_40": 3.0}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def call(*arguments):
    evaluate.main([str(argument) for argument in arguments])


def test_both_checkpoints_are_asked_for_the_runs_returns(run, tmp_path, capsys):
    call(run, "--episodes", 2, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["results"]) == ["last", "best"]
    assert [row["target"] for row in report["results"]["last"]] == [10, 40]
    protocols = report["protocols"]
    assert {name: found["checkpoint"] for name, found in protocols.items()} == {
        "last": "last (update 20)",
        "best": "best (update 10)",
    }
    assert protocols["last"]["engine"]
    printed = capsys.readouterr().out
    for row in report["results"]["best"]:
        assert len(row["returns"]) == len(row["lengths"]) == 2
        assert f"{row['mean']:.1f}" in printed
    assert "convention" in printed  # the reference constants are named for what they are
    assert "not on this disk" not in (tmp_path / "report.html").read_text()
    for name in ("calibration", "returns", "curve", "latency"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_targets_two_memories_one_checkpoint_and_a_format(run, tmp_path):
    flags = ["--targets", 5, "--episodes", 1, "--memory", "window", "carry", "--window", 5]
    call(run / "best", *flags, "--figures", "svg", "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["results"]) == ["best window", "best carry"]
    assert report["protocols"]["best window"]["memory"] == "window of 5 re-run"
    assert b"<svg" in (tmp_path / "figures" / "calibration.svg").read_bytes()


def test_seeds_are_pooled_and_filmed(run, tmp_path):
    pytest.importorskip("av")
    try:
        rendering.rendering_env(ENV).close()
    except UserError as error:
        pytest.skip(str(error))
    other = write_run(tmp_path / "other", seed=1)
    flags = ["--quantiles", 0.5, "--episodes", 2, "--checkpoint", "last", "--video"]
    call(run, other, *flags, "--out", tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (row,) = report["results"]["last"]
    assert row["target"] == 10
    assert row["returns"][:2] == row["returns"][2:]  # it is the same agent twice
    assert row["mean_of_each_run"] == pytest.approx([row["mean"]] * 2)
    assert report["protocols"]["last"]["training_seeds"] == [0, 1]
    assert report["videos"]["last"]["worst"]["return"] == min(row["returns"])
    assert (tmp_path / "report" / "report.html").read_text().count("data:video/mp4") == 3


def test_the_report_lies_with_the_run_or_beside_several(run, tmp_path):
    call(run / "best", "--episodes", 1, "--targets", 1)
    assert (run / "report.html").is_file()
    assert not (run / "best" / "report.html").exists()
    assert evaluate.common([tmp_path / "a" / "x", tmp_path / "b" / "y"]) == tmp_path
    for far in ("/elsewhere/run", tmp_path / "1/2/3/4"):
        with pytest.raises(UserError, match=r"no folder in common.*--out"):
            evaluate.common([tmp_path / "run", Path(far)])


def test_what_was_played_is_kept_whatever_comes_after(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(run, "--episodes", 2, "--targets", 1, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [len(rows[0]["returns"]) for rows in report["results"].values()] == [2, 2]


def test_a_film_that_fails_is_a_note(run, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise UserError("no film today")

    monkeypatch.setattr(video, "check", lambda found: None)
    monkeypatch.setattr(video, "film", broken)
    call(run, "--episodes", 1, "--targets", 1, "--video", "--out", tmp_path)
    assert "note: best was not filmed: no film today" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()


def test_nothing_is_played_before_everything_has_been_looked_at(run, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "rollout", lambda *_, **__: pytest.fail("played"))
    other = write_run(tmp_path / "other", seed=1, env_id="Gone-v0")
    with pytest.raises(UserError, match="Gone-v0"):
        call(run, other, "--out", tmp_path / "report")


def test_an_episode_is_shown(run, capsys):
    call(run, "--watch", "--targets", 15, "--checkpoint", "best")
    printed = capsys.readouterr().out
    assert f"{ENV}, mingru best, asked 15, seed=10000" in printed
    assert re.search(r"asked 15, got \d+\.\d in \d+ steps", printed)


def test_an_old_run_without_its_datas_returns_is_read(tmp_path, capsys):
    run = write_run(tmp_path / "old")
    (run / checkpoints.DATA_FILE).unlink()
    call(run, "--episodes", 1, "--targets", 1e6)
    assert "beyond the data" in capsys.readouterr().out
    assert "not on this disk" in (run / "report.html").read_text()


def test_the_step_is_exported(run, tmp_path):
    call(run, "--checkpoint", "last", "--export", "pt2", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt2"]


def test_an_exported_step_says_where_it_remembers_in_another_way_than_its_run(tmp_path, capsys):
    run = write_run(tmp_path / "run", window=20)
    call(run, "--checkpoint", "last", "--export", "pt2")
    assert "carries its state; the run was evaluated with a window of 20" in capsys.readouterr().out


def test_several_runs_are_exported_side_by_side_or_not_at_all(tmp_path):
    a, b = (write_run(tmp_path / name / "run", seed=i) for i, name in enumerate("ab"))
    c = write_run(tmp_path / "c", seed=2)
    flags = ["--checkpoint", "last", "--export", "pt2", "--out", tmp_path / "out"]
    with pytest.raises(UserError, match=r"both be written to .*run: export one at a time"):
        call(a, b, *flags)
    call(a, c, *flags)
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.pt2"))
    assert found == ["c/last.pt2", "run/last.pt2"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--targets", "nan"], ["--targets", "finite"]),
        (["--quantiles", "2"], ["--quantiles", "[0, 1]"]),
        (["--quantiles", "0.5", "--targets", "1"], ["--targets", "--quantiles", "one of them"]),
        (["--num-procs", "0"], ["--num-procs", "positive"]),
        (["--engine", "eager", "--memory", "window"], ["--engine", "carry"]),
        (["--window", "5", "--memory", "carry"], ["--window", "--memory window"]),
        (["--watch", "--export", "pt2"], ["--watch", "exports"]),
        (["--export", "pt2", "--video"], ["--export", "--video"]),
        (["--out", "{}/file/out", "--episodes", "1", "--targets", "1"], ["file/out", "another"]),
    ],
)
def test_what_cannot_be_is_refused(run, tmp_path, flags, words):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        call(run, *(flag.format(tmp_path) for flag in flags))
    for word in words:
        assert word in str(caught.value)


def test_a_run_has_to_be_named():
    with pytest.raises(UserError, match="name the folder of a run"):
        call()


def test_every_engine_can_be_named():
    named = get_args(get_type_hints(evaluate.Options)["engine"])
    assert named[0] == "auto"
    assert set(named[1:]) == set(engines.NAMES)


def test_a_strangers_run_is_reported_whatever_its_log_and_its_last_report_hold(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    sound = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"[" * 200_000 + b"\n3\n\xff\n" + sound)
    (folder / "report.json").write_bytes(b"[" * 200_000)
    call(folder, "--episodes", 1, "--checkpoint", "last", "--targets", 10)
    assert "metrics.jsonl: 3 damaged lines left out" in capsys.readouterr().out
    assert (folder / "figures" / "curve.png").is_file()


@pytest.mark.parametrize("flags", [(), ("--export", "pt2")])
def test_a_folder_that_cannot_be_written_leads_to_out(run, tmp_path, monkeypatch, flags):
    write = Path.write_bytes

    def read_only(path, content):
        if run in path.parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(UserError, match=r"cannot write .*Read-only file system.*: --out$"):
        call(run, "--episodes", 1, *flags)
    call(run, "--episodes", 1, "--out", tmp_path / "out", *flags)
    assert len(list((tmp_path / "out").iterdir())) >= 2


def test_runs_on_two_drives_have_no_folder_in_common(monkeypatch):
    def refuse(paths):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(evaluate.os.path, "commonpath", refuse)
    with pytest.raises(UserError, match=r"no folder in common.*--out"):
        evaluate.common([Path("C:/a"), Path("D:/a")])


def test_exports_whose_names_differ_in_case_alone_are_refused(tmp_path):
    # macOS and Windows would write the second over the first.
    a, b = write_run(tmp_path / "a" / "Run"), write_run(tmp_path / "b" / "run")
    with pytest.raises(UserError, match="would both be written"):
        call(a, b, "--export", "pt2", "--out", tmp_path / "out")
