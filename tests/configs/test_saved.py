"""A run's configuration is read back as it was, and a resumed run is held to it."""

import dataclasses
import doctest
import json
from pathlib import Path

import pytest

from configs import PRESETS, Config, DataInfo, cli, resolve, saved, to_dict

INFO = DataInfo(env_id="Hopper-v5", returns=(5.0, 40.0), max_length=900, horizon=1000)


def leave(folder, preset="smoke"):
    """Write the configuration of a run; return it."""
    config = dataclasses.replace(resolve(PRESETS[preset], INFO), run_dir=Path("moved/since"))
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return dataclasses.replace(config, run_dir=folder)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_was_saved_is_read_back(tmp_path, preset):
    config = leave(tmp_path, preset)
    assert saved.read(tmp_path) == config
    assert saved.changed(config, saved.read(tmp_path)) == []


def test_a_resumed_run_has_its_own_configuration(tmp_path):
    config = leave(tmp_path)
    found = cli.parse(["--resume", str(tmp_path)], "")
    assert found == dataclasses.replace(config, resume=tmp_path)


def test_arguments_of_the_environment_are_read_as_what_they_are_and_come_back(tmp_path):
    flags = ["--data.env-kwargs", "flag", "False", "steps", "100", "scale", "0.5", "name", "a"]
    flags += ["--data.reset-options", "goal", "2", "--data.obs-keys", "goal", "at"]
    data = cli.parse(flags, "").data
    assert data.env_kwargs == {"flag": False, "steps": 100, "scale": 0.5, "name": "a"}
    assert [type(value) for value in data.env_kwargs.values()] == [bool, int, float, str]
    assert (data.reset_options, data.obs_keys) == ({"goal": 2}, ("goal", "at"))
    config = Config(run_dir=tmp_path, data=data)
    (tmp_path / saved.FILE).write_text(json.dumps(to_dict(config)))
    assert saved.read(tmp_path) == config


def test_options_may_be_repeated_and_those_that_do_not_matter_changed(tmp_path):
    leave(tmp_path)
    flags = ["--preset", "smoke", "--optim.updates", "20", "--run-dir", str(tmp_path)]
    free = ["--threads", "2", "--device", "cpu", "--checkpoint.every", "5", "--data.no-download"]
    found = cli.parse([f"--resume={tmp_path}", *flags, *free], "")
    assert (found.threads, found.device, found.checkpoint.every) == (2, "cpu", 5)
    assert not found.data.download


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--optim.lr", "1"], "--optim.lr"),
        (["--seed", "3"], "--seed"),
        (["--model.cell", "window", "3"], "--model.cell"),
        (["--data.env-kwargs", "max_episode_steps", "3"], "--data.env-kwargs"),
        (["--data.obs-keys", "goal"], "--data.obs-keys"),
        (["--run-dir", "elsewhere"], "--run-dir"),
    ],
)
def test_other_options_are_refused_in_one_line(tmp_path, capsys, flags, name):
    leave(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.parse(["--resume", str(tmp_path), *flags], "")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: {name} cannot change in a resumed run: leave it out, or begin another run"
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        " " * 2_000_000,
        '{"seed": "0"}',
        '{"seed": true}',
        '{"flux": 1}',
        '{"model": {"dim": -1}}',
        '{"optim": {"schedule": "steps"}}',
        '{"eval": {"targets": [1, "a"]}}',
        '{"model": {"cell": {"window": [3]}}}',
        '{"env": null}',
        '{"optim": {"lr": 1%s}}' % ("0" * 400),
    ],
)
def test_a_damaged_configuration_is_one_line(tmp_path, capsys, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.parse(["--resume", str(tmp_path)], "")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'config.json'} is damaged")


def test_a_folder_without_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--resume", str(tmp_path / "none")], "")
    assert "no run in" in capsys.readouterr().err


def test_the_example_holds():
    result = doctest.testmod(saved)
    assert result.attempted
    assert not result.failed


def test_two_runs_to_resume_are_one_too_many(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        leave(folder)
    both = ["--resume", str(one), "--resume-if-there", "--run-dir"]
    with pytest.raises(SystemExit) as ended:
        cli.parse([*both, str(two)], "")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --resume {one} and --resume-if-there with --run-dir {two} are")
    assert cli.parse([*both, str(two / ".." / "one")], "").resume == two / ".." / "one"


@pytest.mark.parametrize("text", [r'{"\u001b[2J": 1}', r'{"model": {"cell": {"a\n\u009b": []}}}'])
def test_names_in_a_damaged_configuration_are_printed_and_not_obeyed(tmp_path, capsys, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SystemExit):
        cli.parse(["--resume", str(tmp_path)], "")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
