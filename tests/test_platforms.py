"""Each place that treats a platform in its own way is reached by a test, which is named here."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.machine import device, signals
from agents.report.media import rendering
from agents.runs.folder import make_folder
from benchmarks import acting, timing
from configs import Config
from envs.files import file_name
from envs.rollout import processes, rollout
from envs.script import command
from envs.sources import file
from envs.sources.hdf5.probe import main as probe
from minrnn.scan import backends
from tests.support import windows
from tests.support.small_run import fit, go_on

WINDOWS, SCRIPT = "tests/test_windows.py", "tests/envs/test_script.py"
HERE = "tests/test_platforms.py"
GUARDS = {
    ("agents/machine/device.py", "sys.platform"): (HERE, "test_macos_trains"),
    ("agents/machine/signals.py", "getattr(signal"): (HERE, "test_ctrl_break_is_noted"),
    ("agents/report/media/rendering.py", "sys.platform"): (HERE, "test_macos_draws_in_its_own_way"),
    ("agents/storage/tensor_folder.py", "getattr(os"): (
        WINDOWS,
        "test_a_checkpoint_is_saved_in_place_of_another",
    ),
    ("benchmarks/acting.py", "/proc"): (HERE, "test_benchmarks_measure_without_proc"),
    ("benchmarks/acting.py", "import resource"): (HERE, "test_benchmarks_measure_without_proc"),
    ("benchmarks/acting.py", "sys.platform"): (HERE, "test_benchmarks_measure_without_proc"),
    ("benchmarks/data.py", "/proc"): (HERE, "test_benchmarks_measure_without_proc"),
    ("benchmarks/timing.py", "platform.machine"): (HERE, "test_benchmarks_measure_without_proc"),
    ("benchmarks/timing.py", "/proc"): (HERE, "test_benchmarks_measure_without_proc"),
    ("envs/files.py", "os.name"): (
        WINDOWS,
        "test_what_is_read_for_long_stays_and_the_new_is_refused",
    ),
    ("envs/rollout/processes.py", "hasattr(os"): (HERE, "test_windows_rolls_out_in_processes"),
    ("envs/rollout/processes.py", "hasattr(signal"): (HERE, "test_windows_rolls_out_in_processes"),
    ("envs/script.py", "sys.platform"): (
        SCRIPT,
        "test_windows_calls_a_reader_that_has_ended_an_invalid_argument",
    ),
    ("envs/sources/download/partial.py", "getattr(os"): (WINDOWS, "test_a_download_gets_its_name"),
    ("envs/sources/hdf5/probe.py", "import resource"): (HERE, "test_windows_probes_hdf5"),
    ("minrnn/scan/cpu/launch.py", "hasattr(os"): (HERE, "test_kernels_need_no_fork"),
    ("minrnn/scan/cpu/simd.py", "platform.machine"): (
        "tests/minrnn/test_scan_cpu.py",
        "test_float16_is_converted_without_the_cpus_instructions",
    ),
}
"""The guards of each file, and the test that takes the way of the other platform."""


def guards(path: Path) -> set[str]:
    """Return the guards in a file that depend on the platform."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
        if isinstance(node, ast.Attribute) and text in ("sys.platform", "os.name"):
            found.add(text)
        elif isinstance(node, ast.Call):
            for kind in ("hasattr(os", "hasattr(signal", "getattr(os", "getattr(signal"):
                found |= {kind} if text.startswith(f"{kind},") else set()
            for kind in ("platform.machine", "platform.system"):
                found |= {kind} if text.startswith(kind) else set()
        elif isinstance(node, ast.Constant) and str(node.value).startswith("/proc"):
            found.add("/proc")
        elif isinstance(node, ast.Import) and {"resource", "fcntl", "pwd", "msvcrt"} & {
            alias.name for alias in node.names
        }:
            found.add(text)
    return found


def test_every_guard_is_listed_with_its_test(checkout: Path) -> None:
    packages = ("minrnn", "envs", "agents", "configs", "benchmarks")
    paths = [path for name in packages for path in (checkout / name).rglob("*.py")]
    paths += [checkout / "train.py", checkout / "evaluate.py"]
    found = {(path.relative_to(checkout).as_posix(), g) for path in paths for g in guards(path)}
    assert found == set(GUARDS)
    for path, name in GUARDS.values():
        assert f"def {name}(" in (checkout / path).read_text(encoding="utf-8"), name


def wave(obs, *_):
    """Act by the first observation."""
    return np.sin(obs[:, :1])


def test_macos_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends()  # loads LLVM by the name that it has here
    windows.pretend_macos(monkeypatch)
    device.configure(1)  # there is no mallopt
    assert processes.choose_num_procs(10**9) == os.cpu_count()
    with go_on(tmp_path / "run") as run:
        fit(run)
    assert (tmp_path / "run" / "last").is_dir()


def test_a_linux_without_glibc_has_no_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: object())
    device.configure(1)


def test_macos_draws_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rendering, "_works", lambda name: pytest.fail("EGL is Linux's"))
    rendering.choose_backend("Hopper-v5")
    assert "MUJOCO_GL" not in os.environ
    assert rendering.has_display()


@pytest.mark.parametrize("platform", ["macos", "windows"])
def test_benchmarks_measure_without_proc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str
) -> None:
    from benchmarks.data import _memory as field

    windows.pretend_macos(monkeypatch)
    if platform == "windows":
        monkeypatch.setitem(sys.modules, "resource", None)
    assert timing._cpu()
    assert (acting._memory() > 0) is (platform == "macos")
    assert field("VmHWM") == 0


def test_windows_rolls_out_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(4)
    alone = rollout("Pendulum-v1", wave, seeds)
    windows.pretend(monkeypatch, tmp_path)
    assert processes.choose_num_procs(10**9) == os.cpu_count()
    shared = rollout("Pendulum-v1", wave, seeds, num_envs=2, num_procs=2)
    assert (shared.returns == alone.returns).all()


def test_pipes_of_windows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class PipeConnection:
        def recv(self) -> None:
            return None

    pipe = PipeConnection()  # which is no Connection
    listener = processes._Listener([], 1, lambda _: None)
    listener.talking[pipe] = None  # type: ignore[index]
    monkeypatch.setattr(processes.connection, "wait", lambda pipes, _: pipes)
    listener.wait()
    assert not listener.talking


def test_windows_probes_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = np.zeros(3)
    monkeypatch.setitem(sys.modules, "resource", None)
    probe(str(tmp_path / "a.h5"))


def test_ctrl_break_is_noted(checkout: Path) -> None:
    code = (
        "import os, signal\n"
        "signal.SIGBREAK = signal.SIGUSR1\n"
        "from agents.machine.signals import Stop\n"
        "with Stop() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    assert stop.asked\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)
    assert {signal.SIGINT, signal.SIGTERM} == set(signals._NUMBERS)


def test_kernels_need_no_fork(checkout: Path) -> None:
    code = (
        "import os\n"
        "import torch\n"
        "del os.register_at_fork\n"
        "import minrnn\n"
        "minrnn.scan(torch.rand(1, 2, 16), torch.rand(1, 2, 16))\n"
        "import minrnn.scan.cpu.launch\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("D4RL/door/human-v2", "D4RL-door-human-v2"),
        ("a/b-v0,c/d-v0", "a-b-v0+c-d-v0"),
        ("/data/own.hdf5", "data-own.hdf5"),
        (r"C:\data\own.hdf5", "C--data-own.hdf5"),
        ('what: "is" <this>?', "what- -is- -this--"),
        ("x" * 200, "x" * 100),
    ],
)
def test_one_name_fits_every_platform(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_name(name) == expected
    monkeypatch.chdir(tmp_path)
    windows.pretend(monkeypatch, tmp_path)
    assert make_folder(Config(env=name)).parent == Path("runs") / expected


def test_paths_of_windows_are_told_from_names() -> None:
    assert all(map(file.is_path, ("./a", "../a", "~/a", "/a", r".\a", r"..\a")))
    assert not any(map(file.is_path, ("a/b-v0", "hopper-medium-v2")))


def test_a_command_is_quoted_for_its_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--resume", r"runs\my run", r"C:\x"]
    assert command(arguments) == r"--resume 'runs\my run' 'C:\x'"
    monkeypatch.setattr(sys, "platform", "win32")
    assert command(arguments) == r'--resume "runs\my run" C:\x'
