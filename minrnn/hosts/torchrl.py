"""A `Stack` as a module of TorchRL: `StackModule` stands where `LSTMModule` does."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minrnn.derivatives import transformed
from minrnn.hosts import needs, stack_config
from minrnn.stack import Stack, StackConfig

with needs("torchrl"):
    from tensordict import TensorDictBase, unravel_key_list
    from tensordict.nn import TensorDictModuleBase, dispatch
    from torchrl.data import Unbounded
    from torchrl.envs import TensorDictPrimer
    from torchrl.modules import recurrent_mode

__all__ = ["StackModule"]

_TRANSFORMS = (
    "put torchrl.modules.utils.get_env_transforms_from_module(core) into the environment "
    "(InitTracker() and core.make_tensordict_primer())"
)


class StackModule(TensorDictModuleBase):
    """Read in_keys [x, state, "is_init", "done"] and write out_keys [y, ("next", state)].

    x: (*batch, input_size), y: (*batch, dim), state: (*batch, S) packed, is_init: (*batch, 1) or
    (*batch,) bool, which `InitTracker` writes, done: of the same shape, may be missing. Outside
    `set_recurrent_mode` one step for each element; inside it, as in every loss of TorchRL (GAE has
    to be called in it), the last batch dimension is time and is read at once.

    What a replay computes is what the rollout did, for any cut of it: a row starts from the state
    that is stored at its first step. Where `is_init` is set later in a row, and the state stored
    there is zero, which the primer writes at a reset, a new episode starts (from a learned initial
    state, if there is one). Where it is not zero the row goes on from it: `SliceSampler` and GAE
    mark joints between pieces so. Losses that read "next" (DQN, SAC, TD3) lose these marks in
    `step_mdp`, and root `done` is then that of the step before x: behind it, too, a row goes on
    from the state that is stored, if that is not zero. In recurrent mode ("next", state) is new
    for the last step of each row alone, and not there either if a row of the batch has such a
    joint. Elsewhere it is zero, as with `LSTMModule`; but where one is stored, that stays, and
    the last step's has no gradient, since DQN reads it for its targets.

    config: a `StackConfig`, or a mapping with its fields. input_size: the width of x, which a
    linear layer maps to `dim`; None if it is `dim`. in_key, out_key, state_key: names.
    default_recurrent_mode: what holds outside `set_recurrent_mode`.

    >>> from tensordict.nn import TensorDictModule, TensorDictSequential
    >>> from torchrl.envs import GymEnv, InitTracker, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), InitTracker())
    >>> core = StackModule({"dim": 16, "num_layers": 1}, input_size=4)
    >>> env = env.append_transform(core.make_tensordict_primer())
    >>> head = TensorDictModule(torch.nn.Linear(16, 2), ["embed"], ["logits"])
    >>> policy = TensorDictSequential(core, head)
    >>> data = policy(env.reset())
    >>> data["next", "recurrent_state"].shape == (core.stack.state_size,)
    True
    """

    def __init__(
        self,
        config: StackConfig | Mapping[str, Any] | None = None,
        input_size: int | None = None,
        *,
        in_key: str | tuple[str, ...] = "observation",
        out_key: str | tuple[str, ...] = "embed",
        state_key: str | tuple[str, ...] = "recurrent_state",
        default_recurrent_mode: bool = False,
    ) -> None:
        super().__init__()
        self.stack = Stack(stack_config(config))
        wide = input_size is not None
        self.encoder = nn.Linear(input_size, self.stack.dim) if wide else nn.Identity()
        state = (state_key,) if isinstance(state_key, str) else state_key
        self.in_keys: list[Any] = unravel_key_list([in_key, state, "is_init", "done"])
        self.out_keys: list[Any] = unravel_key_list([out_key, ("next", *state)])
        self._default_recurrent_mode = default_recurrent_mode

    @property
    def recurrent_mode(self) -> bool:
        """Whether the last batch dimension is time at present."""
        mode = recurrent_mode()
        return self._default_recurrent_mode if mode is None else mode

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """Return the transform that puts the state into an environment's tensordicts."""
        spec = Unbounded(shape=torch.Size([self.stack.state_size]))
        return TensorDictPrimer({self.in_keys[1]: spec}, expand_specs=True)

    @dispatch()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write y and the next state, as the class describes.

        Raises KeyError without x or `is_init`, or without a state in the middle of an episode
        (not in recurrent mode, where a row without one starts from zeros), ValueError where x is
        not as wide as the stack, or recurrent mode finds no time.
        """
        shape = tensordict.batch_size
        x_key, state_key, init_key, done_key = self.in_keys
        is_init = tensordict.get(init_key, None)
        if is_init is None:
            raise KeyError(f"StackModule reads 'is_init'; {_TRANSFORMS}")
        is_init = is_init.reshape(shape)
        done = tensordict.get(done_key, torch.zeros_like(is_init))
        x = self.encoder(tensordict[x_key])
        if x.shape[-1] != self.stack.dim:
            width = x.shape[-1]
            raise ValueError(
                f"{x_key!r} has width {width}, the stack {self.stack.dim}: give input_size={width}"
            )
        state = tensordict.get(state_key, None)
        if state is None:
            if not self.recurrent_mode and not is_init.all():
                raise KeyError(f"no {state_key!r} in the middle of an episode; {_TRANSFORMS}")
            state = x.new_zeros(*shape, self.stack.state_size)
        if self.recurrent_mode:
            if not shape:
                raise ValueError(
                    "in recurrent mode the last batch dimension is time; there is none"
                )
            T = shape[-1]
            y, last = self._replay(
                x.reshape(-1, T, self.stack.dim),
                state.reshape(-1, T, self.stack.state_size),
                is_init.reshape(-1, T),
                done.reshape(-1, T),
            )
            # A stored state stays, without a gradient: DQN reads it for its targets.
            stored = tensordict.get(self.out_keys[1], None)
            state = torch.zeros_like(state) if stored is None else stored
            if last is not None:
                last = (last if stored is None else last.detach()).reshape(*shape[:-1], 1, -1)
                state = torch.cat([state[..., :-1, :], last], -2)
        else:
            y, new = self.stack.step(
                x.reshape(-1, self.stack.dim),
                self.stack.unpack(state.reshape(-1, self.stack.state_size)),
                is_init.reshape(-1),
            )
            state = self.stack.pack(new)
        tensordict.set(self.out_keys[0], y.reshape(*shape, -1))
        tensordict.set(self.out_keys[1], state.reshape(*shape, -1))
        return tensordict

    def _replay(
        self, x: Tensor, state: Tensor, is_init: Tensor, done: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        # x: (B, T, dim), state: (B, T, S), flags: (B, T). The outputs, and the states after T,
        # which are not known if a row was cut.
        stored = (state != 0).any(-1)
        kept, resets = is_init & stored, is_init & ~stored
        # After `step_mdp` is_init is false everywhere; a step after `done` begins another piece.
        kept[:, 1:] |= done[:, :-1] & stored[:, 1:]
        if transformed():  # as in a loss's vmap, where nothing may depend on values
            outputs: list[Tensor] = []
            packed = state[:, 0]
            for t in range(x.shape[1]):
                if t:
                    packed = torch.where(kept[:, t, None], state[:, t], packed)
                y, new = self.stack.step(x[:, t], self.stack.unpack(packed), resets[:, t])
                packed = self.stack.pack(new)
                outputs.append(y)
            return torch.stack(outputs, 1), packed
        if not kept[:, 1:].any():
            y, new = self.stack(x, self.stack.unpack(state[:, 0]), resets)
            return y, self.stack.pack(new)
        # Cut where a row goes on from a stored state, and lay the pieces below each other.
        B, T = is_init.shape
        kept[:, 0] = True
        starts = kept.flatten().nonzero()[:, 0]
        piece = kept.flatten().cumsum(0) - 1
        place = torch.arange(B * T, device=x.device) - starts[piece]
        longest = int(place.max()) + 1
        rows = x.new_zeros(len(starts), longest, x.shape[-1])
        rows = rows.index_put((piece, place), x.flatten(0, 1))
        flags = resets.new_zeros(len(starts), longest)
        flags = flags.index_put((piece, place), resets.flatten())
        y, _ = self.stack(rows, self.stack.unpack(state.flatten(0, 1)[starts]), flags)
        return y[piece, place].reshape(B, T, -1), None
