"""Recurrent PPO in CleanRL's style, with a `Stack`: a file to copy and to change.

    python -m minrnn.hosts.cleanrl --env-id CartPole-v1 --backbone mingru

After ppo_atari_lstm.py of CleanRL, whose updates loop over time; here that is one call.
`train(args, envs)` takes any vector environment of Gymnasium, with any autoreset mode:

    >>> agent = train(Args(env_id="CartPole-v1", total_timesteps=512, num_envs=4, num_steps=32))
    >>> state, start = agent.initial_state(1), torch.ones(1, dtype=torch.bool)
    >>> action, logprob, entropy, value, state = agent.step(torch.zeros(1, 4), state, start)
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import time
from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from minrnn.hosts import needs
from minrnn.stack import Stack, StackConfig

with needs("cleanrl"):
    import numpy as np
    import tyro
    from gymnasium.envs.registration import make_vec
    from gymnasium.error import Error
    from gymnasium.spaces import Box, Discrete
    from gymnasium.vector import AutoresetMode, VectorEnv


@dataclass
class Args:
    """Options of training; most defaults are CleanRL's."""

    env_id: str = "CartPole-v1"  # environment; observations are a Box, actions a Box or Discrete
    seed: int = 1  # seed of the networks, the actions and the environments
    total_timesteps: int = 100_000  # environment steps
    backbone: str = "mingru"  # cell of the stacks
    dim: int = 64  # width of the stacks, one for the actions and one for the value
    num_layers: int = 1  # depth of the stacks
    learning_rate: float = 1e-3  # of Adam, falling to zero
    num_envs: int = 4  # environments stepped together
    num_steps: int = 128  # steps of each environment in a rollout
    num_minibatches: int = 4  # each has some environments, with all their steps in order
    update_epochs: int = 4  # passes over a rollout
    gamma: float = 0.99  # discount
    gae_lambda: float = 0.95  # lambda of generalised advantage estimation
    clip_coef: float = 0.2  # clipping of the ratio
    ent_coef: float = 0.01  # weight of the entropy
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # clipping of the gradient


class Core(nn.Module):
    """A linear layer and a stack; its states are packed, (B, S)."""

    def __init__(self, inputs: int, args: Args) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, args.dim)
        self.stack = Stack(StackConfig(args.dim, args.num_layers, args.backbone))

    def step(self, obs: Tensor, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the next state. obs: (B, O)."""
        y, new = self.stack.step(self.encoder(obs), self.stack.unpack(state), resets)
        return y, self.stack.pack(new)

    def forward(self, obs: Tensor, state: Tensor, resets: Tensor) -> Tensor:
        """Return the outputs for all of a rollout at once. obs: (B, T, O)."""
        return self.stack(self.encoder(obs), self.stack.unpack(state), resets)[0]


class Agent(nn.Module):
    """A core and a linear head for the actions, and the same for the value."""

    def __init__(self, envs: VectorEnv, args: Args) -> None:
        super().__init__()
        obs, action = envs.single_observation_space, envs.single_action_space
        if not isinstance(obs, Box):
            raise ValueError(f"observations must be a Box, not {obs}: see FlattenObservation")
        if not isinstance(action, (Box, Discrete)):
            raise ValueError(f"actions must be a Box or Discrete, not {action}")
        inputs = int(np.prod(obs.shape))
        outputs = int(action.n if isinstance(action, Discrete) else np.prod(action.shape or ()))
        # A shared core learns far slower where returns are large: the value dominates its gradient.
        self.policy, self.value = Core(inputs, args), Core(inputs, args)
        self.actor, self.critic = nn.Linear(args.dim, outputs), nn.Linear(args.dim, 1)
        box = isinstance(action, Box)
        self.log_std = nn.Parameter(torch.zeros(outputs)) if box else None
        nn.init.orthogonal_(self.actor.weight, 0.01)
        nn.init.zeros_(self.actor.bias)

    def initial_state(self, num_envs: int) -> Tensor:
        """Return the packed states (B, 2 S) before the first step."""
        stacks = self.policy.stack, self.value.stack
        return torch.cat([stack.pack(stack.initial_state(num_envs)) for stack in stacks], 1)

    def step(
        self, obs: Tensor, state: Tensor, resets: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return action, log-probability, entropy, value and the next state. obs: (B, O)."""
        first, second = state.chunk(2, 1)
        y, first = self.policy.step(obs, first, resets)
        v, second = self.value.step(obs, second, resets)
        return *self._heads(y, v, action), torch.cat([first, second], 1)

    def evaluate(
        self, obs: Tensor, state: Tensor, resets: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probability, entropy and value, (B, T) each. obs: (B, T, O)."""
        first, second = state.chunk(2, 1)
        y, v = self.policy(obs, first, resets), self.value(obs, second, resets)
        return self._heads(y, v, action)[1:]

    def _heads(
        self, y: Tensor, v: Tensor, action: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out = self.actor(y)
        if self.log_std is None:
            chances: Any = Categorical(logits=out)
        else:
            chances = Independent(Normal(out, self.log_std.exp().expand_as(out)), 1)
        chosen: Tensor = chances.sample() if action is None else action
        return chosen, chances.log_prob(chosen), chances.entropy(), self.critic(v).squeeze(-1)


class Step(NamedTuple):
    """Results of a step of the environments."""

    obs: Tensor  # of the next step
    resets: Tensor  # whether it starts an episode
    valid: Tensor  # False where the environment ignores the next action
    reward: Tensor
    done: Tensor
    terminated: Tensor
    final_obs: Tensor | None  # of episodes that ended, where `obs` is not their last one


def advance(envs: VectorEnv, action: Tensor, valid: Tensor) -> Step:
    """Step the environments, whatever their autoreset mode. valid: that of this step."""
    mode = AutoresetMode(envs.metadata["autoreset_mode"])
    space, chosen = envs.single_action_space, action.numpy()
    if isinstance(space, Box):
        chosen = np.clip(chosen.reshape(-1, *space.shape), space.low, space.high)
    elif isinstance(space, Discrete):
        chosen = chosen + space.start  # the heads count from 0
    obs, reward, terminated, truncated, infos = envs.step(chosen)
    done, final = terminated | truncated, None
    if mode == AutoresetMode.SAME_STEP and done.any():
        final = np.array(obs)
        final[done] = np.stack(list(infos["final_obs"][done]))
    if mode == AutoresetMode.DISABLED and done.any():
        final, (obs, _) = np.array(obs), envs.reset(options={"reset_mask": done})
    late = mode == AutoresetMode.NEXT_STEP  # the next step resets, and ignores its action
    over = torch.as_tensor(done)
    return Step(
        flat(obs),
        ~valid if late else over,
        ~over if late else torch.ones_like(over),
        torch.as_tensor(reward, dtype=torch.float32),
        over,
        torch.as_tensor(terminated),
        None if final is None else flat(final),
    )


def flat(obs: Any) -> Tensor:
    """Return observations as (B, O) float32."""
    return torch.as_tensor(np.array(obs), dtype=torch.float32).flatten(1)


class Memory(NamedTuple):
    """Position of the environments, from which the next rollout starts."""

    obs: Tensor
    resets: Tensor
    valid: Tensor
    state: Tensor
    returns: Tensor


def start(envs: VectorEnv, agent: Agent, seed: int) -> Memory:
    """Reset the environments."""
    obs, _ = envs.reset(seed=seed)
    B = envs.num_envs
    yes = torch.ones(B, dtype=torch.bool)
    return Memory(flat(obs), yes, yes, agent.initial_state(B), torch.zeros(B))


@torch.no_grad()
def rollout(
    envs: VectorEnv, agent: Agent, at: Memory, args: Args
) -> tuple[dict[str, Tensor], Memory, list[float]]:
    """Return a batch (tensors (B, T, ...), and the first state), its end, and episode returns."""
    steps: list[dict[str, Tensor]] = []
    obs, resets, valid, state, returns = at
    first, found = state, []
    for _ in range(args.num_steps):
        action, logprob, _, value, state = agent.step(obs, state, resets)
        new = advance(envs, action, valid)
        final = torch.zeros_like(value)
        if new.final_obs is not None:  # its value is computed in the episode that it ends
            final = agent.step(new.final_obs, state, torch.zeros_like(resets))[3]
        row = {"obs": obs, "resets": resets, "valid": valid, "action": action, "logprob": logprob}
        row |= {"value": value, "reward": new.reward, "done": new.done, "final": final}
        row |= {"terminated": new.terminated, "elsewhere": new.done & (new.final_obs is not None)}
        steps.append(row)
        returns = returns + new.reward * valid
        found += returns[new.done].tolist()
        returns = returns * ~new.done
        obs, resets, valid = new.obs, new.resets, new.valid
    after = agent.step(obs, state, resets)[3]
    batch = {key: torch.stack([row[key] for row in steps], 1) for key in steps[0]}
    batch["advantage"] = advantages(batch, after, args)
    return batch | {"state": first}, Memory(obs, resets, valid, state, returns), found


def advantages(batch: dict[str, Tensor], after: Tensor, args: Args) -> Tensor:
    """Return generalised advantages (B, T). after: (B,) values of the observations to come."""
    value = batch["value"]
    next_value = torch.cat([value[:, 1:], after[:, None]], 1)
    next_value = torch.where(batch["elsewhere"], batch["final"], next_value)
    delta = batch["reward"] + args.gamma * next_value * ~batch["terminated"] - value
    out, last = torch.zeros_like(value), torch.zeros_like(after)
    for t in reversed(range(value.shape[1])):
        last = delta[:, t] + args.gamma * args.gae_lambda * last * ~batch["done"][:, t]
        out[:, t] = last
    return out


def update(
    agent: Agent, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], args: Args
) -> None:
    """Update the agent on a rollout, for all epochs."""
    target = batch["advantage"] + batch["value"]
    for _ in range(args.update_epochs):
        for rows in torch.randperm(args.num_envs).chunk(args.num_minibatches):
            part = {key: x[rows] for key, x in batch.items()}
            logprob, entropy, value = agent.evaluate(
                part["obs"], part["state"], part["resets"], part["action"]
            )
            valid = part["valid"]
            gain = part["advantage"][valid]
            if len(gain) > 1:  # a single step has no spread, and no step adds no gradient
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            ratio = (logprob - part["logprob"])[valid].exp()
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            policy_loss = -torch.min(gain * ratio, gain * clipped).mean()
            value_loss = 0.5 * (value - target[rows])[valid].square().mean()
            loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy[valid].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()


def check(args: Args) -> None:
    """Raise ValueError for sizes that leave nothing to train on."""
    for name in ("num_envs", "num_steps", "num_minibatches", "update_epochs"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(args, name)}")
    envs, parts = args.num_envs, args.num_minibatches
    if envs % parts:
        raise ValueError(
            f"num_envs={envs} must be a multiple of num_minibatches={parts}: "
            f"give num_minibatches={gcd(envs, parts)}"
        )
    size = envs * args.num_steps
    if args.total_timesteps < size:
        raise ValueError(
            f"total_timesteps={args.total_timesteps} is less than a rollout, num_envs * num_steps: "
            f"give at least {size}, or fewer num_steps"
        )


def train(args: Args, envs: VectorEnv | None = None, report: Any = None) -> Agent:
    """Train and return the agent. report(steps, returns of the episodes that ended): see `main`.

    Raises ValueError for spaces and options that do not fit.
    """
    check(args)
    made: Any = envs
    if made is None:
        made = make_vec(args.env_id, num_envs=args.num_envs, vectorization_mode="sync")
    if not isinstance(made, VectorEnv) or "autoreset_mode" not in made.metadata:
        raise ValueError(
            "envs must be a vector environment whose metadata has an autoreset_mode, such as "
            f"gymnasium.make_vec(env_id, {args.num_envs}), not {made}"
        )
    if made.num_envs != args.num_envs:
        raise ValueError(
            f"num_envs={args.num_envs} must be that of the environments, {made.num_envs}"
        )
    torch.manual_seed(args.seed)
    agent = Agent(made, args)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5)
    at = start(made, agent, args.seed)
    rollouts = args.total_timesteps // (args.num_envs * args.num_steps)
    for done in range(rollouts):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - done / rollouts)
        batch, at, returns = rollout(made, agent, at, args)
        update(agent, optimizer, batch, args)
        if report is not None:
            report((done + 1) * args.num_envs * args.num_steps, returns)
    return agent


def main() -> None:
    """Train from the command line, and print the returns."""
    args, began = tyro.cli(Args, description=__doc__), time.perf_counter()

    def report(steps: int, returns: list[float]) -> None:
        if returns:
            rate = steps / (time.perf_counter() - began)
            mean = sum(returns) / len(returns)
            print(f"{steps} steps, return {mean:.2f}, {rate:.0f} steps/s", flush=True)  # noqa: T201

    try:
        train(args, report=report)
    except (ValueError, Error, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
