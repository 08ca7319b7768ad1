"""The model's step as a graph without side effects: what is exported.

Inputs, in this order, as `Inputs` describes them: obs, rtg, prev_action, timestep, resets; state
(B, S) float32, packed as `minrnn.Stack.pack` does it; the optional inputs that the model reads.
Outputs: action (B, A), within the bounds, and next_state (B, S). B is open.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from agents.model.decision import DecisionModel
from agents.model.inputs import REQUIRED, Inputs
from envs.errors import UserError
from minrnn import SequenceMixer, State
from minrnn.block import Block
from minrnn.cells.minimal import MinimalCell

STATE = "state"
OUTPUTS = ("action", "next_state")


def optional_inputs(model: DecisionModel) -> dict[str, int]:
    """Return the widths of the optional inputs that a model reads, by name, in their order."""
    return {name: layer.in_features for name, layer in model.tokens.embed.optional.items()}


def obs_dtype(model: DecisionModel) -> torch.dtype:
    """Return the dtype of observations: float64 where float32 would lose digits of them."""
    return torch.float64 if model.normaliser.obs_offset else torch.float32


def input_names(model: DecisionModel) -> tuple[str, ...]:
    """Return the names of the graph's inputs in their order."""
    return (*REQUIRED, STATE, *optional_inputs(model))


class Step(nn.Module):
    """One step of a model, all tokens of it through each layer: weights are read once a step.

    In the last layer, what comes after the cell is computed for the token that is read alone.
    """

    def __init__(self, model: DecisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        obs: Tensor,
        rtg: Tensor,
        prev_action: Tensor,
        timestep: Tensor,
        resets: Tensor,
        state: Tensor,
        *optional: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the actions and the next state."""
        model = self.model
        more = dict(zip(optional_inputs(model), optional, strict=True))
        inputs = Inputs(obs, rtg, prev_action, timestep, resets, **more)
        parts = model.tokens.parts(model.normaliser(inputs))
        flags = [flag for _, flag in parts]
        x = model.embed_norm(_joined([token for token, _ in parts]))
        states = list(cast("Sequence[State]", model.stack.unpack(state)))
        last = len(states) - 1
        for i, block in enumerate(cast("Sequence[Block]", model.stack.blocks)):
            x, states[i] = _through(block, x, states[i], flags, read=i == last)
        action = torch.maximum(model.head.act(model.stack.norm(x)), model.head.action_low)
        return torch.minimum(action, model.head.action_high), model.stack.pack(tuple(states))


def _through(
    block: Block, x: Tensor, state: State, flags: Sequence[Tensor | None], *, read: bool
) -> tuple[Tensor, State]:
    # Block.step of L tokens, x (B L, D); with read the result is that of the last token, (B, D).
    u = cast(Tensor, block.norm1(x))
    if block.conv is None:
        y, state = _mixed(block.mixer, u, state, flags, read=read)
    else:
        past, inner = cast("tuple[State, State]", state)
        seen: list[Tensor] = []
        for piece, flag in zip(_apart(u, len(flags)), flags, strict=True):
            piece, past = block.conv.step(piece, past, flag)
            seen.append(piece)
        y, inner = _mixed(block.mixer, _joined(seen), inner, flags, read=read)
        state = past, inner
    x = (_apart(x, len(flags))[-1] if read else x) + y
    if block.mlp is not None and block.norm2 is not None:
        x = x + cast(Tensor, block.mlp(block.norm2(x)))
    return x, state


def _mixed(
    mixer: SequenceMixer, u: Tensor, state: State, flags: Sequence[Tensor | None], *, read: bool
) -> tuple[Tensor, State]:
    # The mixer's step of L tokens. Gates that read the input alone are computed at once.
    outputs: list[Tensor] = []
    if isinstance(mixer, MinimalCell):
        coefficients = (_apart(part, len(flags)) for part in mixer.coefficients(u))
        for a, b, flag in zip(*coefficients, flags, strict=True):
            state = mixer.advance(a, b, state, flag)
            outputs.append(state)
        return mixer.output(_joined(outputs[-1:] if read else outputs), u.dtype), state
    for piece, flag in zip(_apart(u, len(flags)), flags, strict=True):
        y, state = mixer.step(piece, state, flag)
        outputs.append(y)
    return _joined(outputs[-1:] if read else outputs), state


def _joined(tokens: Sequence[Tensor]) -> Tensor:
    # L tokens (B, D) as (B L, D), those of a row next to each other.
    if len(tokens) == 1:
        return tokens[0]
    return torch.cat(list(tokens), 1).view(-1, tokens[0].shape[1])


def _apart(x: Tensor, tokens: int) -> Sequence[Tensor]:
    return [x] if tokens == 1 else x.view(-1, tokens * x.shape[1]).split(x.shape[1], 1)


def trace(model: DecisionModel) -> torch.export.ExportedProgram:
    """Return the step of a copy of the model, on the CPU, in float32; UserError if no graph."""
    step = Step(copy.deepcopy(model).cpu().float()).eval().requires_grad_(False)
    batch = torch.export.Dim("B", min=1)
    shapes: dict[str, Any] = {name: {0: batch} for name in (*REQUIRED, STATE)}
    if optional := optional_inputs(model):
        shapes["optional"] = tuple({0: batch} for _ in optional)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own, about what it will deprecate
            program = torch.export.export(step, example(model, 2), dynamic_shapes=shapes)
    except Exception as error:  # torch has dozens of kinds, without a base class
        raise cannot_export(model, error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the folders of this machine
    return program


def cannot_export(model: DecisionModel, error: Exception) -> UserError:
    """Return the error that says that this model's step is no graph, and why."""
    first: BaseException = error  # what torch says last are steps of its own to take
    while (before := first.__cause__) is not None:
        first = before
    reason = next(iter(str(first).strip().splitlines()), type(first).__name__)
    return UserError(
        f"the step of backbone {model.config.backbone!r} cannot be exported ({reason}); "
        "its cell's `step` has to be torch operations alone, with x.shape[0] in place of len(x)"
    )


def example(model: DecisionModel, rows: int) -> tuple[Tensor, ...]:
    """Return inputs for `rows` environments, all zero, at the start of episodes."""
    return (
        torch.zeros(rows, model.obs_dim, dtype=obs_dtype(model)),
        torch.zeros(rows, 1),
        torch.zeros(rows, model.action_dim),
        torch.zeros(rows, dtype=torch.int64),
        torch.ones(rows, dtype=torch.bool),
        torch.zeros(rows, model.stack.state_size),
        *(torch.zeros(rows, width) for width in optional_inputs(model).values()),
    )
