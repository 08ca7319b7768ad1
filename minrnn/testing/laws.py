"""The laws except for gradients: each function raises `Broken` if a mixer breaks its law."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.interface import State
from minrnn.state import leaves, select_rows, tree_map
from minrnn.testing.case import (
    BATCH,
    LENGTH,
    STARTS,
    Broken,
    Case,
    apart,
    clone,
    episodes,
    gradients_of,
    pairs,
    run,
    walk,
)


@torch.no_grad()
def purity(case: Case) -> None:
    """Nothing is modified or remembered; None is the initial state; copies behave the same."""
    module, x, resets = case.module, case.x(), case.resets()
    state = case.state()
    for name, call, x_, resets_ in (
        ("forward", module.forward, x, resets),
        ("step", module.step, x[:, 0].clone(), resets[:, 0].clone()),
    ):
        before = copy.deepcopy((x_, state, resets_, dict(module.state_dict())))
        y, new = call(x_, state, resets_)
        result = y.clone(), clone(new)
        again, _ = call(x_, state, resets_)
        for what, now, then in (
            ("x", x_, before[0]),
            ("resets", resets_, before[2]),
            *((f"leaf {i} of the state", *pair) for i, pair in pairs(state, before[1])),
            *((k, v, before[3][k]) for k, v in module.state_dict().items()),
        ):
            if not torch.equal(now, then):
                raise Broken(f"{name} modified {what}")
        case.close(again, result[0], f"{name} called twice with the same arguments")
        case.close_states(new, result[1], f"a state returned by {name}, after another call")
        initial = module.initial_state(BATCH)
        for leaf in leaves(initial):
            if leaf.shape[:1] != (BATCH,):
                raise Broken(f"a leaf of initial_state({BATCH}) is {tuple(leaf.shape)}")
        case.close(
            call(x_, None, None)[0],
            call(x_, initial, None)[0],
            f"{name} with state=None, and with initial_state",
        )
    y, _ = run(module, x, state, resets)
    copies: dict[str, Callable[..., Any]] = {
        "deep-copied": copy.deepcopy(module),
        "pickled": pickle.loads(pickle.dumps(module)),
        "compiled": cast(Any, torch).compile(module, backend="eager"),
    }
    for how, other in copies.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the compiler itself
            again, _ = other(x, state, resets)
        case.close(again, y, f"the module and itself {how}")
    torch.compiler.reset()


@torch.no_grad()
def causality(case: Case) -> None:
    """What comes later does not change what came before."""
    x = case.x()
    y, _ = run(case.module, x)
    for t in (1, LENGTH // 2, LENGTH - 1):
        changed = torch.cat([x[:, :t], case.x(LENGTH - t)], 1)
        other, _ = run(case.module, changed)
        case.close(other[:, :t], y[:, :t], f"y[:, :{t}], after another x[:, {t}:]")


@torch.no_grad()
def step(case: Case) -> None:
    """forward(x) equals stepping over t."""
    x = case.x()
    y, _ = run(case.module, x)
    if y.shape != x.shape:
        raise Broken(f"forward turned {tuple(x.shape)} into {tuple(y.shape)}")
    case.close(walk(case.module, x)[0], y, "stepping, and forward")


@torch.no_grad()
def carry(case: Case) -> None:
    """forward(x) equals forward(x[:, :k]) and then the rest, from a non-zero state."""
    x, start = case.x(), case.state()
    whole, _ = run(case.module, x, start)
    for k in (1, 4, LENGTH - 1):
        first, state = run(case.module, x[:, :k], start)
        for how, go in (("forward", run), ("step", walk)):
            second, _ = go(case.module, x[:, k:], state)
            parts = torch.cat([first, second], 1)
            case.close(parts, whole, f"forward, {how} from t = {k} on, and forward in one")


@torch.no_grad()
def reset(case: Case) -> None:
    """A packed row equals its episodes run apart."""
    x, start, resets = case.x(), case.state(), case.resets()
    packed, _ = run(case.module, x, start, resets)
    stepped, _ = walk(case.module, x, start, resets)
    for row, first, stop in episodes():
        alone = apart(case, x, start, row, first, stop)[0][0]
        what = f"the episode of steps {first} to {stop - 1}, starts at {STARTS[row]}, alone and"
        case.close(packed[row, first:stop], alone, f"{what} in a packed row")
        case.close(stepped[row, first:stop], alone, f"{what} in steps with resets")


def _poisoned(state: State, rows: Tensor, value: float) -> State:
    def poison(leaf: Tensor) -> Tensor:
        leaf = leaf.clone()
        if leaf.is_floating_point():
            leaf[rows] = value
        return leaf

    return tree_map(poison, state)


def hygiene(case: Case) -> None:
    """What came before a reset is invisible, NaN and infinity included."""
    module, x, start, resets = case.module, case.x(), case.state(), case.resets()
    clean = resets[:, 0]
    for value in (float("nan"), float("inf")):
        bad = _poisoned(start, clean, value)
        for name, go in (("forward", run), ("step", walk)):
            with torch.no_grad():
                wanted, _ = go(module, x, start, resets)
            x_ = x.clone().requires_grad_()
            got, _ = go(module, x_, bad, resets)
            case.close(got, wanted, f"{name} with {value} in the state of rows that are reset")
            parameters = [p for p in module.parameters() if p.requires_grad]
            gradients = gradients_of(got.sum(), [x_, *parameters])
            if not all(bool(g.isfinite().all()) for g in gradients):
                raise Broken(f"{name} with {value} in a state that is reset: gradient not finite")
            for row, first, stop in episodes():
                if first == 0 or first not in STARTS[row]:
                    continue
                spoilt = x.clone()
                spoilt[row, :first] = value
                with torch.no_grad():
                    got, _ = go(module, spoilt, start, resets)
                what = f"{name} with {value} in x before a reset at {first}"
                case.close(got[row, first:stop], wanted[row, first:stop], what)


@torch.no_grad()
def canonical(case: Case) -> None:
    """A state is that of its last episode alone, whatever came before."""
    module, x, start, resets = case.module, case.x(), case.state(), case.resets()
    ends = {row: (first, stop) for row, first, stop in episodes()}  # the last of each row
    for value in (None, float("nan")):
        before = start if value is None else _poisoned(start, resets[:, 0], value)
        for name, go in (("forward", run), ("step", walk)):
            _, packed = go(module, x, before, resets)
            for row, (first, stop) in ends.items():
                _, alone = apart(case, x, start, row, first, stop)
                got = select_rows(packed, torch.tensor([row]))
                what = f"the state that {name} leaves, and that of the last episode alone"
                case.close_states(got, alone, what)
