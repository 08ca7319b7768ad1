"""What SECURITY.md promises: files that are loaded run no code and reach nothing else."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import h5py
import numpy as np
import pytest
import torch

from agents.evaluation import checkpoints
from agents.loggers.history import read_metrics
from agents.report import grouping, write
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.storage.tensor_folder import SUMS
from agents.storage.training_state import States, capture
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer
from configs import Config, OptimConfig, cli
from configs.options import to_dict
from envs import sources
from envs.behaviour.policy import load_policy
from envs.data import cache
from envs.data.sampler import PackedSampler
from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.scoring.protocol import score_protocol
from envs.sources import arrays, minari
from envs.sources.minari import folder, remote
from envs.worlds.spec import EnvSpec
from tests.support.models import tiny_data, tiny_model

METADATA = {"env_id": "Toy-v0", "data": "a/b-v0", "targets": [1.0], "update": 3, "window": None}
ROOT = Path(__file__).parents[1]
LOADS = ("minrnn", "agents", "envs", "configs", "train.py", "evaluate.py")
FORBIDDEN = (
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill", "joblib", "marshal", "shelve"),
    *("torch.load", "torch.package", "torch.jit.load", "torch.export.load", "torch.hub", "runpy"),
    *("yaml.load", "yaml.unsafe_load", "eval", "exec", "compile", "__import__", "os.system"),
    *("os.popen", "pty.spawn", "shutil.unpack_archive", "tarfile", "urllib.request.urlopen"),
)
ALLOWED = {
    ("envs/rollout/processes.py", "pickle.loads"): "what this program wrote, over a pipe",
    ("minrnn/testing/laws.py", "pickle.loads"): "a module that the test has just pickled",
}


CHOSEN = {
    "agents/acting/engines/__init__.py",  # one of a list
    "agents/acting/export.py",  # one of a list
    "agents/loggers/base.py",  # one of a list
    "envs/worlds/make.py",  # what stands before the colon of an environment's id: see SECURITY.md
    "minrnn/scan/backends.py",  # one of a list
}
"""Files that import a module whose name is not written in the call."""


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Give every call in a program, with the name that is called in full."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, *rest = ast.unparse(node.func).split(".")
            yield ".".join([names.get(first, first), *rest]), node


def called() -> Iterator[tuple[str, str, ast.Call]]:
    """Give every call in what loads: its file, the name that is called in full, and the call."""
    for part in LOADS:
        path = ROOT / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for name, call in calls(file.read_text(encoding="utf-8")):
                yield file.relative_to(ROOT).as_posix(), name, call


def is_forbidden(name: str) -> bool:
    return any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)


@pytest.mark.parametrize(
    "program",
    [
        "import torch\ntorch.load(x)",
        "from torch import load\nload(x)",
        "from torch import load as read\nread(x)",
        "import torch.export as e\ne.load(x)",
        "def f():\n  import pickle as p\n  p.loads(x)",
        "import urllib.request\nurllib.request.urlopen(x)",
        "import dill\ndill.load(x)",
        "eval(x)",
    ],
)
def test_what_is_forbidden_is_found_by_any_name(program: str) -> None:
    assert [name for name, _ in calls(program) if is_forbidden(name)]


def test_nothing_that_loads_can_run_what_it_has_loaded() -> None:
    found = {(file, name) for file, name, _ in called() if is_forbidden(name)}
    assert found == set(ALLOWED)


def test_modules_are_imported_by_names_that_are_written_here() -> None:
    found = {
        file
        for file, name, call in called()
        if name == "importlib.import_module" and not isinstance(call.args[0], ast.Constant)
    }
    assert found == CHOSEN


def test_numpy_is_never_allowed_to_unpickle_and_nothing_goes_through_a_shell() -> None:
    seen = 0
    for file, name, call in called():
        for keyword in call.keywords:
            if keyword.arg in ("allow_pickle", "shell"):
                assert ast.unparse(keyword.value) == "False", f"{file}: {ast.unparse(call)}"
                seen += keyword.arg == "allow_pickle"
        if name.startswith("subprocess."):
            assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), f"{file}: {name}"
    assert seen > 2


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path) -> Iterator[None]:
    yield
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path.parent / "escaped").exists()


def as_pickle(path: Path, canary: Canary) -> None:
    path.write_bytes(pickle.dumps({"observations": canary}))


def as_torch(path: Path, canary: Canary) -> None:
    torch.save({"obs_mean": canary}, path)


def as_objects(path: Path, canary: Canary) -> None:
    buffer = io.BytesIO()
    objects = np.array([canary], dtype=object)
    np.savez(buffer, obs=objects, observations=objects, W0=objects, b0=objects)
    path.write_bytes(buffer.getvalue())


def as_escaping_zip(path: Path, canary: Canary) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("../escaped", "../../escaped.npy", "/tmp/escaped/obs.npy"):
            file.writestr(name, pickle.dumps(canary))


def as_hdf5(path: Path, canary: Canary) -> None:
    with h5py.File(path, "w") as file:
        file["observations"] = np.void(pickle.dumps(canary))
        file["../escaped"] = np.zeros(3)
        file["actions"] = h5py.ExternalLink("/etc/passwd", "/")
        file["rewards"] = h5py.SoftLink("/../../etc/passwd")


def as_nested_json(path: Path, canary: Canary) -> None:
    path.write_bytes(b'{"a":' * 200_000)


def as_link(path: Path, canary: Canary) -> None:
    path.symlink_to("/etc/passwd")


KINDS = (as_pickle, as_torch, as_objects, as_escaping_zip, as_hdf5, as_nested_json, as_link)
Kind = Callable[[Path, Canary], None]


def loaded_as_weights(path: Path) -> None:
    loaded_as_part_of_a_checkpoint(path, "model.safetensors")


def loaded_as_metadata(path: Path) -> None:
    loaded_as_part_of_a_checkpoint(path, "agent.json")


def loaded_as_sums(path: Path) -> None:
    loaded_as_part_of_a_checkpoint(path, SUMS)


def loaded_as_part_of_a_checkpoint(path: Path, name: str) -> None:
    last = path.parent / "last"
    save_checkpoint(last, tiny_model(), METADATA)
    replaced(path, last / name, lambda: load_checkpoint(last))


def loaded_as_weights_of_a_state(path: Path) -> None:
    loaded_as_part_of_a_state(path, "state.safetensors")


def loaded_as_metadata_of_a_state(path: Path) -> None:
    loaded_as_part_of_a_state(path, "state.json")


def loaded_as_sums_of_a_state(path: Path) -> None:
    loaded_as_part_of_a_state(path, SUMS)


def loaded_as_part_of_a_state(path: Path, name: str) -> None:
    states = States(path.parent / "state", 2)
    sampler = PackedSampler(tiny_data(), 4, 8, seed=0)
    trainer = Trainer(
        ReturnConditioned(tiny_model()), sampler, OptimConfig(updates=3), torch.device("cpu")
    )
    states.save("0", *capture(trainer))
    replaced(path, states.folder / "0" / name, lambda: states.restore(trainer, pytest.fail))


def replaced(path: Path, place: Path, load: Callable[[], object]) -> None:
    """Load with the file in the place of another, which its checksum gives away, or does not."""
    place.unlink()
    shutil.move(path, place)
    if place.name != SUMS:
        with pytest.raises(UserError):
            load()
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
        sums = (place.parent / SUMS).read_text()
        mended = re.sub(rf"\w+  {re.escape(place.name)}", f"{digest}  {place.name}", sums)
        assert mended != sums
        (place.parent / SUMS).write_text(mended)
    load()


def loaded_as_configuration(path: Path) -> None:
    run = path.parent / "run"
    run.mkdir()
    shutil.move(path, run / "config.json")
    cli.parse(["--resume", str(run)], "")


def loaded_as_data(path: Path) -> None:
    sources.load(str(path.rename(path.with_suffix(".hdf5"))), env_id=None, evaluate=False)


def loaded_as_archive(path: Path) -> None:
    arrays.read_npz(path.rename(path.with_suffix(".npz")), None)


def loaded_as_policy(path: Path) -> None:
    load_policy(path)


def loaded_as_run(path: Path) -> None:
    beside_a_checkpoint(path, "config.json")


def loaded_as_returns(path: Path) -> None:
    beside_a_checkpoint(path, "data.json")


def beside_a_checkpoint(path: Path, name: str) -> None:
    """Load a run in which the file has this name."""
    save_checkpoint(path.parent / "last", tiny_model(), METADATA)
    shutil.move(path, path.parent / name)
    for checkpoint in checkpoints.find([path.parent], "last"):
        checkpoints.data_returns(checkpoint)


def loaded_as_minari(path: Path) -> None:
    data = folder.root() / "evil/evil-v0" / "data"
    data.mkdir(parents=True)
    shutil.move(path, data / "metadata.json")
    minari.read("evil/evil-v0")


PLACES = (
    *(loaded_as_weights, loaded_as_metadata, loaded_as_run, loaded_as_returns, loaded_as_data),
    *(loaded_as_archive, loaded_as_policy, loaded_as_minari, loaded_as_sums),
    *(loaded_as_weights_of_a_state, loaded_as_metadata_of_a_state, loaded_as_sums_of_a_state),
    loaded_as_configuration,
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_malicious_file_of_each_kind_is_refused_in_each_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: Kind,
    place: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    kind(tmp_path / "evil", Canary(tmp_path / "canary"))
    with pytest.raises((UserError, SystemExit)) as caught:
        place(tmp_path / "evil")
    told = str(caught.value)
    if isinstance(caught.value, SystemExit):  # of the command line, which has told
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert "config.json is damaged" in told
    assert "root:x:0:0" not in told, "what a link leads to is not told"


@pytest.mark.parametrize("kind", KINDS)
def test_a_malicious_log_or_report_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind
) -> None:
    for name in ("metrics.jsonl", "report.json"):
        kind(tmp_path / name, Canary(tmp_path / "canary"))
    assert read_metrics(tmp_path) == []
    write.write_results([], tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["figures"] == []
    told = capsys.readouterr().out
    assert "left out" in told
    assert "root:x:0:0" not in told


def test_objects_in_the_cache_are_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    key = tmp_path / "key"
    key.write_text("key")
    episode = Episode(np.zeros((4, 3)), np.zeros((3, 2)), np.ones(3), terminated=True)

    def make() -> Trajectories:
        return Trajectories.from_episodes([episode], env="Toy-v0", name="toy/toy-v0")

    cache.cached([key], {}, make)
    file = next(tmp_path.glob("cache/*/starts.npy"))
    np.save(file, np.array([Canary(tmp_path / "canary")], dtype=object), allow_pickle=True)
    about = json.loads(file.with_name("about.json").read_text())
    about["sizes"]["starts"] = file.stat().st_size
    file.with_name("about.json").write_text(json.dumps(about))
    with pytest.warns(UserWarning, match="cannot be read"):
        assert cache.cached([key], {}, make).num_episodes == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"seed": [1]}),
        ("config.json", {"data": "x"}),
        ("data.json", {"returns": "x"}),
        ("data.json", {"returns": []}),
        ("data.json", {"returns": [[1.0]]}),
        ("data.json", {"returns": [1.0, float("nan")]}),
    ],
)
def test_json_of_another_shape_beside_a_checkpoint_is_one_line(
    tmp_path: Path, name: str, content: Any
) -> None:
    (tmp_path / "evil").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"\.json .*remove it"):
        beside_a_checkpoint(tmp_path / "evil", name)


@pytest.mark.parametrize(
    "name",
    [
        "../../evil-v0", "/etc/evil-v0", "a/../../evil-v0", "~/evil-v0", "a//../b-v0", "..-v0",
        "C:\\evil-v0", "a\\..\\evil-v0", "a/b-v0\0", "a/b-v0\n", "./a/b-v0", "a/./b-v0",
    ],
)  # fmt: skip
def test_an_id_cannot_leave_its_folder(name: str) -> None:
    assert not folder.is_id(name)
    assert not folder.exists(name)
    with pytest.raises(UserError):
        folder.check_new(name)
    with pytest.raises(UserError):
        remote.download(name, progress=False)
    with pytest.raises((UserError, ValueError)):
        sources.load(name, download=False)


def test_what_files_say_is_printed_and_not_obeyed() -> None:
    entries = score_protocol(
        data="a\x1b[2Jb", env=EnvSpec("E-v0\n\x07", {"a": "\x1b]0;x\x07"}), targets=[1],
        episodes=1, seeds=[0], own=(0.0, 1.0, "b\u202ec"),
    )  # fmt: skip
    lines = grouping.text({"last": entries}, {"last": "last"}).split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum(not line.startswith(" ") for line in lines) == len(entries)


def test_the_words_of_a_configuration_are_those_that_security_md_speaks_of() -> None:
    def words(kind: Any, name: str = "") -> Iterator[str]:
        for key, hint in get_type_hints(kind).items():
            if dataclasses.is_dataclass(hint):
                yield from words(hint, f"{name}{key}.")
            elif get_origin(hint) is not Literal and re.search(r"\bstr\b|Path|Any", str(hint)):
                yield name + key

    assert set(words(Config)) == {
        *("env", "data.env_id", "device"),
        *("data.env_kwargs", "data.reset_options", "data.obs_keys"),  # for that environment
        *("run_dir", "resume"),  # the folder that is given takes their place
        *("model.backbone", "model.cell"),  # names from the registry, and options of theirs
        *("model.head", "model.inputs", "log"),  # names from lists
        *("optim.objective", "optim.objective_options"),  # a name from a list, and its options
    }


def test_a_run_is_resumed_in_its_own_folder(tmp_path: Path) -> None:
    config = Config(run_dir=Path("/elsewhere"), resume=Path("/elsewhere"))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    found = cli.parse(["--resume", str(tmp_path), "--data.no-download"], "")
    assert (found.run_dir, found.resume, found.data.download) == (tmp_path, tmp_path, False)


@pytest.mark.parametrize("name", ["os", "torch.nn.Linear", "package:Cell", "../evil"])
def test_a_backbone_is_no_module_to_import(name: str) -> None:
    with pytest.raises(ValueError, match="cell"):
        tiny_model(backbone=name)


def test_the_promises_name_their_tests() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/.]+)`", text))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).is_file(), name
