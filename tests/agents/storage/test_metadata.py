"""What agent.json may say."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from agents.storage import checkpoint
from agents.storage.metadata import LARGEST_WINDOW, check_metadata
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
    "env_wrappers": [["ClipAction", {}]],
    "reset_options": {"goal": 1.5},
    "reference": [1, 2.0, "its own"],
    "notes": ["one line"],
    "obs_offset": [],
}


def test_what_train_writes_is_taken_as_it_is() -> None:
    same = {"model": ModelConfig(), "reference": (1, 2.0, "its own")}
    same |= {"env_wrappers": [("ClipAction", {})]}
    assert check_metadata(GOOD) == GOOD | same
    assert check_metadata(GOOD | {"more": 1}) == GOOD | same
    model = {"forget_bias": None, "cell": {"window": 8, "positions": "none"}}
    assert check_metadata(GOOD | {"model": model})["model"] == ModelConfig(**model)


def test_what_older_checkpoints_lack_is_filled_in_and_the_rest_has_to_be_there() -> None:
    later = {"env_kwargs": {}, "obs_keys": [], "reference": None}
    later |= {"env_wrappers": [], "reset_options": {}, "notes": [], "obs_offset": []}
    for name in GOOD:
        others = {key: value for key, value in GOOD.items() if key != name}
        if name in later:
            assert check_metadata(others)[name] == later[name]
        else:
            with pytest.raises(ValueError, match=f"agent.json lacks {name}"):
                check_metadata(others)


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
        ("window", [0, -1, True, 1.5, "20", LARGEST_WINDOW + 1]),
        ("env_kwargs", [None, [], "x"]),
        ("obs_keys", [None, "ab", [1]]),
        ("env_wrappers", [None, "ab", [1], ["ClipAction"], [["ClipAction"]], [["ClipAction", 1]]]),
        ("reset_options", [None, [], "x"]),
        ("notes", [None, "ab", [1]]),
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
def test_a_value_of_another_kind_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} cannot be"):
            check_metadata(GOOD | {name: value})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "model cannot be None"),
        ([], "model cannot be []"),
        ({"flux": 1}, "model has no option 'flux'"),
        ({"dim": True}, "dim cannot be True"),
        ({"dim": 8.0}, "dim cannot be 8.0"),
        ({"dim": 2**64}, "dim cannot be 18446744073709551616"),
        ({"expansion": float("inf")}, "expansion cannot be inf"),
        ({"expansion": 10**40}, "expansion cannot be 1000"),
        ({"norm": ["layernorm"]}, "norm cannot be ['layernorm']"),
        ({"signed": 1}, "signed cannot be 1"),
        ({"backbone": 1}, "backbone cannot be 1"),
        ({"cell": {"window": [8]}}, "window cannot be [8]"),
        ({"cell": []}, "cell cannot be []"),
        ({"dim": 0}, "dim must be positive"),
    ],
)
def test_a_model_of_other_values_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_metadata(GOOD | {"model": model})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 10**9}, "1000000000 layers are more than it has tensors"),
        ({"dim": 2**31}, "damaged"),
        ({"dim": 2**63}, "damaged"),
        ({"num_layers": 2**63}, "layers are more than it has tensors"),
        ({"dim": 10**6}, r"its model takes \d{10,} bytes beside the weights"),
        ({"dim": 32}, r"is torch.float32 \[.*16.*\], not torch.float32 \[.*32.*\]"),
        ({"cell": {"window": 10**9}}, r"its model takes \d{12,} bytes beside the weights"),
        ({"cell": {"num_heads": 3}}, "num_heads must divide"),
        ({"backbone": "attentoin"}, "no cell 'attentoin'"),
        ({"backbone": "attention,"}, "--model.backbone has an empty name"),
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
