"""Folders of tensors and metadata: what goes in comes out, and nothing is allocated unseen."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.storage import tensor_folder
from agents.storage.folder_formats import AGENT, STATE
from agents.storage.tensor_folder import Layout, layout, load_folder, read_json, save_folder
from envs.errors import UserError
from tests.tools.fuzz_mutations import JSON, TENSORS, write_sums


def found_layout(_: Any, found: Layout) -> Layout:
    return found


def tensors() -> dict[str, torch.Tensor]:
    return {
        "half": torch.arange(5).bfloat16(),
        "double": torch.linspace(0, 1, 7, dtype=torch.float64).view(7, 1),
        "step": torch.tensor(3, dtype=torch.int64),
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "rng": torch.get_rng_state(),
        "turned": torch.arange(12, dtype=torch.float32).view(3, 4).T,
    }


def test_every_kind_of_tensor_and_metadata_comes_back(tmp_path: Path) -> None:
    metadata = {"best": float("-inf"), "update": 7, "losses": [0.1, 0.2], "sampler": {"a": None}}
    save_folder(tmp_path / "state", tensors(), metadata, STATE)
    found, told = load_folder(tmp_path / "state", STATE, lambda *_: layout(tensors()))
    assert told == {"format": STATE.version, **metadata}
    assert layout(found) == layout(tensors())
    for name, tensor in tensors().items():
        assert torch.equal(found[name], tensor)
        found[name].zero_()  # memory of its own, which can be written
    again, _ = load_folder(tmp_path / "state", STATE, found_layout)
    assert torch.equal(again["half"], tensors()["half"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "tensor step is unexpected"),
        ({"more": ((1,), torch.float32)}, "tensor more is missing"),
        ({"step": ((), torch.int32)}, r"step is torch.int64 \[\], not torch.int32 \[\]"),
        ({"flags": ((4,), torch.bool)}, r"flags is torch.bool \[3\], not torch.bool \[4\]"),
    ],
)
def test_tensors_other_than_expected_are_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_folder(tmp_path / "state", tensors(), {}, STATE)
    expected = {k: v for k, v in {**layout(tensors()), **change}.items() if v is not None}
    with pytest.raises(UserError, match=rf"the training state in .*{message}"):
        load_folder(tmp_path / "state", STATE, lambda *_: expected)


def test_tensors_of_an_older_version_are_read_by_their_new_names(tmp_path: Path) -> None:
    changes = {
        8: {"obs_mean": "norm.m", "head": "out"},
        9: {"norm.m": "norm.mean", "out": "out.linear", "out.linear": "never"},
    }
    kind = AGENT._replace(renames=changes)
    names = ["obs_mean", "obs_mean_too", "head.weight", "stack.0.b"]
    at_8 = ["norm.m", "obs_mean_too", "out.weight", "stack.0.b"]
    at_9 = ["norm.mean", "obs_mean_too", "out.linear.weight", "stack.0.b"]
    save = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    for written, read, wanted in [(7, 7, names), (7, 8, at_8), (7, 10, at_9), (9, 10, names)]:
        save_folder(tmp_path / "a", save, {}, kind._replace(version=written))
        layouts: list[Layout] = []
        loaded, _ = load_folder(
            tmp_path / "a",
            kind._replace(version=read),
            lambda _, found, seen=layouts: seen.append(found) or found,
        )
        assert {name: int(tensor) for name, tensor in loaded.items()} == {
            name: i for i, name in enumerate(wanted)
        }
        assert layouts[0].keys() == loaded.keys()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.obs_mean", "model.normaliser.obs_mean"),
        ("average.module.action_low", "average.module.head.action_low"),
        ("average.n_averaged", "average.n_averaged"),
        ("optimizer.head.weight.exp_avg", "optimizer.model.head.mean.weight.exp_avg"),
        ("optimizer.stack.blocks.0.w.step", "optimizer.model.stack.blocks.0.w.step"),
        ("optimizer.model.head.mean.bias.step", "optimizer.model.head.mean.bias.step"),
        ("losses", "pending.loss"),
        ("norms", "pending.grad_norm"),
        ("generator.cpu", "generator.cpu"),
    ],
)
def test_the_names_of_old_states_become_the_new_ones(old: str, new: str) -> None:
    assert STATE.renamed(old, 1) == STATE.renamed(old, 2) == new
    assert STATE.renamed(old, 3) == old


def test_a_tensor_that_is_there_by_both_names_is_damage(tmp_path: Path) -> None:
    both = {"obs_mean": torch.zeros(1), "normaliser.obs_mean": torch.ones(1)}
    save_folder(tmp_path / "a", both, {}, AGENT._replace(version=2))
    with pytest.raises(UserError, match="both its old and its new name"):
        load_folder(tmp_path / "a", AGENT._replace(version=3), found_layout)


def write(folder: Path, header: object, size: int, *, claimed: int | None = None) -> None:
    """Write a folder of AGENT's whose file of tensors has this header and so many bytes of data."""
    folder.mkdir()
    (folder / JSON).write_text('{"format": 2}')
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with (folder / TENSORS).open("wb") as file:
        file.write((len(text) if claimed is None else claimed).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)  # zeros that take no disk


def entry(shape: list[Any], begin: int, end: int, dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "claimed", "message"),
    [
        (b"{}", 0, 2**63, "has a header of 9223372036854775808 bytes"),
        (b"{}" + b" " * 1_000_001, 0, None, "has a header of 1000003 bytes"),
        (b"{}", 0, 3, "header"),
        (b"[]", 0, None, "header"),
        (b"[" * 10_000, 0, None, "header"),
        (b"\xff\xff", 0, None, "header"),
        ({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, 8, None, ""),
        ({"a": entry([2], 0, 8), "b": entry([1], 12, 16)}, 16, None, ""),
        ({"a": entry([2], 0, 8)}, 9, None, ""),
        ({"a": entry([2], 0, 8)}, 7, None, ""),
        ({"a": entry([3], 0, 8)}, 8, None, ""),
        ({"a": entry([2**40, 2**40], 0, 8)}, 8, None, ""),
        ({"a": entry([2**32, 2**32], 0, 0)}, 0, None, ""),
        ({"a": entry([-2, -1], 0, 8)}, 8, None, ""),
        ({"a": entry([2.0], 0, 8)}, 8, None, ""),
        ({"a": entry([True], 0, 4)}, 4, None, ""),
        ({"a": entry([1] * 9, 0, 4)}, 4, None, "a has an impossible shape"),
        ({"a": entry([0, 2**64 - 1], 0, 0)}, 0, None, "a has an impossible shape"),
        ({"a": entry([2], 0, 8, "F8_E4M3")}, 8, None, ""),
        ({"a": entry([8], 0, 8, "F8_E4M3")}, 8, None, "a is of an unknown dtype, F8_E4M3"),
        ({"a": entry([2], 0, 8, ["F32"])}, 8, None, ""),
        ({"a": 1}, 0, None, ""),
    ],
)
def test_a_header_that_is_wrong_is_refused(
    tmp_path: Path, header: object, size: int, claimed: int | None, message: str
) -> None:
    write(tmp_path / "a", header, size, claimed=claimed)
    write_sums(tmp_path / "a")
    with pytest.raises(UserError, match=rf"is damaged \(.*{message}") as caught:
        load_folder(tmp_path / "a", AGENT, found_layout)
    assert len(str(caught.value)) < 500


def test_a_large_file_of_another_shape_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 10**12
    write(tmp_path / "a", {"a": entry([size // 4], 0, size)}, size)
    (tmp_path / "a" / "SHA256SUMS").write_text(f"{'0' * 64}  {TENSORS}\n")
    (tmp_path / "a" / JSON).write_text('{"format": 1}')
    monkeypatch.setattr(tensor_folder.hashlib, "file_digest", None)
    with pytest.raises(UserError, match=r"a is torch.float32 \[250000000000\], not"):
        load_folder(tmp_path / "a", AGENT, lambda *_: {"a": ((2,), torch.float32)})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices in folders")
@pytest.mark.parametrize("name", [JSON, TENSORS, "SHA256SUMS"])
@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
def test_what_is_no_file_is_neither_waited_for_nor_read(
    tmp_path: Path, name: str, kind: str
) -> None:
    save_folder(tmp_path / "a", {}, {}, AGENT)
    path = tmp_path / "a" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(UserError, match=r"no checkpoint in|is not a file|missing"):
        load_folder(tmp_path / "a", AGENT, found_layout)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 10_000, "9" * 10_000, "{}" + " " * 100])
def test_json_that_is_wrong_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.json is damaged \(.*remove it"):
        read_json(tmp_path / "a.json", 50 if "}" in text else 20_000)


def test_a_file_that_may_be_sound_is_not_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_bytes(b'{"author": "\xe4"}')
    with pytest.raises(UserError, match=r"is damaged \(.*byte 0xe4.*\): save its text in UTF-8$"):
        read_json(tmp_path / "a.json", 100)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(.*denied\): make it readable"):
        read_json(tmp_path / "a.json", 100)
