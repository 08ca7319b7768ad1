"""Configurations are values: validated, resolved by a pure function, saved and read back."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from configs import (
    PRESETS,
    Config,
    DataInfo,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    legible,
    resolve,
    to_dict,
)
from configs.choices import quantile
from configs.options import CELL_OPTIONS

INFO = DataInfo(env_id="Hopper-v5", returns=(5.0, 10.0, 40.0), max_length=900, horizon=1000)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_and_survives_json(name):
    resolved = resolve(PRESETS[name], INFO)
    assert resolved.data.return_scale
    assert resolved.eval.targets
    saved = json.loads(json.dumps(to_dict(resolved)))
    assert saved["model"] == {**dataclasses.asdict(resolved.model), "inputs": []}
    assert saved["eval"]["targets"] == list(resolved.eval.targets)
    assert resolved.preset == name


def test_resolving_twice_changes_nothing():
    once = resolve(Config(), INFO)
    assert resolve(once, INFO) == once


def test_targets_are_written_as_fine_as_their_size_calls_for():
    values = (218.89, 12345.67, 20.044, 0.0123456, -7.12345, 0.0)
    assert [legible(v) for v in values] == [218.9, 12345.7, 20.04, 0.01235, -7.123, 0.0]


def test_targets_are_quantiles_of_the_data_and_its_best():
    targets = resolve(Config(), INFO).eval.targets
    assert targets == (6.0, 8.0, 10.0, 22.0, 34.0, 40.0)


def test_equal_returns_are_asked_for_once():
    info = dataclasses.replace(INFO, returns=(7.0, 7.0))
    assert resolve(Config(), info).eval.targets == (7.0,)


def test_quantiles_agree_with_numpy():
    values = tuple(np.random.default_rng(0).normal(size=37))
    for q in (0.0, 0.1, 0.33, 0.5, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))


def test_a_time_embedding_shorter_than_the_episode_is_refused():
    config = Config(model=ModelConfig(timestep_embedding=500))
    with pytest.raises(ValueError, match=r"500 is shorter than an episode \(1000 steps\)"):
        resolve(config, INFO)


@pytest.mark.parametrize(
    ("backbone", "bias"),
    [
        *(("mingru", 0.0), ("minlstm", 3.0), ("gru", 0.0), ("minlstm, gru", 3.0)),
        *(("mingru,minlstm", 0.0), ("lstm,minlstm", 0.0)),
    ],
)
def test_the_forget_bias_depends_on_the_cells(backbone, bias):
    model = resolve(Config(model=ModelConfig(backbone=backbone)), INFO).model
    assert model.forget_bias == bias
    assert model.cell_options == ({"forget_bias": bias} if bias else {})
    assert ModelConfig(forget_bias=1.5, backbone=backbone).cell_options == {"forget_bias": 1.5}


def test_cells_get_the_options_that_were_changed():
    assert ModelConfig().cell_options == {}
    changed = {
        "expansion": 2.0,
        "candidate": "tanh",
        "forget_bias": 1.0,
        "learn_initial_state": True,
        "signed": True,
    }
    model = ModelConfig(**changed, cell={"window": 3, "signed": False})
    assert model.cell_options == changed | {"window": 3, "signed": False}
    assert set(changed) == set(CELL_OPTIONS)


def test_backbones_are_the_names_between_commas():
    assert ModelConfig(backbone="mingru").backbones == ("mingru",)
    assert ModelConfig(backbone="mingru , gru").backbones == ("mingru", "gru")
    with pytest.raises(ValueError, match="empty name: 'mingru,'"):
        _ = ModelConfig(backbone="mingru,").backbones


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ModelConfig, {"dim": 0}),
        (ModelConfig, {"dropout": 1.0}),
        (EvalConfig, {"episodes": -1}),
        (EvalConfig, {"targets": ()}),
        (EvalConfig, {"targets": (float("nan"),)}),
        (ModelConfig, {"rtg_scales": 40}),
        (OptimConfig, {"clip": float("nan")}),
        (Config, {"threads": 0}),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values):
    with pytest.raises(ValueError, match=next(iter(values)).replace("_", ".")):
        kind(**values)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_explains_itself_without_importing_torch(script, checkout):
    code = (
        "import sys, runpy\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'gymnasium', 'minari', 'matplotlib', 'mujoco'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Folder" in done.stdout or "run-dir" in done.stdout
