"""Export the step of `agents.acting.step_graph`, weights inside, to one file: ONNX or torch's pt2.

`METADATA` is beside it, as JSON: under the key "minrnn" of an ONNX file, in "minrnn.json" of a pt2.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents.acting import step_graph
from agents.model.decision import DecisionModel
from envs.errors import UserError
from envs.files import write_file

FORMAT = 1
KEY = "minrnn"
PT2_METADATA = "minrnn.json"
METADATA = (
    *("env_id", "env_kwargs", "obs_keys", "env_wrappers", "reset_options"),
    *("data", "targets", "update"),
)
"""What is taken from a checkpoint's metadata."""
OPSET = 18
"""The exporter's own: it converts to all others. ONNX Runtime 1.14 (2023) and later read it."""
PACKAGES = ("onnx", "onnxscript")
INSTALL = "pip install onnx onnxscript onnxruntime"


def export_onnx(
    model: DecisionModel, path: Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the step to `path` as ONNX. `metadata`: that of the checkpoint.

    Raises UserError where a package is missing, a cell cannot be exported or the disk is full.
    """
    write_file(path, onnx_bytes(model, metadata or {}))


def export_pt2(model: DecisionModel, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the step to `path` for torch.export.load of this version of torch or a later one.

    Raises UserError where a cell cannot be exported or the disk is full.
    """
    buffer = io.BytesIO()
    extra: dict[str, Any] = {PT2_METADATA: json.dumps(_metadata(model, metadata or {}))}
    torch.export.save(step_graph.trace(model), buffer, extra_files=extra)
    write_file(path, buffer.getvalue())


def onnx_bytes(model: DecisionModel, metadata: Mapping[str, Any]) -> bytes:
    """Return the ONNX file that `export_onnx` writes.

    By the exporter of torch.export: the older one, which traces, is thirty times as fast, but
    deprecated, and refuses the steps of mLSTM, sLSTM and S4D.
    """
    if reason := missing(*PACKAGES):
        raise UserError(f"--export onnx: {reason}")
    program = step_graph.trace(model)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would tell that torchvision is not installed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                input_names=step_graph.input_names(model),
                output_names=step_graph.OUTPUTS,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise step_graph.cannot_export(model, error) from error
    finally:
        logger.setLevel(level)
    assert exported is not None
    proto: Any = exported.model_proto
    del proto.graph.value_info[:]  # of what is in between: shapes that every reader infers
    for node in proto.graph.node:
        del node.metadata_props[:]  # lines of code that it comes from
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "B"
    proto.metadata_props.add(key=KEY, value=json.dumps(_metadata(model, metadata)))
    return proto.SerializeToString()


def missing(*packages: str) -> str | None:
    """Say which packages are not installed, and how to install them; None where all are there."""
    absent: list[str] = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            absent.append(package)
    return f"{' and '.join(absent)} not installed; {INSTALL}" if absent else None


def _metadata(model: DecisionModel, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "backbone": model.config.backbone,
        "tokens": model.config.tokens,
        "obs_dim": model.obs_dim,
        "action_dim": model.action_dim,
        "obs_dtype": str(step_graph.obs_dtype(model)).removeprefix("torch."),
        "state_size": model.stack.state_size,
        "optional": step_graph.optional_inputs(model),
        "max_steps": model.config.timestep_embedding or None,
        "return_range": [float(model.normaliser.rtg_low), float(model.normaliser.rtg_high)],
        **{name: metadata[name] for name in METADATA if name in metadata},
    }
