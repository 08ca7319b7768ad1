"""The two scripts as a user runs them: end to end on a small data set, and with bad input."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from envs.rollout import rollout
from envs.sources import minari

DATA = "test/hopper/random-v0"


class Random:
    """Act at random, so that episodes are short."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, obs, reward, resets, episode):
        return self.rng.uniform(-1, 1, (len(obs), 3))


@pytest.fixture(scope="module")
def data(minari_folder):
    """Write 20 random episodes of Hopper as a Minari data set; return its id."""
    played = rollout("Hopper-v5", Random(), seeds=range(20), num_envs=4, record=True)
    minari.write(DATA, played.episodes, env="Hopper-v5", algorithm="random", description="test")
    return DATA


def run(checkout, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(checkout, data, tmp_path_factory):
    """Train the smoke preset once; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run(checkout, "train.py", "--preset", "smoke", "--env", data, "--run-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_training_leaves_checkpoints_logs_plots_and_results(trained):
    folder, printed = trained
    for name in ("last", "best"):
        assert (folder / name / "model.safetensors").is_file()
        assert (folder / name / "agent.json").is_file()
    for name in ("calibration.png", "curve.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert any((folder / "tensorboard").iterdir())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows if "train/loss" in row][-1] == 20
    assert any("eval/calibration_error" in row for row in rows)
    assert "Hopper-v5" in printed
    assert "convention" in printed  # the reference constants are named for what they are


def test_the_saved_configuration_is_the_resolved_one(trained):
    folder, _ = trained
    saved = json.loads((folder / "config.json").read_text())
    assert saved["preset"] == "smoke"
    assert saved["optim"]["updates"] == 20
    assert saved["data"]["return_scale"] > 0
    assert len(saved["eval"]["targets"]) >= 5


def test_results_hold_every_episode_and_the_protocol(trained):
    folder, printed = trained
    report = json.loads((folder / "results.json").read_text())
    assert report["protocols"]["last"]["data"] == DATA
    for row in report["results"]["last"]:
        assert len(row["returns"]) == len(row["lengths"]) == 2
        assert row["mean"] == pytest.approx(np.mean(row["returns"]))
        assert f"{row['mean']:.1f}" in printed


def test_evaluate_gives_the_same_returns_as_the_end_of_training(checkout, trained):
    folder, _ = trained
    done = run(checkout, "evaluate.py", folder, "--episodes", 2, "--num-envs", 4)
    assert done.returncode == 0, done.stderr
    before = json.loads((folder / "results.json").read_text())["results"]["last"]
    after = json.loads((folder / "report.json").read_text())["results"]["last"]
    assert [row["returns"] for row in before] == [row["returns"] for row in after]
    page = (folder / "report.html").read_text()
    assert "returns are not on this disk" not in page  # train.py left them in the run
    for name in ("calibration", "returns", "curve", "latency"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def fails(done, code, *words):
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


def test_an_unknown_data_set_lists_near_matches(checkout, tmp_path):
    done = run(checkout, "train.py", "--env", "hopper-medium-replay", "--run-dir", tmp_path / "r")
    fails(done, 2, "did you mean minrnn/hopper/medium-replay-v0")
    assert not (tmp_path / "r").exists()


def test_a_run_folder_in_use_is_left_alone(checkout, trained, data):
    folder, _ = trained
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    done = run(checkout, "train.py", "--preset", "smoke", "--env", data, "--run-dir", folder)
    fails(done, 2, "is not empty", "--run-dir")
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


def test_a_finished_run_says_so_and_is_left_alone(checkout, trained):
    folder, _ = trained
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    done = run(checkout, "train.py", "--resume", folder)
    assert (done.returncode, done.stdout) == (
        0,
        f"{folder} is finished: python evaluate.py {folder}\n",
    )
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


def test_a_run_folder_below_a_file_is_refused(checkout, data, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        flags = ["--preset", "smoke", "--env", data, "--run-dir", folder]
        fails(run(checkout, "train.py", *flags), 2, "runs into a file", "--run-dir")


def test_a_folder_without_checkpoint_is_refused(checkout, tmp_path):
    fails(run(checkout, "evaluate.py", tmp_path), 2, "no checkpoint", "train.py")


def test_an_unknown_backbone_lists_what_there_is(checkout, data, tmp_path):
    flags = ["--env", data, "--model.backbone", "transformer", "--run-dir", tmp_path / "r"]
    fails(run(checkout, "train.py", *flags), 2, "transformer", "mingru", "minlstm")
    assert not (tmp_path / "r").exists()


def test_an_unknown_preset_lists_what_there_is(checkout):
    fails(run(checkout, "train.py", "--preset", "big"), 2, "big", "default", "smoke")


def test_a_value_out_of_range_names_its_flag(checkout):
    done = run(checkout, "train.py", "--model.dropout", "2")
    assert done.returncode == 2
    assert "dropout must be in [0, 1), not 2.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unusable_device_is_one_line(checkout, data, tmp_path):
    flags = ["--env", data, "--device", "cuda:99", "--run-dir", tmp_path / "r"]
    fails(run(checkout, "train.py", *flags), 2, "cuda:99", "--device auto")


def test_data_that_does_not_fit_its_environment_is_refused(checkout, data, tmp_path):
    hopper = minari.read(data).episode(0)
    episodes = [replace(hopper, action=np.zeros((len(hopper.action), 6)))]  # Walker2d has 17 and 6
    name = "test/hopper/wrong-v0"
    minari.write(name, episodes, env="Walker2d-v5", algorithm="random", description="test")
    done = run(checkout, "train.py", "--env", name, "--run-dir", tmp_path / "r")
    fails(done, 2, "(17, 11)", "rows of 17")
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_stops_the_run_with_one_line(checkout, data, tmp_path):
    # The file system is full for every write of the run's folder behind /dev/full.
    code = (
        "import sys, errno, agents.storage.tensor_folder as c, train\n"
        "from envs.script import run_script\n"
        "def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "c.save_file = full\n"
        f"flags = ['--preset', 'smoke', '--env', {data!r}, '--run-dir', {str(tmp_path / 'r')!r}]\n"
        "sys.exit(run_script(lambda: train.main(flags)))\n"
    )
    done = run(checkout, "-c", code)
    fails(done, 2, "No space left on device", "free some space", f"--resume {tmp_path / 'r'}")
    left = {path.name for path in (tmp_path / "r").iterdir()}
    assert left <= {".lock", "config.json", "data.json", "metrics.jsonl", "tensorboard", "state"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Write random episodes of Hopper as somebody's file in D4RL's layout, with two defects."""
    played = rollout("Hopper-v5", Random(), seeds=range(20), num_envs=4, record=True)
    over = np.cumsum([len(e.reward) for e in played.episodes]) - 1
    path = tmp_path_factory.mktemp("own") / "mine.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.concatenate([e.obs[:-1] for e in played.episodes])
        file["actions"] = np.concatenate([e.action for e in played.episodes])
        file["rewards"] = np.concatenate([e.reward for e in played.episodes])[:, None]
        file["terminals"] = np.isin(np.arange(over[-1] + 1), over)
        file["actions"][0] = 1.5
        file["observations"][over[3]] = np.nan
    return path


def test_a_file_of_ones_own_is_trained_on_and_its_repairs_are_told(checkout, own, tmp_path):
    arguments = ["--preset", "smoke", "--env", own, "--run-dir", tmp_path / "run"]
    done = run(checkout, "train.py", *arguments, "--data.env-id", "Hopper-v5")
    assert done.returncode == 0, done.stderr
    assert "19 episodes" in done.stdout
    assert "note   1 of 20 episodes" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("note")]) >= 2
    protocol = json.loads((tmp_path / "run" / "results.json").read_text())["protocols"]["last"]
    assert (protocol["data"], protocol["env_id"]) == (str(own), "Hopper-v5")


def test_training_alone_needs_no_environment(checkout, own, tmp_path):
    arguments = ["--preset", "smoke", "--env", own]
    arguments += ["--eval.episodes", "0", "--run-dir", tmp_path / "run"]
    done = run(checkout, "train.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "not evaluated" in done.stdout
    assert "note   --data.env-id does not say" in done.stdout
    assert (tmp_path / "run" / "last").is_dir()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"] == {}
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*"))
    done = run(checkout, "train.py", "--resume", tmp_path / "run")
    assert (done.returncode, "is finished" in done.stdout) == (0, True)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")) == before


def test_two_data_sets_are_trained_on_together(checkout, data, tmp_path):
    arguments = ["--preset", "smoke", "--env", f"{data},{data}", "--data.weights", "1", "3"]
    done = run(checkout, "train.py", *arguments, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"{data},{data}: 40 episodes" in done.stdout


def test_of_two_runs_at_once_in_one_folder_one_is_refused(checkout, data, tmp_path):
    flags = ["train.py", "--preset", "smoke", "--env", data, "--run-dir", str(tmp_path / "run")]
    both = [
        subprocess.Popen(
            [sys.executable, *flags], cwd=checkout, stderr=subprocess.PIPE, text=True, bufsize=-1
        )
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    refused = said[0] if both[0].returncode else said[1]
    assert "is not empty: choose another" in refused or "by another process" in refused
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["results"]["last"]


def test_training_survives_a_machine_that_draws_with_osmesa(checkout, data, tmp_path):
    # MuJoCo loads OSMesa at its import, torch's optimisers triton: in this order LLVM crashes.
    probe = "import OpenGL.GL, OpenGL.osmesa"
    if run(checkout, "-c", probe, PYOPENGL_PLATFORM="osmesa").returncode:
        pytest.skip("OSMesa is not installed")
    flags = ["--preset", "smoke", "--env", data, "--run-dir", tmp_path / "run"]
    done = run(checkout, "train.py", *flags, MUJOCO_GL="osmesa")
    assert done.returncode == 0, done.stderr
