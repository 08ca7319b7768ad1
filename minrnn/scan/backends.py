"""Choice of the backend of a scan: the installed ones, those for a device, and "auto"."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from types import ModuleType

import torch

# Name: its module (imported when first used), what it needs, and how to install that.
MODULES = {
    "numba": ("minrnn.scan.cpu", "numba", "pip install 'numba>=0.62'"),
    "triton": ("minrnn.scan.gpu", "triton", "pip install triton"),
    "eager": ("minrnn.scan.eager", "torch", "pip install torch"),
}


def backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Return the names of the backends available for `device`, the one of "auto" first."""
    return tuple(name for name in _candidates(torch.device(device).type) if _module(name))


def load(name: str, device: torch.device | str) -> ModuleType:
    """Return the backend of that name, or the best available one for "auto".

    Raises ValueError if it is not installed or cannot run on the device.
    """
    kind = torch.device(device).type
    if name == "auto":
        return _best(kind)
    if name not in _candidates(kind):
        there = ", ".join(backends(kind))
        raise ValueError(f"backend {name!r} cannot run on {kind}; there is {there}")
    module = _module(name)
    if module is None:
        raise ValueError(f"backend {name!r} needs {MODULES[name][1]}: {MODULES[name][2]}")
    return module


@functools.cache
def cpu_kernels(name: str) -> ModuleType | None:
    """Return the module of minrnn.scan.cpu with a cell's kernels, or None without numba."""
    if _module("numba") is None:
        return None
    return importlib.import_module(f"minrnn.scan.cpu.{name}")


def _candidates(kind: str) -> tuple[str, ...]:
    if kind == "cuda":
        return "triton", "eager"
    if kind == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return ("numba", "eager", "triton") if interpreted else ("numba", "eager")
    return ("eager",)


@functools.cache
def _best(kind: str) -> ModuleType:
    wanted = _candidates(kind)[0]
    module = _module(wanted)
    if module is None:
        _, package, install = MODULES[wanted]
        logging.getLogger("minrnn").warning(
            "scans on %s run in plain torch, several times slower, without %s: %s",
            kind,
            package,
            install,
        )
        module = _module("eager")
        assert module is not None
    return module


@functools.cache
def _module(name: str) -> ModuleType | None:
    if name == "numba" and os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return None  # kernels that numba leaves uncompiled have no pointers
    try:
        return importlib.import_module(MODULES[name][0])
    except ImportError:  # numba raises it also if numpy is newer than it supports
        return None
