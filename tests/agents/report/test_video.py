"""Filming what was evaluated, showing it as it is played, and where that is not possible."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import weakref
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

from agents.evaluation.checkpoints import Checkpoint
from agents.evaluation.compare import Line
from agents.evaluation.evaluate import evaluate
from agents.evaluation.spec import EvalSpec
from agents.report.media import rendering, video, watch
from envs.errors import UserError
from tests.support.models import tiny_model

av = pytest.importorskip("av")
SEED = 10


class Drawn(gym.Env[np.ndarray, np.ndarray]):
    """As many steps as the seed says; the reward is in the action and the seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, broken: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-9, 9, (4,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.render_mode, self.broken = render_mode, broken

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.left = self.length = seed or 0
        return np.full(4, self.length / 10), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        reward = float(action[0]) + self.length
        return np.full(4, self.left / 10), reward, self.left == 0, False, {}

    def render(self) -> Any:
        if self.broken:
            raise RuntimeError("no GL\nat all")
        return np.full((33, 49, 3), 5 * self.left, np.uint8)


class Blind(Drawn):
    metadata = {"render_modes": []}  # noqa: RUF012


@pytest.fixture(autouse=True)
def ids():
    gym.register("Drawn-v0", Drawn)
    gym.register("Blind-v0", Blind)
    yield
    for name in ("Drawn-v0", "Blind-v0"):
        gym.registry.pop(name)


def checkpoint(tmp_path, env_id="Drawn-v0", **kwargs):
    metadata = {
        "env_id": env_id,
        "env_kwargs": kwargs,
        "obs_keys": [],
        "data": "d",
        "targets": [1.0],
    }
    return Checkpoint("last", tmp_path / "run", tiny_model(), metadata)


@pytest.fixture
def line(tmp_path):
    member = checkpoint(tmp_path)
    spec = EvalSpec((1.0, 9.0), episodes=3, seed=SEED, num_envs=2, record=True)
    results = evaluate(member.model, member.env, spec)
    return Line("last", "", (member,), spec, results, {})


def test_films_show_the_episodes_that_were_evaluated(line):
    films = video.film(line)
    assert [film.title for film in films] == ["best", "median", "worst"]
    assert [film.seed for film in films] == [12, 11, 10]  # the longer, the more reward
    returns = line.top.returns
    assert [film.total for film in films] == sorted(returns.tolist(), reverse=True)
    assert {film.target for film in films} == {9.0}
    assert {film.run for film in films} == {"run"}
    for film in films:
        assert film.poster.startswith(b"\xff\xd8")
        with av.open(io.BytesIO(film.mp4)) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == 30
        # Every second of 60 steps a second, and the last; sizes are even.
        assert len(frames) == -(-film.steps // 2) + 1
        assert frames[0].shape == (32, 48, 3)
        assert frames[0][-4:].mean() == pytest.approx(5 * film.steps, abs=4)
        assert frames[-1][-4:].mean() == pytest.approx(0, abs=4)


def test_a_film_holds_one_picture_at_a_time(line, monkeypatch):
    alive, most = [], []

    def encode(images, fps):
        for image in images:
            alive.append(weakref.ref(image))
            most.append(sum(of() is not None for of in alive))
        return b"mp4"

    monkeypatch.setattr(video, "encode", encode)
    films = video.film(line)
    assert len(most) == sum(-(-film.steps // 2) + 1 for film in films)
    assert max(most) <= 2  # one, and the next while it is drawn
    assert all(film.poster.startswith(b"\xff\xd8") for film in films)


def test_captions_have_returns_as_the_tables_do(line, monkeypatch):
    captions = []
    monkeypatch.setattr(video, "caption", lambda image, text: captions.append(text) or image[:32])
    monkeypatch.setattr(video, "encode", lambda images, fps: bytes(len(list(images))))
    line.results[-1] = dataclasses.replace(line.top, target=12345.6)
    video.film(line)
    assert captions[0] == "asked 12345.6   step 0   return 0.0"
    assert f"step 12   return {line.top.returns.max():.1f}" in captions[6]


def test_an_episode_of_another_return_is_refused(line):
    line.top.returns[:] += 1e-9
    with pytest.raises(UserError, match=r"not deterministic.*--video"):
        video.film(line)


def test_what_cannot_be_drawn_is_said_before_anything_is_played(tmp_path):
    video.check([checkpoint(tmp_path)])
    with pytest.raises(UserError, match="Blind-v0 cannot be filmed"):
        video.check([checkpoint(tmp_path, "Blind-v0")])
    with pytest.raises(UserError, match=r"cannot be drawn here \(no GL\); .*apt-get install"):
        video.check([checkpoint(tmp_path, broken=True)])


def test_a_missing_encoder_names_the_install_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        video.encode([np.zeros((2, 2, 3), np.uint8)], 30)


def test_a_machine_without_screen_and_opengl_names_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # to be put back as it was, whatever is set below
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.setattr(rendering, "_works", lambda name: False)
    with pytest.raises(UserError, match=r"Hopper-v5 .* apt-get install libegl1 .* libosmesa6"):
        rendering.rendering_env("Hopper-v5")
    monkeypatch.setattr(rendering, "_works", lambda name: name == "osmesa")
    rendering.rendering_env("Hopper-v5").close()
    assert rendering.os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.parametrize(("given", "taken"), [("EGL ", "egl"), ("osmesa", "osmesa"), ("", "egl")])
def test_mujoco_gl_is_read_as_mujoco_reads_it(monkeypatch, given, taken):
    monkeypatch.setenv("MUJOCO_GL", given)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.setattr(rendering, "_works", lambda name: name == "egl")
    rendering.choose_backend("Hopper-v5")
    assert rendering.os.environ["MUJOCO_GL"] == taken


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_the_compiler_can_be_used_after_drawing(backend, checkout, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if not rendering._works.__wrapped__(backend):
        pytest.skip(f"{backend} cannot draw here")
    code = (
        "from agents.report.media import rendering\n"
        "env = rendering.rendering_env('Hopper-v5')\n"
        "env.reset(seed=0)\n"
        "rendering.frame(env)\n"
        "import torch._dynamo\n"
    )
    environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0


def test_a_walker_stays_in_the_picture():
    try:
        env = rendering.rendering_env("Hopper-v5")
    except UserError as error:
        pytest.skip(str(error))
    env.reset(seed=0)
    before = rendering.frame(env)
    env.unwrapped.data.qpos[0] += 50.0
    env.step(np.zeros(3))
    after = rendering.frame(env)
    env.close()
    assert before.shape == (480, 480, 3)
    # The hopper is brown, the floor is green, the sky blue.
    brown = [(i[..., 0].astype(int) - i[..., 2] > 30).mean() for i in (before, after)]
    assert min(brown) > 0.01
    assert brown[1] == pytest.approx(brown[0], rel=0.5)


def screen(tmp_path, monkeypatch, height, window=None):
    monkeypatch.setattr(watch, "has_display", lambda: False)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, height=height)
    spec = EvalSpec(seed=SEED, window=window)
    played = watch.watch(checkpoint(tmp_path), 9.0, spec, console=console, real_time=False)
    return played, text.getvalue()


def test_an_episode_is_shown_as_text(tmp_path, monkeypatch, line):
    played, text = screen(tmp_path, monkeypatch, 24)
    assert played.returns[0] == line.top.returns[0]  # the same seed and target as evaluated
    for words in ("Drawn-v0, mingru last, asked 9, seed=10", "step     9", "to go", "█"):
        assert words in text


def test_text_in_a_file_ends_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "has_display", lambda: False)
    text = io.StringIO()
    console = Console(file=text, width=100, height=24)
    spec = EvalSpec(seed=SEED)
    watch.watch(checkpoint(tmp_path), 9.0, spec, console=console, real_time=False)
    assert text.getvalue().endswith("╯\n")


def test_a_low_terminal_shows_what_fits(tmp_path, monkeypatch):
    _, text = screen(tmp_path, monkeypatch, 9, window=3)
    assert "and 2 more" in text


def test_bars_go_both_ways():
    assert [watch.bar(share, 8) for share in (0.0, 0.5, -9.0)] == [
        "        ",
        "    ██  ",
        "████    ",
    ]
