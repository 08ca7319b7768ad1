"""Show an episode while it is played: as text, and in a window if there is a display."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agents.acting.policy import Policy
from agents.evaluation.checkpoints import Checkpoint
from agents.evaluation.spec import EvalSpec
from agents.model.decision import DecisionModel
from agents.report.media.rendering import has_display, window_env
from envs.errors import UserError
from envs.rollout import Rollout, rollout
from envs.worlds.make import EnvLike, make_env

REFRESH = 20  # pictures a second, in the terminal
WIDTH = 24  # characters of a bar


class View:
    """An actor that shows the actions of another in one environment, in real time."""

    def __init__(
        self, policy: Policy, model: DecisionModel, live: Live, title: str, fps: float
    ) -> None:
        self.policy, self.live, self.title, self.fps = policy, live, title, fps
        self.target = float(policy.targets[0])
        normaliser, head = model.normaliser, model.head
        self.mean, self.std = normaliser.obs_mean.cpu().numpy(), normaliser.obs_std.cpu().numpy()
        self.low, self.high = head.action_low.cpu().numpy(), head.action_high.cpu().numpy()
        self.total, self.step, self.started = 0.0, 0, time.perf_counter()

    def __call__(
        self, obs: np.ndarray, reward: np.ndarray, resets: np.ndarray, episode: np.ndarray
    ) -> np.ndarray:
        """Return the action of the other actor, show it, and wait until the next step is due."""
        self.total += float(reward[0])
        before = time.perf_counter()
        action = self.policy(obs, reward, resets, episode)
        taken = time.perf_counter() - before
        self.live.update(self.picture(obs[0], action[0], taken))
        self.step += 1
        if self.fps:
            time.sleep(max(0.0, self.started + self.step / self.fps - time.perf_counter()))
        return action

    def picture(self, obs: np.ndarray, action: np.ndarray, taken: float) -> Panel:
        """Return the view of one step; choosing its action took `taken` seconds."""
        to_go = self.target - self.total
        numbers = Text(
            f"step {self.step:>5}   return {self.total:>9.1f}   to go {to_go:>9.1f}   "
            f"action in {taken * 1e6:>5.0f} µs"
        )
        rows = max(3, self.live.console.height - 6)
        scaled = (obs - self.mean) / self.std / 3
        half = np.where(self.high > self.low, (self.high - self.low) / 2, 1.0)
        pushed = (action - (self.high + self.low) / 2) / half
        table = Table.grid(padding=(0, 3))
        table.add_row(
            _bars("observation, ± 3 std", obs, scaled, rows, "cyan"),
            _bars("action, low to high", action, pushed, rows, "yellow"),
        )
        return Panel(Group(numbers, Text(""), table), title=self.title, title_align="left")


def watch(
    checkpoint: Checkpoint,
    target: float,
    spec: EvalSpec,
    *,
    console: Console | None = None,
    real_time: bool = True,
) -> Rollout:
    """Play and show the first episode of `spec`, but for `target`; in a window, too, if any."""
    env = make_env(checkpoint.env)
    fps = float(env.metadata.get("render_fps") or 0.0) if real_time else 0.0
    windowed = has_display() and "human" in env.metadata.get("render_modes", [])
    env.close()
    world: EnvLike = partial(window_env, checkpoint.env) if windowed else checkpoint.env
    agent = f"{checkpoint.env.env_id}, {checkpoint.backbone} {checkpoint.name}"
    title = f"{agent}, asked {target:.10g}, seed={spec.seed}"
    policy = Policy(
        checkpoint.model, [target], window=spec.window, device=spec.device, engine=spec.engine
    )
    with Live(console=console, refresh_per_second=REFRESH, vertical_overflow="crop") as live:
        view = View(policy, checkpoint.model, live, title, fps)
        try:
            played = rollout(world, view, [spec.seed], num_envs=1)
        except UserError:
            raise
        except Exception as error:
            if not windowed:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"no window can be opened on this display ({reason}): env -u DISPLAY -u "
                "WAYLAND_DISPLAY python evaluate.py ... --watch shows the episode as text"
            ) from error
    if not live.console.is_terminal:
        live.console.line()  # Live leaves the line open if it cannot move the cursor
    return played


def _bars(name: str, values: np.ndarray, scaled: np.ndarray, rows: int, colour: str) -> Table:
    """Return a bar for each value, from the middle to `scaled` in [-1, 1]; `rows` at most."""
    table = Table.grid(padding=(0, 1))
    table.add_row("", Text(name, style="bold"), "")
    shown = len(values) if len(values) <= rows else rows - 1
    for i in range(shown):
        table.add_row(f"{i:>3}", Text(bar(float(scaled[i])), colour), f"{values[i]:>8.2f}")
    if shown < len(values):
        table.add_row("", f"and {len(values) - shown} more", "")
    return table


def bar(share: float, width: int = WIDTH) -> str:
    """Return a bar of `width` characters from its middle to the left or right end.

    Example:
        >>> bar(-0.5, 8), bar(1.0, 8)
        ('  ██    ', '    ████')
    """
    half = width // 2
    filled = round(min(abs(share), 1.0) * half)
    if share < 0:
        return " " * (half - filled) + "█" * filled + " " * half
    return " " * half + "█" * filled + " " * (half - filled)
