"""The step compiled ahead of time by torch (AOTInductor): any backbone, on one core.

Takes a C++ compiler and ten seconds or more at `make`, for any number of rows. One row is as fast
as with ONNX Runtime, or up to twice as fast (S4D); sixteen rows are up to five times as fast (S4D),
but slower where most of the work is products (GRU, LSTM, Aaren). With frozen weights oneDNN
multiplies a few rows three times slower; max_autotune takes 80 s to make one row a quarter faster.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.acting import step_graph
from agents.acting.engines import Floats
from agents.acting.engines.packed import PackedEngine, Sizes
from agents.model.decision import DecisionModel
from agents.model.inputs import REQUIRED
from envs.errors import UserError


def why_not(model: DecisionModel, device: torch.device) -> str | None:
    """Say what is missing. Whether a cell of one's own can be compiled, only `make` finds out."""
    del model
    if device.type != "cpu":
        return f"it runs on a CPU, not on {device}"
    inductor: Any = importlib.import_module("torch._inductor")
    if not hasattr(inductor, "aoti_compile_and_package"):
        return f"it needs torch 2.6 or newer, not {torch.__version__}"
    builder: Any = importlib.import_module("torch._inductor.cpp_builder")
    try:
        builder.get_cpp_compiler()
    except Exception:
        return "it needs a C++ compiler: install g++, or name one in the variable CXX"
    return None


class Compiled(PackedEngine):
    """A library of machine code, loaded."""

    name = "compiled"

    def __init__(self, library: Any, sizes: Sizes) -> None:
        # Calling the library itself would parse a description of its arguments at every step.
        self._call = library.loader.boxed_run
        super().__init__(sizes)

    def _bind(self, state: Floats) -> None:
        # In the order of the graph's inputs: the state, then the optional ones.
        parts = [torch.from_numpy(part) for part in self._inputs.values()]
        self._before, self._behind = parts[: len(REQUIRED)], parts[len(REQUIRED) :]
        self._state: Tensor = torch.from_numpy(state)

    def _states(self) -> Floats:
        return self._state.numpy()

    @torch.inference_mode()
    def _run(self) -> Floats:
        if not len(self._state):
            return np.empty((0, self._sizes.action_dim), np.float32)
        action, self._state = self._call([*self._before, self._state, *self._behind])
        return action.numpy()


def make(model: DecisionModel, device: torch.device) -> Compiled:
    """Return the engine; UserError where the model cannot be compiled."""
    del device
    inductor: Any = importlib.import_module("torch._inductor")
    program = step_graph.trace(model)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as quiet:
        quiet.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        package = str(Path(folder) / "step.pt2")
        try:
            with torch.no_grad():
                inductor.aoti_compile_and_package(
                    program, package_path=package, inductor_configs={"cpp.threads": 1}
                )
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            message = f"the step cannot be compiled ({reason}); try another engine"
            raise UserError(message) from error
        return Compiled(inductor.aoti_load_package(package), Sizes.of(model))
