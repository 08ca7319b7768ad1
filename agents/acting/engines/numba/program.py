"""A model as the program that the kernel beside it runs, and its weights in the order of use."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.acting.engines.numba import kernel as k
from agents.acting.engines.numba.tile import LANES, blocks, padded
from agents.model.decision import DecisionModel
from agents.model.heads import TanhGaussianHead, TanhHead
from agents.model.normaliser import Normaliser
from agents.model.tokens import Embeddings, FusedTokens, InterleavedTokens, ReturnEmbedding
from minrnn.block import Block
from minrnn.cells.mingru import MinGRU
from minrnn.cells.minimal import MinimalCell
from minrnn.cells.minlstm import MinLSTM
from minrnn.mlp import MLP
from minrnn.scan.cpu.gates import CANDIDATES, GATES
from minrnn.stack import Stack

CHUNK = 36
"""Environments whose work is done together: their buffers stay in the cache, beside a layer."""
_KNOWN = (
    *(DecisionModel, Normaliser, FusedTokens, InterleavedTokens, Embeddings, ReturnEmbedding),
    *(TanhHead, TanhGaussianHead, nn.ModuleDict),
    *(Stack, Block, MinGRU, MinLSTM, MLP, nn.ModuleList, nn.Linear, nn.Embedding, nn.Identity),
    *(nn.LayerNorm, nn.RMSNorm, nn.ReLU, nn.GELU, nn.Dropout),
)


def unknown(model: DecisionModel) -> str | None:
    """Say what there is in a model that the kernel does not know; None where it knows it all."""
    if inputs := model.config.inputs:
        return f"its kernel has no optional inputs, such as {inputs[0]}"
    for module in model.modules():
        if type(module) not in _KNOWN:
            return f"its kernel knows minGRU and minLSTM, and not {type(module).__name__}"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return "its kernel would not see that a hook changes what a layer computes"
    if any(p.dtype != torch.float32 for p in model.parameters()):
        return "its kernel computes in float32, as the agent's weights are not"
    return None


class Program:
    """What the kernel reads.

    numbers: int64, the head and the operations. constants: float32. work: how many float32 it needs
    to work in. state: float32 for each environment. start (state,): what an episode starts from.
    """

    def __init__(self, model: DecisionModel) -> None:
        tokens, normaliser = model.tokens, model.normaliser
        assert isinstance(tokens, FusedTokens | InterleavedTokens)
        self._parts: list[NDArray[np.float32]] = []
        self._size = 0
        self._ops: list[list[int]] = []
        fused, embed = isinstance(tokens, FusedTokens), cast(Embeddings, tokens.embed)
        previous = embed.action is not None
        self._tokens = 1 if isinstance(tokens, FusedTokens) else tokens.tokens_per_step
        self._last = self._tokens - 1
        obs, action, dim = model.obs_dim, model.action_dim, model.config.dim
        scales = cast(int, embed.rtg.scales)
        cells = [cast(MinimalCell, block.mixer) for block in _blocks(model)]

        head = [0] * k.OPS
        head[k.OBS], head[k.ACTION], head[k.SCALES] = obs, action, scales
        head[k.TOKENS], head[k.CHUNK] = self._tokens, CHUNK
        head[k.STATE] = sum(padded(cell.hidden) for cell in cells)
        head[k.FUSED], head[k.PREV_ACTION] = int(fused), int(previous)
        head[k.WIDTH] = padded(dim)

        # Constants.
        head[k.AT_OBS] = self._keep(_numbers(normaliser.obs_mean), _numbers(normaliser.obs_std))
        limits = np.zeros(LANES, np.float32)
        limits[:3] = [
            float(getattr(normaliser, x)) for x in ("rtg_low", "rtg_high", "return_scale")
        ]
        powers = np.zeros(LANES, np.float32)
        powers[:scales] = 4.0 ** np.arange(scales)
        head[k.AT_RTG] = self._keep(limits, powers)
        head[k.AT_TIME] = -1
        if embed.timestep is not None:
            head[k.AT_TIME] = self._keep(_padded_rows(_numbers(embed.timestep.weight)))
        start = [_padded_rows(_numbers(cell.initial_state(1))) for cell in cells]
        self.start = np.concatenate(start, 1)[0]
        head[k.AT_START] = self._keep(self.start)
        ends = _numbers(torch.stack(model.head.range()))
        head[k.AT_RANGE] = self._keep(_padded_rows(ends))

        # Operations.
        self._embed(model, obs, scales, fused)
        self._norm(model.embed_norm, k.STREAM, k.STREAM, -1)
        place = 0
        for block, cell in zip(_blocks(model), cells, strict=True):
            final = cell is cells[-1]
            self._mix(block, cell, place)
            place += padded(cell.hidden)
            # Behind the last cell, only the token whose output is read is needed.
            self._mlp(block, self._last if final else -1)
        self._norm(model.stack.norm, k.STREAM, k.NORMED, self._last)
        self._product([model.head.mean], k.NORMED, k.OUTPUT, self._last)

        head[k.NUM_OPS] = len(self._ops)
        inner = [_layers(block.mlp)[0].out_features for block in _blocks(model) if block.mlp]
        gates = [(len(cell.gates) + 1) * padded(cell.hidden) for cell in cells]
        held = max(padded(cell.hidden) for cell in cells)
        widths = {
            k.INPUT: padded(obs + 1 + scales + action + 1 + LANES),
            k.STREAM: padded(dim),
            k.NORMED: padded(dim),
            k.GATES: max(*gates, *map(padded, inner), 0),
            k.HELD: held,
            k.OUTPUT: padded(action),
        }
        self.work = 0
        for name, width in widths.items():
            head[k.BUFFERS + 2 * name] = self.work
            head[k.BUFFERS + 2 * name + 1] = width
            self.work += CHUNK * (1 if name == k.INPUT else self._tokens) * width
        self.state, self.widest = head[k.STATE], widths[k.GATES]
        self.constants = _large(self._size)
        self.constants[:] = np.concatenate(self._parts)
        self.numbers = np.array([*head, *itertools.chain.from_iterable(self._ops)], np.int64)
        self.times = None if embed.timestep is None else embed.timestep.num_embeddings

    def _embed(self, model: DecisionModel, obs: int, scales: int, fused: bool) -> None:
        embed = cast(Embeddings, model.tokens.embed)
        add = embed.timestep is not None
        if not fused:
            layers = [(embed.rtg.linear, obs), (embed.obs, 0)]
            if embed.action is not None:
                layers.insert(0, (embed.action, obs + 1 + scales))
            for token, (layer, column) in enumerate(layers):
                self._product([layer], k.INPUT, k.STREAM, token, add=add, column=column)
            return
        weights = [_numbers(embed.obs.weight), _numbers(embed.rtg.linear.weight)]
        bias = _numbers(embed.obs.bias) + _numbers(embed.rtg.linear.bias)
        if embed.action is not None:
            weights += [_numbers(embed.action.weight), _numbers(embed.action.bias)[:, None]]
        self._matrix(np.concatenate(weights, 1), bias, k.INPUT, k.STREAM, -1, add=add)

    def _mix(self, block: Block, cell: MinimalCell, place: int) -> None:
        layers = [cast(nn.Linear, getattr(cell, name)) for name in (*cell.gates, "candidate")]
        self._norm(block.norm1, k.STREAM, k.NORMED, -1)
        self._product(layers, k.NORMED, k.GATES, -1)
        down = isinstance(cell.down, nn.Linear)
        if isinstance(cell, MinLSTM):
            gates = GATES["minlstm" if cell.normalize else "minlstm-raw"]
        else:
            gates = GATES["mingru"]
        signed = cast(Any, cell).signed
        candidate = CANDIDATES[cell.candidate_kind]
        target = k.HELD if down else k.STREAM
        size = padded(cell.hidden)
        self._op(k.RECUR, -1, k.GATES, target, place, size, gates, candidate, signed, not down)
        if down:
            self._product([cast(nn.Linear, cell.down)], k.HELD, k.STREAM, -1, add=True)

    def _mlp(self, block: Block, token: int) -> None:
        if block.mlp is None or block.norm2 is None:
            return
        up, activation, down = _layers(block.mlp)
        self._norm(block.norm2, k.STREAM, k.NORMED, token)
        self._product([up], k.NORMED, k.GATES, token)
        smooth = isinstance(activation, nn.GELU)
        self._op(k.ACTIVATE, token, k.GATES, k.GATES, padded(up.out_features), smooth)
        self._product([down], k.GATES, k.STREAM, token, add=True)

    def _norm(self, norm: nn.Module, source: int, target: int, token: int) -> None:
        assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
        size = norm.normalized_shape[0]
        small = np.zeros(LANES, np.float32)
        small[0] = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
        gain = _numbers(norm.weight)
        bias = _numbers(norm.bias) if isinstance(norm, nn.LayerNorm) else 0 * gain
        place = self._keep(small, _padded_rows(np.stack([gain, bias])))
        self._op(k.NORM, token, source, target, place, size, isinstance(norm, nn.LayerNorm))

    def _product(
        self,
        layers: list[nn.Linear],
        source: int,
        target: int,
        token: int,
        *,
        add: bool = False,
        column: int = 0,
    ) -> None:
        # Several layers of one input: each begins with a vector of its own.
        weight = np.concatenate([_padded_columns(_numbers(layer.weight)) for layer in layers])
        bias = np.concatenate([_padded_columns(_numbers(layer.bias)) for layer in layers])
        self._matrix(weight, bias, source, target, token, add=add, column=column)

    def _matrix(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        source: int,
        target: int,
        token: int,
        *,
        add: bool,
        column: int = 0,
    ) -> None:
        place = self._keep(blocks(weight, bias))
        count, depth = weight.shape
        self._op(k.PRODUCT, token, source, target, place, depth, padded(count), add, column)

    def _op(self, *numbers: int) -> None:
        self._ops.append([int(n) for n in numbers] + [0] * (k.OP_SIZE - len(numbers)))

    def _keep(self, *parts: NDArray[np.float32]) -> int:
        # Return where they are kept, one behind the other; the first begins with a line.
        place = self._size
        flat = np.concatenate([part.ravel() for part in parts])
        flat = np.pad(flat, (0, padded(flat.size) - flat.size))
        self._parts.append(flat)
        self._size += flat.size
        return place


def _blocks(model: DecisionModel) -> list[Block]:
    return cast("list[Block]", list(model.stack.blocks))


def _layers(mlp: nn.Module) -> tuple[nn.Linear, nn.Module, nn.Linear]:
    up, activation, down = cast(MLP, mlp)
    return cast(nn.Linear, up), activation, cast(nn.Linear, down)


def _numbers(tensor: Any) -> NDArray[np.float32]:
    return cast(Tensor, tensor).detach().cpu().float().numpy()


def _padded_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(rows, ((0, 0), (0, padded(rows.shape[1]) - rows.shape[1])))


def _padded_columns(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    more = padded(len(weight)) - len(weight)
    return np.pad(weight, ((0, more), *((0, 0),) * (weight.ndim - 1)))


def aligned(size: int) -> NDArray[np.float32]:
    """Return zeros (size,) that begin with a line of the cache."""
    return _place(size, LANES, size + LANES)


def _large(size: int) -> NDArray[np.float32]:
    # In huge pages where there are any, which numpy asks for from 4 MiB on: in them, two megabytes
    # fill a level-2 cache of that size without collisions, which saves a sixth of a step.
    page = (2 << 20) // 4
    return _place(size, page, max(size + page, 2 * page))


def _place(size: int, unit: int, room: int) -> NDArray[np.float32]:
    whole = np.zeros(room, np.float32)
    skip = -whole.ctypes.data // whole.itemsize % unit
    return whole[skip : skip + size]
