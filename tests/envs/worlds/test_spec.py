import json

import pytest

from envs.worlds.spec import EnvSpec

FULL = EnvSpec("Toy-v0", {"maze": [[1, "g"]]}, ("b", "a"))


@pytest.mark.parametrize("spec", [EnvSpec(), EnvSpec("Hopper-v5"), FULL])
def test_a_saved_specification_comes_back(spec):
    assert EnvSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_names_in_saved_files_are_those_of_checkpoints_and_reports():
    assert FULL.to_json() == {
        "env_id": "Toy-v0", "env_kwargs": {"maze": [[1, "g"]]}, "obs_keys": ["b", "a"],
    }  # fmt: skip
    assert EnvSpec.from_json({"env_id": "Toy-v0", "data": "a/b-v0"}) == EnvSpec("Toy-v0")


def test_an_id_is_a_specification_and_prints_as_itself():
    assert EnvSpec.of("Toy-v0") == EnvSpec("Toy-v0")
    assert EnvSpec.of(FULL) is FULL
    assert str(EnvSpec("Toy-v0")) == "Toy-v0"
    assert str(FULL) == "Toy-v0 (maze=[[1, 'g']]) [b, a]"
