"""`check_mixer`: the contract of `minrnn.interface` as a function, for anyone's own cell."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from minrnn.interface import SequenceMixer, State
from minrnn.state import leaves, select_rows, tree_map

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}

# Where episodes start in the five rows of a batch of ten steps: 1, 2 and 3 steps apart, at the
# first step, nowhere, everywhere.
_STARTS: tuple[tuple[int, ...], ...] = ((3, 4, 6, 9), (0,), (), (0, 1, 7), tuple(range(10)))
_BATCH, _LENGTH = len(_STARTS), 10


def check_mixer(
    make_or_module: SequenceMixer | Callable[..., SequenceMixer],
    *,
    dim: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    tolerance: float | None = None,
) -> None:
    """Check that a sequence mixer keeps the eight laws of `minrnn.interface`.

    make_or_module: a module, or what makes one: called with `dim` if that is given, else without
    arguments. The module need not be a `SequenceMixer`; it needs `forward`, `step` and
    `initial_state`, and `dim` unless that is given. A copy of it is checked, in `dtype` and in
    eval mode; neither it nor the global random state is touched. tolerance: relative and absolute;
    by default 1e-9 for float64, 1e-4 for float32, 3e-2 for others. Finite differences in float64
    are the reference of the gradients.

    Raises AssertionError at the first law broken; the message starts with its name: Purity,
    Causality, Step, Carry, Reset, Hygiene, Canonical or Gradients.

    >>> from minrnn import MinGRU
    >>> check_mixer(MinGRU, dim=4)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make_or_module
        if not isinstance(module, nn.Module):
            module = module() if dim is None else module(dim)
        with _law("Purity", "copying the module"):
            module = copy.deepcopy(module).to(dtype).eval()
        like = next(iter(module.parameters()), torch.zeros(()))
        case = _Case(
            module,
            module.dim if dim is None else dim,
            dtype,
            like.device,
            TOLERANCES.get(dtype, 3e-2) if tolerance is None else tolerance,
            torch.Generator().manual_seed(seed),
        )
        for law in (
            _purity,
            _causality,
            _step,
            _carry,
            _reset,
            _hygiene,
            _canonical,
            _gradients,
        ):
            with _law(law.__name__[1:].capitalize(), "running the module"):
                law(case)


class _law:
    """Turn what a mixer raises into an AssertionError that starts with the name of the law."""

    def __init__(self, name: str, doing: str) -> None:
        self.name, self.doing = name, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _Broken):
            raise AssertionError(f"{self.name}: {error}") from None
        if isinstance(error, Exception):
            raise AssertionError(
                f"{self.name}: {self.doing} raised {type(error).__name__}: {error}"
            ) from error


class _Broken(Exception):
    pass


@dataclass(frozen=True)
class _Case:
    """A mixer, and random arguments for it."""

    module: SequenceMixer
    dim: int
    dtype: torch.dtype
    device: torch.device
    tolerance: float
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.device, self.dtype)

    def x(self, length: int = _LENGTH) -> Tensor:
        return self.normal(_BATCH, length, self.dim)

    def resets(self) -> Tensor:
        resets = torch.zeros(_BATCH, _LENGTH, dtype=torch.bool)
        for row, starts in enumerate(_STARTS):
            resets[row, list(starts)] = True
        return resets.to(self.device)

    def state(self) -> State:
        """Return a state that the mixer made itself, different in each row."""
        with torch.no_grad():
            return self.module(self.x())[1]

    def close(self, got: Tensor, wanted: Tensor, what: str, scale: float = 1.0) -> None:
        if got.shape != wanted.shape:
            raise _Broken(f"{what}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}")
        got, wanted = got.detach().double(), wanted.detach().double()
        bound = self.tolerance * scale
        if not torch.allclose(got, wanted, rtol=bound, atol=bound):
            worst = (got - wanted).abs().max().item()
            raise _Broken(f"{what}: they differ by {worst:.2g} (tolerance {bound:.2g})")

    def close_states(self, got: State, wanted: State, what: str) -> None:
        pairs = list(zip(leaves(got), leaves(wanted), strict=True))
        for number, (one, other) in enumerate(pairs):
            self.close(one, other, f"{what}, leaf {number}")


def _clone(state: State) -> State:
    return tree_map(Tensor.clone, state)


def _run(
    module: SequenceMixer, x: Tensor, state: State | None = None, resets: Tensor | None = None
) -> tuple[Tensor, State]:
    # On copies: that arguments may be modified is for the law of purity to say.
    return module(
        x.clone(),
        None if state is None else _clone(state),
        None if resets is None else resets.clone(),
    )


def _walk(
    module: SequenceMixer, x: Tensor, state: State | None = None, resets: Tensor | None = None
) -> tuple[Tensor, State]:
    # The same by steps.
    outputs: list[Tensor] = []
    for t in range(x.shape[1]):
        old = None if state is None else _clone(state)
        now = None if resets is None else resets[:, t].clone()
        y, state = module.step(x[:, t].clone(), old, now)
        outputs.append(y)
    assert state is not None
    return torch.stack(outputs, 1), state


@torch.no_grad()
def _purity(case: _Case) -> None:
    module, x, resets = case.module, case.x(), case.resets()
    state = case.state()
    for name, call, x_, resets_ in (
        ("forward", module.forward, x, resets),
        ("step", module.step, x[:, 0].clone(), resets[:, 0].clone()),
    ):
        before = copy.deepcopy((x_, state, resets_, dict(module.state_dict())))
        y, new = call(x_, state, resets_)
        result = y.clone(), _clone(new)
        again, _ = call(x_, state, resets_)
        for what, now, then in (
            ("x", x_, before[0]),
            ("resets", resets_, before[2]),
            *((f"leaf {i} of the state", *pair) for i, pair in _pairs(state, before[1])),
            *((k, v, before[3][k]) for k, v in module.state_dict().items()),
        ):
            if not torch.equal(now, then):
                raise _Broken(f"{name} modified {what}")
        case.close(again, result[0], f"{name} called twice with the same arguments")
        case.close_states(new, result[1], f"a state returned by {name}, after another call")
        initial = module.initial_state(_BATCH)
        for leaf in leaves(initial):
            if leaf.shape[:1] != (_BATCH,):
                raise _Broken(f"a leaf of initial_state({_BATCH}) is {tuple(leaf.shape)}")
        case.close(
            call(x_, None, None)[0],
            call(x_, initial, None)[0],
            f"{name} with state=None, and with initial_state",
        )
    y, _ = _run(module, x, state, resets)
    copies: dict[str, Callable[..., Any]] = {
        "deep-copied": copy.deepcopy(module),
        "pickled": pickle.loads(pickle.dumps(module)),
        "compiled": torch.compile(module, backend="eager"),
    }
    for how, other in copies.items():
        case.close(other(x, state, resets)[0], y, f"the module and itself {how}")
    torch.compiler.reset()


@torch.no_grad()
def _causality(case: _Case) -> None:
    x = case.x()
    y, _ = _run(case.module, x)
    for t in (1, _LENGTH // 2, _LENGTH - 1):
        changed = torch.cat([x[:, :t], case.x(_LENGTH - t)], 1)
        other, _ = _run(case.module, changed)
        case.close(other[:, :t], y[:, :t], f"y[:, :{t}], after another x[:, {t}:]")


@torch.no_grad()
def _step(case: _Case) -> None:
    x = case.x()
    y, _ = _run(case.module, x)
    if y.shape != x.shape:
        raise _Broken(f"forward turned {tuple(x.shape)} into {tuple(y.shape)}")
    case.close(_walk(case.module, x)[0], y, "stepping, and forward")


@torch.no_grad()
def _carry(case: _Case) -> None:
    x, start = case.x(), case.state()
    whole, _ = _run(case.module, x, start)
    for k in (1, 4, _LENGTH - 1):
        first, state = _run(case.module, x[:, :k], start)
        for how, go in (("forward", _run), ("step", _walk)):
            second, _ = go(case.module, x[:, k:], state)
            parts = torch.cat([first, second], 1)
            case.close(parts, whole, f"forward, {how} from t = {k} on, and forward in one")


def _episodes() -> Iterator[tuple[int, int, int]]:
    # (row, start, stop) of every episode, the one that was there before among them.
    for row, starts in enumerate(_STARTS):
        bounds = sorted({0, *starts, _LENGTH})
        for start, stop in zip(bounds, bounds[1:], strict=False):
            yield row, start, stop


def _apart(case: _Case, x: Tensor, start: State, row: int, first: int, stop: int):
    # One episode of one row by itself.
    state = None
    if first not in _STARTS[row]:
        state = select_rows(start, torch.tensor([row]))
    return _run(case.module, x[row : row + 1, first:stop], state)


@torch.no_grad()
def _reset(case: _Case) -> None:
    x, start, resets = case.x(), case.state(), case.resets()
    packed, _ = _run(case.module, x, start, resets)
    stepped, _ = _walk(case.module, x, start, resets)
    for row, first, stop in _episodes():
        alone = _apart(case, x, start, row, first, stop)[0][0]
        what = f"the episode of steps {first} to {stop - 1}, starts at {_STARTS[row]}, alone and"
        case.close(packed[row, first:stop], alone, f"{what} in a packed row")
        case.close(stepped[row, first:stop], alone, f"{what} in steps with resets")


def _poisoned(state: State, rows: Tensor, value: float) -> State:
    def poison(leaf: Tensor) -> Tensor:
        leaf = leaf.clone()
        if leaf.is_floating_point():
            leaf[rows] = value
        return leaf

    return tree_map(poison, state)


def _hygiene(case: _Case) -> None:
    module, x, start, resets = case.module, case.x(), case.state(), case.resets()
    clean = resets[:, 0]
    for value in (float("nan"), float("inf")):
        bad = _poisoned(start, clean, value)
        for name, go in (("forward", _run), ("step", _walk)):
            with torch.no_grad():
                wanted, _ = go(module, x, start, resets)
            x_ = x.clone().requires_grad_()
            got, _ = go(module, x_, bad, resets)
            case.close(got, wanted, f"{name} with {value} in the state of rows that are reset")
            parameters = [p for p in module.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(got.sum(), [x_, *parameters], allow_unused=True)
            if not all(g is None or bool(g.isfinite().all()) for g in gradients):
                raise _Broken(f"{name} with {value} in a state that is reset: gradient not finite")
            for row, first, stop in _episodes():
                if first == 0 or first not in _STARTS[row]:
                    continue
                spoilt = x.clone()
                spoilt[row, :first] = value
                with torch.no_grad():
                    got, _ = go(module, spoilt, start, resets)
                what = f"{name} with {value} in x before a reset at {first}"
                case.close(got[row, first:stop], wanted[row, first:stop], what)


@torch.no_grad()
def _canonical(case: _Case) -> None:
    module, x, start, resets = case.module, case.x(), case.state(), case.resets()
    ends = {row: (first, stop) for row, first, stop in _episodes()}  # the last of each row
    for value in (None, float("nan")):
        before = start if value is None else _poisoned(start, resets[:, 0], value)
        for name, go in (("forward", _run), ("step", _walk)):
            _, packed = go(module, x, before, resets)
            for row, (first, stop) in ends.items():
                _, alone = _apart(case, x, start, row, first, stop)
                got = select_rows(packed, torch.tensor([row]))
                what = f"the state that {name} leaves, and that of the last episode alone"
                case.close_states(got, alone, what)


def _gradients(case: _Case) -> None:
    x, start, resets = case.x(), case.state(), case.resets()
    weight = case.normal(*x.shape)
    exact = copy.deepcopy(case.module).double()
    for given in (start, None):
        arguments = _Arguments.of(case.module, x, given)
        value = arguments.loss(_run, resets, weight)
        if not value.requires_grad:
            raise _Broken("the output does not depend on the arguments by autograd")
        doubles = _Arguments.of(exact, x.double(), given)
        found = arguments.gradients(_run, resets, weight)
        wanted = doubles.gradients(_run, resets, weight.double())
        stepped = doubles.gradients(_walk, resets, weight.double())
        for name, leaf in doubles.named.items():
            direction = case.normal(*leaf.shape).double()
            slope = doubles.slope(leaf, direction, resets, weight.double())
            told = (wanted[name] * direction).sum()
            if abs(told - slope) > 1e-5 * (1 + abs(slope)):
                raise _Broken(
                    f"the loss changes with {name} by {slope:.6g}, its gradient says {told:.6g}"
                )
            size = max(1.0, wanted[name].abs().max().item())
            exactly = max(1.0, 1e-8 / case.tolerance) * size
            case.close(found[name], wanted[name], f"gradient by {name}, and in float64", 10 * size)
            case.close(stepped[name], wanted[name], f"gradient by {name}, by steps", exactly)


@dataclass(frozen=True)
class _Arguments:
    """What the output depends on, as leaves that want a gradient."""

    module: SequenceMixer
    x: Tensor
    state: State | None
    named: dict[str, Tensor]

    @staticmethod
    def of(module: SequenceMixer, x: Tensor, state: State | None) -> _Arguments:
        def leaf_of(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            dtype = torch.float64 if x.dtype == torch.float64 else leaf.dtype
            return leaf.detach().to(dtype, copy=True).requires_grad_()

        x = leaf_of(x)
        state = None if state is None else tree_map(leaf_of, state)
        named = {"x": x}
        if state is not None:
            inner = [leaf for leaf in leaves(state) if leaf.is_floating_point()]
            named |= {f"leaf {i} of the initial state": leaf for i, leaf in enumerate(inner)}
        parameters = cast("Iterator[tuple[str, Tensor]]", module.named_parameters())
        named |= {name: p for name, p in parameters if p.requires_grad}
        return _Arguments(module, x, state, named)

    def loss(self, go: Callable[..., tuple[Tensor, State]], resets: Tensor, weight: Tensor):
        y, state = go(self.module, self.x, self.state, resets)
        loss = (y * weight).sum()
        for leaf in leaves(state):
            if leaf.is_floating_point():
                loss = loss + leaf.to(loss.dtype).sin().sum()
        return loss

    def gradients(
        self, go: Callable[..., tuple[Tensor, State]], resets: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        found = torch.autograd.grad(
            self.loss(go, resets, weight), list(self.named.values()), allow_unused=True
        )
        return {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(self.named.items(), found, strict=True)
        }

    @torch.no_grad()
    def slope(self, leaf: Tensor, direction: Tensor, resets: Tensor, weight: Tensor) -> float:
        # A central difference; its error is about 1e-9 here.
        size = 1e-6
        leaf.add_(direction, alpha=size)
        above = self.loss(_run, resets, weight)
        leaf.sub_(direction, alpha=2 * size)
        below = self.loss(_run, resets, weight)
        leaf.add_(direction, alpha=size)
        return (above - below).item() / (2 * size)


def _pairs(one: State, other: State) -> list[tuple[int, tuple[Tensor, Tensor]]]:
    return list(enumerate(zip(leaves(one), leaves(other), strict=True)))
