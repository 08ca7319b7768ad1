"""What agent.json may say."""

from __future__ import annotations

import dataclasses
import doctest
from typing import Any

import pytest

from agents.storage import checkpoint, metadata
from agents.storage.metadata import MAX_TEXT, MAX_WINDOW, check_facts, check_model
from agents.storage.tensor_file import Damaged
from configs import ModelConfig
from envs.errors import UserError
from tests.support.models import tiny_model

GOOD: dict[str, Any] = {
    "format": 2,
    "model": dataclasses.asdict(ModelConfig()),
    "env_id": "Toy-v0",
    "data": "toy/toy-v0",
    "targets": [1, 2.5],
    "update": 3,
    "window": 20,
    "env_kwargs": {"speed": {"x": [1]}},
    "obs_keys": ["a"],
    "reference": [1, 2.0, "its own"],
}


def test_what_train_writes_is_taken_as_it_is() -> None:
    assert check_facts(GOOD) == GOOD
    assert check_model(GOOD["model"]) == ModelConfig()
    assert not doctest.testmod(metadata).failed
    assert check_model({"forget_bias": None, "cell": {"window": 8, "positions": "none"}})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("env_id", ["", "x" * 1000, None, 3, ["Toy-v0"]]),
        ("data", [None, 3, []]),
        (
            "targets",
            [None, 1.0, ["1"], [None], [True], [float("nan")], [float("inf")], [1e300], [10**400]],
        ),
        ("update", [-1, 1.5, True, None, 10**30]),
        ("window", [0, -1, True, 1.5, "20", MAX_WINDOW + 1]),
        ("env_kwargs", [None, [], "x"]),
        ("obs_keys", [None, "ab", [1]]),
        (
            "reference",
            [
                [],
                [1, 2],
                [1, 2, 3],
                ["a", 1, 2],
                [1, 2, "a", "b"],
                [None, 2, "a"],
                [10**400, 2, "a"],
                "abc",
            ],
        ),
    ],
)
def test_a_fact_of_another_kind_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(Damaged, match=f"an impossible {name}"):
            check_facts(GOOD | {name: value})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "no model"),
        ([], "no model"),
        ({"flux": 1}, "models have no 'flux'"),
        ({"dim": True}, "the model's dim is not int"),
        ({"dim": 8.0}, "the model's dim is not int"),
        ({"dim": 2**31}, "the model's dim is not int"),
        ({"expansion": float("inf")}, "the model's expansion is not float"),
        ({"expansion": 10**40}, "the model's expansion is not float"),
        ({"norm": ["layernorm"]}, "the model's norm is not Literal"),
        ({"signed": 1}, "the model's signed is not bool"),
        ({"backbone": "x" * (MAX_TEXT + 1)}, "the model's backbone is not str"),
        ({"cell": {"window": [8]}}, "the model's cell is not dict"),
        ({"cell": []}, "the model's cell is not dict"),
        ({"dim": 0}, "dim"),
    ],
)
def test_a_model_of_other_values_is_refused(model: Any, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        check_model(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 10**9}, "1000000000 layers are more than it has tensors"),
        ({"dim": 10**6}, r"its model takes \d{10,} bytes beside the weights"),
        ({"dim": 32}, r"is torch.float32 \[.*16.*\], not torch.float32 \[.*32.*\]"),
        ({"cell": {"window": 10**9}}, r"its model takes \d{12,} bytes beside the weights"),
        ({"cell": {"num_heads": 3}}, "describes no model: num_heads must divide"),
        ({"backbone": "attentoin"}, "describes no model: no cell 'attentoin'"),
        ({"backbone": "attention,"}, "describes no model: --model.backbone has an empty name"),
        ({"mlp_ratio": 1e29}, "damaged"),
    ],
)
def test_a_model_larger_than_its_file_is_not_built(
    tmp_path: Any, change: Any, message: str
) -> None:
    model = tiny_model(backbone="attention")
    model.config = dataclasses.replace(model.config, **change)
    told = {k: v for k, v in GOOD.items() if k not in ("format", "model")}
    checkpoint.save_checkpoint(tmp_path / "last", model, told)
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load_checkpoint(tmp_path / "last")
    assert "\n" not in str(caught.value)
