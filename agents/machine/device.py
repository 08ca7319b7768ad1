"""Choices about the machine, made once at the start: device, threads, precision, allocation."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from contextlib import suppress

import torch

from envs.errors import UserError


def configure(threads: int) -> None:
    """Set threads, matmul precision and allocation for training on this machine."""
    torch.set_num_threads(threads)
    # oneDNN instead of MKL for float32 products: 2-3 times as fast on CPUs that are not Intel's. On
    # a GPU (and on CPUs with AMX) products use TF32 or bfloat16 with float32 sums.
    torch.set_float32_matmul_precision("medium")
    _keep_large_buffers()
    if os.environ.get("MUJOCO_GL", "").lower() == "osmesa":  # MuJoCo loads it when imported
        before_opengl()


def be_deterministic() -> None:
    """Use deterministic algorithms only; an operation that has none raises RuntimeError."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)


def before_opengl() -> None:
    """Load triton, which torch imports, before OpenGL.

    Both triton and Mesa's renderers without a graphics card (OSMesa, EGL) contain LLVM: loaded
    second, triton ends the process with a segmentation fault.
    """
    with suppress(ImportError):
        importlib.import_module("triton")


def _keep_large_buffers() -> None:
    """Let glibc reuse large buffers: page faults of new ones cost five times the arithmetic."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    mallopt(M_MMAP_MAX, 0)  # a threshold does not suffice: glibc allows 32 MiB at most
    mallopt(M_TRIM_THRESHOLD, 1 << 30)


def select_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used ({reason}): try --device auto") from None
    return device
