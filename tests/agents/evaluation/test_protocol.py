"""What the protocol of a line says."""

from __future__ import annotations

import gymnasium as gym
import numba
import pytest
import torch

from agents.evaluation import protocol
from agents.evaluation.during_training import Evaluator
from agents.evaluation.evaluate import other_actions
from agents.training.build import load_data, resolve
from configs import Config, DataConfig
from envs.worlds.spec import EnvSpec
from tests.support import recordings
from tests.support.models import tiny_model


def test_an_interval_says_what_it_is_over():
    assert protocol.intervals(1, False).endswith("the episodes of one run, not training seeds")
    three = protocol.intervals(3, True)
    assert "3 runs, and the episodes of each (few: " in three
    assert "than episodes do, it is nearer to 70 %); of success, Wilson's where wider" in three
    assert "nearer to 50 %" in protocol.intervals(2, False)
    assert protocol.intervals(10, False).endswith("10 runs, and the episodes of each")


def test_an_engine_has_the_version_of_its_package():
    assert protocol.engine_version("numba, eager") == f"numba {numba.__version__}, eager"
    assert protocol.engine_version("onnx").startswith("onnx")


def test_the_best_checkpoint_says_how_it_was_chosen():
    chosen = {"eval": {"quick_episodes": 8, "targets": [3.0, 4369.1], "stepper": "gymnasium"}}
    assert protocol.how_chosen([chosen, chosen]) == "chosen by 8 other episodes asked for 4369.1"
    pool = {"eval": chosen["eval"] | {"stepper": "envpool"}}
    assert "of envpool's asked" in protocol.how_chosen([pool])
    assert " or chosen by" in protocol.how_chosen([chosen, pool])
    assert protocol.how_chosen([{}]) == ""


def test_a_checkpoint_is_named_with_its_updates():
    chosen = {"eval": {"quick_episodes": 8, "targets": [3.0]}}
    assert protocol.describe_checkpoint("last", [7, 7], [chosen]) == "last (update 7)"
    named = protocol.describe_checkpoint("best", [7, 9], [chosen])
    assert named == "best (update 7, 9), chosen by 8 other episodes asked for 3"
    assert protocol.describe_checkpoint("best", [7], [{}]) == "best (update 7)"


def test_what_differs_between_data_and_evaluation_is_in_the_protocol(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recordings.record("toy/cut/x-v0", gym.make("Pendulum-v1"), steps=50)
    config = Config(env="toy/cut/x-v0", data=DataConfig(env_kwargs={"g": 9.0}))
    data = load_data(config)
    evaluator = Evaluator(resolve(config, data), data, torch.device("cpu"))
    found = evaluator.protocol("last", 1)
    assert (
        "3 of 3 episodes were cut after 50 steps, an evaluation lasts up to 200"
        in (found["data_notes"])
    )
    assert found["env_kwargs"] == {"g": 9.0}
    assert not found.keys() & {"env_wrappers", "reset_options", "obs_keys"}
    mended = DataConfig(env_kwargs={"max_episode_steps": 50}, reset_options={"x_init": 0.1})
    config = Config(env="toy/cut/x-v0", data=mended)
    data = load_data(config)
    found = Evaluator(resolve(config, data), data, torch.device("cpu")).protocol("last", 1)
    assert "data_notes" not in found
    assert found["reset_options"] == {"x_init": 0.1}


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_an_agent_whose_actions_have_other_bounds_than_the_environments_is_told():
    model = tiny_model(obs_dim=3, action_dim=1)
    assert other_actions(model, EnvSpec("Pendulum-v1")) == (
        "actions are in [-1, 1] and not [-2, 2] (number 0; 1 of 1 differ), as Pendulum-v1 takes "
        "them"
    )
    scaled = (("RescaleAction", {"min_action": -1.0, "max_action": 1.0}),)
    assert other_actions(model, EnvSpec("Pendulum-v1", wrappers=scaled)) is None
