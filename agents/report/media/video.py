"""Film evaluated episodes: replay their actions, with a caption, and encode them as MP4."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agents.evaluation.checkpoints import Checkpoint
from agents.evaluation.compare import Line
from agents.evaluation.result import Result
from agents.loggers.console import episode_bar
from agents.report.media.rendering import frame, rendering_env
from agents.report.rows import best_median_worst
from agents.report.table import number_format
from envs.errors import UserError

MAX_FPS = 30
_OPTIONS = {"crf": "26", "preset": "fast"}  # of x264: small files, four times faster than real time


@dataclass(frozen=True)
class Video:
    """The film of one episode."""

    title: str
    """best, median or worst."""
    target: float
    run: str
    """The run whose agent played."""
    seed: int
    total: float
    """The return, equal to that of the evaluation."""
    steps: int
    mp4: bytes
    """H.264, which every browser plays."""
    poster: bytes
    """A frame as JPEG, to show before it plays."""


def check(checkpoints: Sequence[Checkpoint]) -> None:
    """Draw and encode one picture of each environment. Raises UserError if that fails."""
    for spec in {repr(member.env): member.env for member in checkpoints}.values():
        with contextlib.closing(rendering_env(spec)) as env:
            env.reset(seed=0)
            encode([caption(frame(env), "")], MAX_FPS)


def film(line: Line) -> list[Video]:
    """Film the best, the median and the worst episode of a line's largest target, as recorded.

    Raises UserError if this machine cannot draw or encode, or if a replay's return is another.
    """
    result, videos = line.top, []
    number = number_format(value for other in line.results for value in other.returns)
    places = best_median_worst(result.returns)
    with episode_bar(f"film {line.name}", len(places)) as progress:
        for title, place in places.items():
            seed = line.spec.seed + place % result.by_run(result.returns).shape[1]
            videos.append(_film(line, result, place, seed, title, number))
            progress(len(videos), len(places))
    return videos


def _film(
    line: Line, result: Result, place: int, seed: int, title: str, number: Callable[[float], str]
) -> Video:
    assert result.actions is not None
    actions = result.actions[place]
    total, poster = 0.0, b""
    with contextlib.closing(rendering_env(line.env)) as env:
        real_time = float(env.metadata.get("render_fps") or MAX_FPS)
        every = max(1, round(real_time / MAX_FPS))
        middle = len(actions) // every // 2 * every

        def images() -> Iterator[np.ndarray]:
            """Yield the pictures one by one: together they would take too much memory."""
            nonlocal total, poster
            for step, total in _replay(env, seed, actions):
                if step % every and step < len(actions):
                    continue
                asked = f"asked {number(result.target)}"
                image = caption(frame(env), f"{asked}   step {step}   return {number(total)}")
                if step == middle:
                    poster = _jpeg(image)
                yield image

        mp4 = encode(images(), real_time / every)
    if total != float(result.returns[place]):
        raise UserError(
            f"{line.env.env_id} is not deterministic: the episode of seed {seed} gave "
            f"{result.returns[place]!r} when evaluated and {total!r} when filmed; leave out --video"
        )
    run = line.members[place // result.by_run(result.returns).shape[1]].run.name
    return Video(title, result.target, run, seed, total, len(actions), mp4, poster)


def _replay(env: gym.Env[Any, Any], seed: int, actions: np.ndarray) -> Iterator[tuple[int, float]]:
    """Replay the actions of an episode; yield the steps and the return so far, from 0 on."""
    total = 0.0
    env.reset(seed=seed)
    yield 0, total
    for step, action in enumerate(actions):
        _, reward, _, _, _ = env.step(action)
        total += float(reward)
        yield step + 1, total


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=80)
    return file.getvalue()


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """Return a picture (H, W, 3) with a line of text, cut to the even sizes that H.264 needs."""
    height, width = (size - size % 2 for size in image.shape[:2])
    drawn = Image.fromarray(image[:height, :width])
    font = ImageFont.load_default(size=max(10, width // 30))
    look: Any = {"fill": "white", "font": font, "stroke_width": 2, "stroke_fill": "black"}
    ImageDraw.Draw(drawn).text((width // 40, width // 50), text, **look)
    return np.asarray(drawn)


def encode(images: Iterable[np.ndarray], fps: float) -> bytes:
    """Return pictures (H, W, 3), u8, of even size, as an MP4 that browsers play and can seek in."""
    try:
        import av
    except ImportError:
        raise UserError("--video needs PyAV: pip install av") from None
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=_OPTIONS)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"  # the one layout that all browsers decode
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
    return file.getvalue()
