from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs import sources
from envs.behaviour.policy import fit_bounds, load_policy
from envs.errors import UserError
from envs.sources import policies as command
from tests.support.toys import ACTION, OBS, register


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Three snapshots in the plain format, whose action tells which one it is."""
    register()
    register("ToyFree-v0", low=-np.inf, high=np.inf)
    register("ToyWide-v0", low=-2.0, high=6.0)
    folder = tmp_path / "policies"
    folder.mkdir()
    for i in range(3):
        np.savez(
            folder / f"iter{i:03d}.npz",
            W0=np.zeros((OBS, ACTION)),
            b0=np.full(ACTION, i / 4),
            log_std=np.full(ACTION, -20.0),
        )
    return folder


def arguments(folder: Path, **more: str) -> list[str]:
    options = {
        "policies": str(folder),
        "env-id": "ToyWalk-v0",
        "id": "me/walk-v0",
        "steps": "300",
    }
    return [part for name, value in (options | more).items() for part in (f"--{name}", value)]


def test_policies_are_rolled_out_in_order_into_a_minari_data_set(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments(policies)) == 0
    assert "me/walk-v0" in capsys.readouterr().out
    data = sources.load("me/walk-v0")
    stage = np.round(data.action[data.starts[:-1], 0] * 4).astype(int)
    assert sorted(set(stage)) == [0, 1, 2]
    assert (np.diff(stage) >= 0).all()
    for i in range(3):  # each gives the fewest whole episodes that reach a third of the steps
        lengths = data.lengths[stage == i]
        assert lengths.sum() >= 100 > lengths[:-1].sum()


def test_the_same_seed_gives_the_same_data_for_any_number_of_environments(policies: Path) -> None:
    files = sorted(policies.glob("*.npz"))
    one, many = (
        command.generate_from(files, "ToyWalk-v0", 400, num_envs=k, progress=False) for k in (1, 7)
    )
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
    other = command.generate_from(files, "ToyWalk-v0", 400, seed=1, progress=False)
    assert not np.array_equal(one[0].obs[0], other[0].obs[0])


def test_no_episode_is_run_twice(policies: Path) -> None:
    made = command.generate_from([policies / "iter000.npz"], "ToyWalk-v0", 3000, progress=False)
    assert len(made) > 64  # several waves
    assert len({episode.obs[0, 0] for episode in made}) == len(made)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"policies": "/nowhere"}, "give the folder"),
        ({"env-id": "Hopper-v5"}, "takes 3 observations and gives 2 actions, Hopper-v5 has 11"),
        ({"env-id": "Hoper-v5"}, "near matches"),
        ({"id": "bad"}, "not a Minari id"),
        ({"steps": "2"}, "at least one step each"),
        ({"seed": "-1"}, "seed -1 is below zero"),
        ({"env-id": "ToyFree-v0"}, "ToyFree-v0 has actions without bounds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    policies: Path, more: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments(policies, **more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_no_steps_are_spent_where_the_id_is_taken(
    policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(arguments(policies)) == 0
    monkeypatch.setattr(command, "generate_from", None)
    assert command.main(arguments(policies)) == 2


def test_a_policy_of_no_use_is_named(policies: Path) -> None:
    (policies / "iter002.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"iter002\.npz is not a policy"):
        command.generate_from(sorted(policies.glob("*")), "ToyWalk-v0", 100, progress=False)


def test_layers_that_do_not_fit_are_one_line(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(
        policies / "iter001.npz",
        W0=np.zeros((OBS, 4)),
        b0=np.zeros(4),
        W1=np.zeros((5, ACTION)),
        b1=np.zeros(ACTION),
    )
    assert command.main(arguments(policies)) == 2
    error = capsys.readouterr().err.strip()
    assert "iter001.npz is not a policy (layer 1 has weights (5, 2)" in error
    assert error.count("\n") == 0


@pytest.mark.parametrize(
    ("out_act", "bias", "expected"),
    [("tanh", 0.0, 2.0), ("tanh", 50.0, 6.0), ("none", 3.0, 3.0), ("none", -9.0, -2.0)],
)
def test_actions_are_fitted_to_other_bounds(
    policies: Path, out_act: str, bias: float, expected: float
) -> None:
    path = policies / "bounds.npz"
    np.savez(path, W0=np.zeros((OBS, ACTION)), b0=np.full(ACTION, bias), out_act=out_act)
    made = command.generate_from([path], "ToyWide-v0", 30, progress=False)
    assert all((episode.action == expected).all() for episode in made)


def test_with_bounds_of_one_a_policy_is_left_as_it_is(policies: Path) -> None:
    policy = load_policy(policies / "iter001.npz")
    one = np.ones(ACTION, np.float32)
    assert fit_bounds(policy, -one, one) is policy
