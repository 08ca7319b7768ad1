from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.behaviour.actor import PolicyActor
from envs.behaviour.mixes import ENVIRONMENTS, LEVELS, WEIGHTS, checkpoints, stages
from envs.behaviour.pack import pack
from envs.behaviour.policy import MLPPolicy, SACPolicy, fit_bounds, load_policy
from envs.errors import UserError
from envs.worlds.make import env_sizes


def sac_arrays(seed: int = 0, obs: int = 5, action: int = 2) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    sizes = {"Dense_0": (obs, 16), "Dense_1": (16, 16), "Dense_2": (16, action)}
    arrays: dict[str, NDArray[Any]] = {}
    for name, size in (sizes | {"Dense_3": (16, action)}).items():
        arrays[f"params/{name}/kernel"] = rng.normal(size=size).astype(np.float32) * 0.3
        arrays[f"params/{name}/bias"] = rng.normal(size=size[1]).astype(np.float32)
    return arrays


def mlp_arrays(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "W0": rng.normal(size=(5, 8)),
        "b0": rng.normal(size=8),
        "W1": rng.normal(size=(8, 2)),
        "b1": rng.normal(size=(1, 2)),
        **more,
    }


def test_a_sac_policy_equals_its_formula() -> None:
    a = sac_arrays()
    policy = SACPolicy.from_arrays(a)
    rng = np.random.default_rng(1)
    obs, noise = rng.normal(size=(7, 5)), rng.normal(size=(7, 2)).astype(np.float32)
    x = obs
    for i in range(2):
        x = np.maximum(x @ a[f"params/Dense_{i}/kernel"] + a[f"params/Dense_{i}/bias"], 0)
    mean = x @ a["params/Dense_2/kernel"] + a["params/Dense_2/bias"]
    std = np.exp(np.clip(x @ a["params/Dense_3/kernel"] + a["params/Dense_3/bias"], -20, 2))
    np.testing.assert_allclose(policy.act(obs, noise), np.tanh(mean + std * noise), atol=1e-5)
    np.testing.assert_allclose(policy.act(obs, None), np.tanh(mean), atol=1e-5)
    assert policy.sizes == (5, 2)


@pytest.mark.parametrize("act", ["tanh", "relu", "lrelu", "none"])
def test_a_plain_policy_equals_its_formula(act: str) -> None:
    more = {
        "hidden_act": np.array(act),
        "out_act": np.array("none"),
        "obs_mean": np.full(5, 0.5),
        "obs_std": np.full(5, 0.1),
        "obs_clip": np.array(5.0),
        "log_std": np.array([[-1.0, -2.0]]),
    }
    a = mlp_arrays(**more)
    policy = MLPPolicy.from_arrays(a)
    rng = np.random.default_rng(1)
    obs, noise = rng.normal(size=(7, 5)), rng.normal(size=(7, 2)).astype(np.float32)
    x = np.clip((obs - 0.5) / 0.1, -5, 5) @ a["W0"] + a["b0"]
    x = {
        "tanh": np.tanh(x),
        "relu": np.maximum(x, 0),
        "lrelu": np.where(x > 0, x, 0.2 * x),
        "none": x,
    }[act]
    mean = x @ a["W1"] + a["b1"].ravel()
    np.testing.assert_allclose(policy.act(obs, None), np.clip(mean, -1, 1), atol=1e-4)
    noisy = mean + np.exp([-1.0, -2.0]) * noise
    np.testing.assert_allclose(policy.act(obs, noise), np.clip(noisy, -1, 1), atol=1e-4)


def test_a_tanh_policy_is_rescaled_to_other_bounds_as_sb3_does() -> None:
    policy = SACPolicy.from_arrays(sac_arrays())
    low, high = np.array([-0.4, 0.0], np.float32), np.array([0.4, 10.0], np.float32)
    rng = np.random.default_rng(1)
    obs, noise = rng.normal(size=(7, 5)), rng.normal(size=(7, 2)).astype(np.float32)
    found = fit_bounds(policy, low, high)
    expected = low + (policy.act(obs, noise) + 1) / 2 * (high - low)
    np.testing.assert_allclose(found.act(obs, noise), expected, rtol=1e-5, atol=1e-6)
    assert found.act(obs, noise).dtype == np.float32
    assert found.sizes == (5, 2)


@pytest.mark.parametrize(
    "policy", [SACPolicy.from_arrays(sac_arrays()), MLPPolicy.from_arrays(mlp_arrays())]
)
def test_an_action_does_not_depend_on_the_other_rows(policy: SACPolicy | MLPPolicy) -> None:
    obs = np.random.default_rng(0).normal(size=(37, 5))
    together = policy.act(obs, None)
    for k in range(len(obs)):
        np.testing.assert_array_equal(policy.act(obs[k : k + 1], None)[0], together[k])
        np.testing.assert_array_equal(policy.act(obs[k:], None), together[k:])


def test_noise_depends_on_the_episodes_seed_alone() -> None:
    class Echo:
        sizes = 1, 2

        def act(self, obs: NDArray[Any], noise: NDArray[np.float32] | None) -> NDArray[np.float32]:
            assert noise is not None
            return noise

    def first(resets: list[bool], episode: list[int], actor: PolicyActor) -> NDArray[Any]:
        k = len(resets)
        return actor(np.zeros((k, 1)), np.zeros(k), np.array(resets), np.array(episode))

    together, alone = (PolicyActor(Echo(), [5, 6, 7], block=3) for _ in range(2))
    a0 = first([True, True], [0, 1], together)
    a1 = first([False, True], [0, 2], together)
    together.keep(np.array([1]))
    tail = [first([False], [2], together)[0] for _ in range(5)]
    b = [first([i == 0], [2], alone)[0] for i in range(6)]
    np.testing.assert_array_equal([a1[1], *tail], b)
    np.testing.assert_array_equal(
        np.concatenate((a0[:1], a1[:1])),
        np.random.default_rng(5).standard_normal((2, 2), np.float32),
    )
    assert len(np.unique(b)) == 12


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip",
        {"W1": np.zeros(3)},
        {"params/Dense_0/kernel": np.zeros((2, 2))},
        mlp_arrays(hidden_act=np.array("gelu")),
        mlp_arrays(W1=np.zeros((7, 2))),
        mlp_arrays(b0=np.zeros(7)),
        mlp_arrays(W0=np.zeros(5)),
        mlp_arrays(obs_mean=np.zeros(4)),
        mlp_arrays(log_std=np.zeros(3)),
        mlp_arrays(obs_clip=np.zeros(3)),
        sac_arrays() | {"params/Dense_1/kernel": np.zeros((15, 16))},
        sac_arrays() | {"params/Dense_3/kernel": np.zeros((9, 2))},
        sac_arrays()
        | {"params/Dense_3/kernel": np.zeros((16, 3)), "params/Dense_3/bias": np.zeros(3)},
    ],
)
def test_a_file_that_is_no_policy_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "p.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(UserError, match="is not a policy"):
        load_policy(path)


def test_a_policy_file_with_pickles_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", W0=np.array([print], dtype=object), b0=np.zeros(1))
    with pytest.raises(UserError, match="is not a policy"):
        load_policy(tmp_path / "p.npz")


def test_packing_keeps_the_policy_and_drops_the_rest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "00000010.npz", **sac_arrays(), __eval=np.zeros(5))
    size = pack(tmp_path / "in", tmp_path / "out", ("00000010",))
    assert size == (tmp_path / "out" / "00000010.npz").stat().st_size
    with np.load(tmp_path / "out" / "00000010.npz") as file:
        assert all(file[key].dtype == np.float16 for key in file.files)
        assert "__eval" not in file.files
    obs = np.random.default_rng(0).normal(size=(50, 5))
    full, half = (load_policy(tmp_path / d / "00000010.npz").act(obs, None) for d in ("in", "out"))
    np.testing.assert_allclose(half, full, atol=5e-3)
    with pytest.raises(UserError, match="has no 00000020"):
        pack(tmp_path / "in", tmp_path / "out", ("00000020",))


@pytest.mark.parametrize("family", ENVIRONMENTS)
def test_every_checkpoint_of_the_mixes_is_shipped_and_fits_its_environment(family: str) -> None:
    sizes = env_sizes(ENVIRONMENTS[family])
    folder = WEIGHTS / ENVIRONMENTS[family]
    assert sorted(path.stem for path in folder.glob("*.npz")) == list(checkpoints(family))
    for name in checkpoints(family):
        policy = load_policy(folder / f"{name}.npz")
        assert policy.sizes == sizes
    for level in LEVELS:
        steps = [int(stage.policy) for stage in stages(family, level)]
        assert steps == sorted(steps) or level == "medium-replay"


def test_the_shipped_weights_are_a_few_megabytes() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*.npz")) < 5e6
