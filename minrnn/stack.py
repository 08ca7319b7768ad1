"""A stack of blocks, the module to plug into an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from minrnn.block import ACTIVATIONS, NORMS, Block, choose
from minrnn.interface import SequenceMixer, State
from minrnn.registry import build, cell_options, hint
from minrnn.state import leaves, pack, tree_map, unpack


@dataclass(frozen=True)
class StackConfig:
    """The shape of a `Stack`; the defaults are the paper's for D4RL, but for the dropout."""

    dim: int = 128
    """Width of inputs and outputs."""
    num_layers: int = 3
    """Number of blocks."""
    backbone: str | Sequence[str] = "mingru"
    """Name of the cell, one of `minrnn.available()`; or one for each layer, first to last."""
    cell: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the cell; with several cells, each gets those that it knows."""
    mlp_ratio: float = 4.0
    """Width of the MLP's hidden layer over `dim`; 0 leaves the MLPs out."""
    activation: str = "relu"
    """Activation of the MLP: relu or gelu."""
    norm: str = "layernorm"
    """Normalisation before each cell and MLP, and at the end: layernorm or rmsnorm."""
    dropout: float = 0.0
    """Dropout on the output of each cell and MLP, before it is added."""
    conv: int = 0
    """Width of a causal convolution before each cell (the paper has 4 for language); 0 for none."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that no stack can be built from."""
        for name in ("dim", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.mlp_ratio < 0:
            raise ValueError(f"mlp_ratio must not be negative, but it is {self.mlp_ratio}")
        if not isinstance(self.backbone, str):
            object.__setattr__(self, "backbone", tuple(self.backbone))
        if not isinstance(self.backbone, str) and len(self.backbone) != self.num_layers:
            raise ValueError(
                f"backbone must be one name, or one for each of the {self.num_layers} layers, "
                f"not {len(self.backbone)}: {', '.join(self.backbone)}"
            )
        if self.conv < 0 or self.conv == 1:
            raise ValueError(f"conv must be 0 for none, or at least 2, not {self.conv}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        choose("activation", self.activation, ACTIVATIONS)
        choose("norm", self.norm, NORMS)

    @property
    def backbones(self) -> tuple[str, ...]:
        """The name of each layer's cell."""
        if isinstance(self.backbone, str):
            return (self.backbone,) * self.num_layers
        return tuple(self.backbone)


class Stack(SequenceMixer):
    """Blocks one after the other, and a final norm. The state is a tuple of the blocks' states.

    `state_size` is S, the width of a packed state.

    >>> import torch
    >>> stack = Stack(StackConfig(dim=8, num_layers=2))
    >>> y, state = stack(torch.randn(2, 5, 8))
    >>> packed = stack.pack(state)
    >>> packed.shape == (2, stack.state_size)
    True
    >>> y, state = stack.step(torch.randn(2, 8), stack.unpack(packed))
    >>> y.shape
    torch.Size([2, 8])
    """

    def __init__(self, config: StackConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StackConfig()
        self.dim = config.dim
        self.blocks = nn.ModuleList(
            Block(
                build(name, config.dim, **given),
                mlp_ratio=config.mlp_ratio,
                activation=config.activation,
                norm=config.norm,
                dropout=config.dropout,
                conv=config.conv,
            )
            for name, given in zip(config.backbones, _given(config), strict=True)
        )
        self.norm = NORMS[config.norm](config.dim)
        # A state without rows: the shapes and dtypes that unpack needs.
        self._template = tree_map(_no_rows, self.initial_state(1))
        self.state_size = sum(leaf.shape[1:].numel() for leaf in leaves(self._template))

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        new: list[State] = []
        for block, old in zip(self._blocks(), self._split(state), strict=True):
            x, carried = block(x, old, resets)
            new.append(carried)
        return cast(Tensor, self.norm(x)), tuple(new)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """Read (B, dim); see `SequenceMixer.step`."""
        new: list[State] = []
        for block, old in zip(self._blocks(), self._split(state), strict=True):
            x, carried = block.step(x, old, resets)
            new.append(carried)
        return cast(Tensor, self.norm(x)), tuple(new)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[State, ...]:
        """Return the initial states of the blocks."""
        return tuple(b.initial_state(batch_size, device, dtype) for b in self._blocks())

    def pack(self, state: State) -> Tensor:
        """Return the state as one tensor (B, S), as replay buffers and other libraries keep it."""
        return pack(state)

    def unpack(self, packed: Tensor) -> State:
        """Undo `pack`. packed: (B, S)."""
        return unpack(packed, self._template)

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def _split(self, state: State | None) -> tuple[State | None, ...]:
        if state is None:
            return (None,) * len(self.blocks)
        if not isinstance(state, (tuple, list)) or len(state) != len(self.blocks):
            raise ValueError(
                f"the state of this Stack is a tuple of {len(self.blocks)}, one a block; "
                "a packed state goes through unpack first"
            )
        return tuple(state)


def _given(config: StackConfig) -> list[dict[str, Any]]:
    # The options of each layer's cell.
    there = [cell_options(name) for name in config.backbones]
    taken = {key for own in there for key in (config.cell if own is None else own)}
    unknown = [key for key in config.cell if key not in taken]
    if unknown and len(set(config.backbones)) > 1:
        names, known = ", ".join(dict.fromkeys(config.backbones)), tuple(sorted(taken))
        raise ValueError(f"none of {names} has the option {unknown[0]!r}{hint(unknown[0], known)}")
    return [
        {key: x for key, x in config.cell.items() if key in unknown or own is None or key in own}
        for own in there
    ]


def _no_rows(leaf: Tensor) -> Tensor:
    return leaf.detach()[:0].clone()
