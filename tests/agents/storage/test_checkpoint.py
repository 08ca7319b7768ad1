"""A checkpoint folder acts alone, appears whole or not at all, and says what is wrong with it."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agents.acting.policy import Policy
from agents.storage import tensor_folder
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.storage.folder_formats import AGENT
from envs import files
from envs.errors import UserError
from envs.files import write_json
from tests.support.models import tiny_model
from tests.tools.fuzz_mutations import write_sums

METADATA = {"env_id": "Toy-v0", "data": "toy/toy-v0", "targets": [1.0], "update": 3, "window": None}
METADATA |= {"env_kwargs": {"speed": 2}, "obs_keys": ["a"], "reference": (1.0, 2.0, "its own")}
METADATA |= {"env_wrappers": [("ClipAction", {})], "reset_options": {"goal": 1}, "notes": ["cut"]}


@pytest.mark.parametrize("tokens", ["fused", "interleaved"])
def test_a_loaded_model_acts_as_the_saved_one(tmp_path, tokens):
    model = tiny_model(tokens=tokens, prev_action=True, learn_initial_state=True)
    with torch.no_grad():  # statistics that are not the defaults, so that they have to travel
        model.normaliser.obs_mean.add_(0.5)
        model.normaliser.obs_std.mul_(3)
    save_checkpoint(tmp_path / "last", model, METADATA)
    loaded, metadata = load_checkpoint(tmp_path / "last")
    assert metadata == {"format": AGENT.version, **METADATA}
    obs = np.random.default_rng(0).normal(size=(3, 4))
    start, queue = np.ones(3, bool), np.zeros(3, int)
    actions = [Policy(m, [1.0])(obs, np.zeros(3), start, queue) for m in (model, loaded)]
    np.testing.assert_array_equal(*actions)


def test_a_new_checkpoint_takes_the_place_of_the_old_one(tmp_path):
    model = tiny_model()
    save_checkpoint(tmp_path / "last", model, METADATA)
    save_checkpoint(tmp_path / "last", model, {**METADATA, "update": 4})
    assert load_checkpoint(tmp_path / "last")[1]["update"] == 4
    assert os.listdir(tmp_path) == ["last"]


@pytest.mark.parametrize("fails", ["save_file", "_sync", "os.rename"])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, fails):
    model = tiny_model()
    save_checkpoint(tmp_path / "last", model, METADATA)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails == "os.rename":  # the new folder cannot take the place of the old one
        rename = os.rename
        monkeypatch.setattr(
            files.os,
            "rename",
            lambda a, b: full() if ".writing-" in str(a) else rename(a, b),
        )
    else:
        monkeypatch.setattr(tensor_folder if fails == "save_file" else files, fails, full)
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        save_checkpoint(tmp_path / "last", model, {**METADATA, "update": 9})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["last"]
    assert load_checkpoint(tmp_path / "last")[1]["update"] == 3


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    os.rename(tmp_path / "last", tmp_path / ".old-last")
    assert load_checkpoint(tmp_path / "last")[1]["update"] == 3


def test_a_really_full_disk_is_reported_and_leaves_nothing(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (tmp_path / ".writing-results.json").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        write_json(tmp_path / "results.json", {"a": 1})
    assert os.listdir(tmp_path) == []


def test_a_folder_without_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*give the folder of a run"):
        load_checkpoint(tmp_path)


def damage_cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_json(folder):
    (folder / "agent.json").write_text("{")


def damage_option(folder):
    agent = json.loads((folder / "agent.json").read_text())
    agent["model"]["flux"] = 1
    (folder / "agent.json").write_text(json.dumps(agent))


def damage_shape(folder):
    agent = json.loads((folder / "agent.json").read_text())
    agent["model"]["dim"] = 32
    (folder / "agent.json").write_text(json.dumps(agent))


def damage_metadata(folder):
    agent = json.loads((folder / "agent.json").read_text())
    del agent["targets"]
    (folder / "agent.json").write_text(json.dumps(agent))


def damage_last_byte(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")


def damage_sums(folder):
    (folder / "SHA256SUMS").write_bytes(b"")


@pytest.mark.parametrize("sums", ["kept", "its own"])
@pytest.mark.parametrize(
    "damage",
    [damage_cut, damage_json, damage_option, damage_shape, damage_metadata],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage, sums):
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    damage(tmp_path / "last")
    if sums == "its own":
        write_sums(tmp_path / "last")
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(tmp_path / "last")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [damage_last_byte, damage_sums])
def test_checksums_find_what_nothing_else_would(tmp_path, damage):
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    damage(tmp_path / "last")
    with pytest.raises(UserError, match="SHA256SUMS"):
        load_checkpoint(tmp_path / "last")


def test_checksums_are_those_of_sha256sum(tmp_path):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    done = subprocess.run(command, cwd=tmp_path / "last", capture_output=True, text=True)
    assert done.stdout == "agent.json: OK\nmodel.safetensors: OK\n"


def test_a_checkpoint_of_format_1_has_no_checksums_and_is_read(tmp_path):
    model, folder = tiny_model(), tmp_path / "last"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    agent = {"format": 1, "model": dataclasses.asdict(model.config), **METADATA}
    for later in ("env_kwargs", "obs_keys", "reference", "env_wrappers", "reset_options", "notes"):
        del agent[later]
    (folder / "agent.json").write_text(json.dumps(agent))
    loaded, metadata = load_checkpoint(folder)
    assert (metadata["env_kwargs"], metadata["obs_keys"], metadata["reference"]) == ({}, [], None)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_loading_draws_no_random_numbers(tmp_path):
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "last")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_link_to_a_checkpoint_is_replaced_and_what_it_leads_to_stays(tmp_path):
    save_checkpoint(tmp_path / "kept", tiny_model(), METADATA)
    (tmp_path / "last").symlink_to(tmp_path / "kept")
    for update in (4, 5):
        save_checkpoint(tmp_path / "last", tiny_model(), {**METADATA, "update": update})
        assert load_checkpoint(tmp_path / "last")[1]["update"] == update
    assert load_checkpoint(tmp_path / "kept")[1]["update"] == 3
    assert sorted(os.listdir(tmp_path)) == ["kept", "last"]


def test_a_newer_format_is_named(tmp_path):
    save_checkpoint(tmp_path / "last", tiny_model(), METADATA)
    file = tmp_path / "last" / "agent.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    (tmp_path / "last" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="newer minrnn"):
        load_checkpoint(tmp_path / "last")
