"""The command that resumes a run is the one that started this process, as far as it matters."""

import dataclasses
import json
import shlex

import pytest

from agents.runs.early_end import resume_command
from configs import CheckpointConfig, Config, cli, saved, to_dict

TORCHRUN = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def begin(folder):
    """Write the configuration of a run; return it."""
    (folder / saved.FILE).write_text(json.dumps(to_dict(Config(threads=3))))
    return cli.parse(["--resume", str(folder)], "")


def test_what_was_given_at_the_resume_is_given_again(tmp_path):
    begun = begin(tmp_path)
    assert resume_command(tmp_path, begun) == f"python train.py --resume {tmp_path}"
    every = dataclasses.replace(
        begun,
        device="cpu",
        threads=2,
        log="csv",
        data=dataclasses.replace(begun.data, download=False, cache=False),
        checkpoint=CheckpointConfig(every=7, seconds=0.5, keep=3),
    )
    _, _, *arguments = shlex.split(resume_command(tmp_path, every))
    assert cli.parse(arguments, "") == every
    assert arguments[:6] == ["--resume", str(tmp_path), "--device", "cpu", "--threads", "2"]


def test_what_was_off_is_on_again(tmp_path):
    off = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, cache=False))
    (tmp_path / saved.FILE).write_text(json.dumps(to_dict(off)))
    on = cli.parse(["--resume", str(tmp_path), "--data.cache"], "")
    assert resume_command(tmp_path, on) == f"python train.py --resume {tmp_path} --data.cache"


def test_a_configuration_that_is_gone_leaves_the_folder(tmp_path):
    assert (
        resume_command(tmp_path / "a b", Config()) == f"python train.py --resume '{tmp_path}/a b'"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("1", "1", "0"), "python"),
        (("1", "1", "3"), "torchrun --nproc-per-node 1 --max-restarts 3"),
        (("2", "2", "0"), "torchrun --nproc-per-node 2"),
        (("2", "2", "3"), "torchrun --nproc-per-node 2 --max-restarts 3"),
        (
            ("8", "4", "1"),
            "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT --nproc-per-node 4 "
            "--max-restarts 1",
        ),
    ],
)
def test_ranks_are_begun_again_as_they_were(tmp_path, monkeypatch, values, expected):
    for name, value in zip(TORCHRUN, values, strict=True):
        monkeypatch.setenv(name, value)
    assert resume_command(tmp_path, begin(tmp_path)) == f"{expected} train.py --resume {tmp_path}"
