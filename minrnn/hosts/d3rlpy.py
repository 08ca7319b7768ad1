"""A `Stack` as d3rlpy's encoder; its sequence is a stack of frames."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from minrnn.hosts import needs, stack_config
from minrnn.stack import Stack, StackConfig

with needs("d3rlpy"):
    from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
    from d3rlpy.models.torch import Encoder, EncoderWithAction

__all__ = ["StackEncoderFactory"]


@dataclass
class StackEncoderFactory(EncoderFactory):
    """Read the last `num_frames` observations, oldest first; the output is that of the last one.

    d3rlpy's encoders keep no state, so that the memory is as long as the frames: make the data with
    `transition_picker=FrameStackTransitionPicker(num_frames)`, and act on
    `d3rlpy.envs.FrameStack(env, num_frames)`. Zeros that pad the first frames of an episode are
    not read: the output is that of the other frames. (An observation scaler shifts these zeros, so
    that they are read.) An action is joined behind the stack.

    Importing this module registers the factory, which `d3rlpy.load_learnable` needs.

    >>> import d3rlpy
    >>> encoder = StackEncoderFactory(num_frames=8, stack={"dim": 32, "num_layers": 1})
    >>> config = d3rlpy.algos.DiscreteCQLConfig(encoder_factory=encoder)
    >>> again = d3rlpy.algos.DiscreteCQLConfig.deserialize(config.serialize())
    >>> again.encoder_factory == encoder
    True
    """

    num_frames: int
    """Number of frames in an observation, as in the picker; flat observations do not show it."""
    stack: dict[str, Any] = field(default_factory=dict)
    """Fields of the `StackConfig`, or a `StackConfig`, which is turned into its fields."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that no encoder can be built from."""
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, not {self.num_frames}")
        if isinstance(self.stack, StackConfig):
            self.stack = dataclasses.asdict(self.stack)
        stack_config(self.stack)

    def create(self, observation_shape: Any) -> Encoder:
        """Return the encoder of observations."""
        return _Frames(self, observation_shape)

    def create_with_action(
        self, observation_shape: Any, action_size: int, discrete_action: bool = False
    ) -> EncoderWithAction:
        """Return the encoder of observations and actions."""
        return _FramesWithAction(self, observation_shape, action_size, discrete_action)

    @staticmethod
    def get_type() -> str:
        """Return the factory's name in saved configurations."""
        return "minrnn_stack"


register_encoder_factory(StackEncoderFactory)


class _Frames(Encoder):
    """Map observations (B, num_frames * O), or (B, num_frames, O), to (B, dim)."""

    def __init__(self, factory: StackEncoderFactory, observation_shape: Any) -> None:
        super().__init__()
        size = torch.Size(observation_shape).numel()
        self.num_frames = factory.num_frames
        # d3rlpy's picker joins frames along the first dimension; its environment stacks them, and
        # of two dimensions the first is their number.
        first, stacked = observation_shape[0], len(observation_shape) == 2
        if first != self.num_frames if stacked else first % self.num_frames:
            raise ValueError(
                f"observations {tuple(observation_shape)} are no stack of {self.num_frames} frames;"
                " is it in the data, as transition_picker=FrameStackTransitionPicker(num_frames)?"
            )
        self.stack = Stack(stack_config(factory.stack))
        self.inputs = nn.Linear(size // self.num_frames, self.stack.dim)

    def forward(self, x: Any) -> Tensor:
        if x.shape[1:].numel() != self.num_frames * self.inputs.in_features:
            raise ValueError(
                f"observations {tuple(x.shape[1:])} are no stack of {self.num_frames} frames; "
                f"act on d3rlpy.envs.FrameStack(env, {self.num_frames})"
            )
        frames = x.reshape(len(x), self.num_frames, -1)
        empty = (frames == 0).all(-1).long().cummin(1).values.bool()
        resets = torch.ones_like(empty)
        resets[:, 1:] = empty[:, :-1]
        y, _ = self.stack(self.inputs(frames), resets=resets)
        return y[:, -1]


class _FramesWithAction(EncoderWithAction):
    """Map observations and an action (B, A), or (B, 1) if it is discrete, to (B, dim)."""

    def __init__(
        self,
        factory: StackEncoderFactory,
        observation_shape: Any,
        action_size: int,
        discrete_action: bool,
    ) -> None:
        super().__init__()
        self.frames = _Frames(factory, observation_shape)
        self.num_actions = action_size if discrete_action else 0
        dim = self.frames.stack.dim
        self.joint = nn.Sequential(nn.Linear(dim + action_size, dim), nn.ReLU())

    def forward(self, x: Any, action: Tensor) -> Tensor:
        if self.num_actions:
            action = one_hot(action.reshape(-1).long(), self.num_actions).float()
        return self.joint(torch.cat([self.frames(x), action], 1))
