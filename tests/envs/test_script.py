"""Scripts end without a traceback, whatever became of their terminal."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.script import run_script
from envs.sources import minari

COMMANDS = ["train.py --help", "evaluate.py --help", "-m envs.inspect toy/t-v0 --no-plot"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, checkout: Path):
    """Return a function that runs a command of the shell and returns its code and its output."""
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        episode = Episode(np.ones((6, 3)), np.zeros((5, 1)), np.arange(5.0), False)
        minari.write("toy/t-v0", [episode], env="Pendulum-v1", description="")

    def run(command: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=checkout,
            env={**os.environ, "MINARI_DATASETS_PATH": str(folder), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="latin-1",
            check=False,
        )
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_written_to_nowhere(shell, command: str, streams: str) -> None:
    assert shell(f"{sys.executable} {command} {streams}") == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_ended_is_no_error(shell, command: str) -> None:
    # `true` reads nothing, and has ended when the script writes.
    code, printed = shell(f"({sys.executable} {command}; echo code $? >&2) | true")
    assert (code, printed) == (0, "code 1\n")


def test_an_error_is_told_to_whoever_still_reads(shell) -> None:
    lost = f"{sys.executable} -m envs.inspect toy/none-v0"
    for rest in (">&-", "| true"):
        code, printed = shell(f"set -o pipefail; {lost} --no-download {rest}")
        assert code == 2
        assert printed.startswith("\nerror: toy/none-v0 is not")
        assert printed.count("\n") == 2
    assert shell(f"{lost} --no-download 2>&-") == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(shell) -> None:
    code, printed = shell(f"{sys.executable} {COMMANDS[2]} > /dev/full")
    assert code == 1
    assert printed.strip().startswith("error: No space left on device")
    assert printed.count("\n") == 2


def test_what_a_library_prints_gets_into_no_file(shell, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os, sys\n"
        "from envs.script import run_script\n"
        "def main():\n"
        f"    with open({str(tmp_path / 'data')!r}, 'w') as file:\n"
        "        os.write(1, b'from C')\n"
        "        os.write(2, b'from C')\n"
        "        file.write('data')\n"
        "        print('from Python')\n"
        "sys.exit(run_script(main))\n"
    )
    run = f"PYTHONPATH=$PWD {sys.executable} {tmp_path / 'script.py'} <&- >&- 2>&-"
    assert shell(run) == (0, "")
    assert (tmp_path / "data").read_text() == "data"


def test_a_locale_without_a_character_is_no_error(shell, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "from envs.script import run_script\n"
        "sys.exit(run_script(lambda: print('pendülum 名')))\n",
        encoding="utf-8",
    )
    run = f"PYTHONPATH=$PWD {sys.executable} {tmp_path / 'script.py'}"
    assert shell(run, PYTHONIOENCODING="cp1252") == (0, "pendülum \\u540d\n")


@pytest.mark.parametrize(
    ("platform", "error", "code"),
    [
        ("linux", BrokenPipeError(errno.EPIPE, "Broken pipe"), 1),
        ("win32", OSError(errno.EINVAL, "Invalid argument"), 1),
        ("linux", OSError(errno.EINVAL, "Invalid argument"), None),
        ("win32", OSError(errno.EINVAL, "Invalid argument", "data.hdf5"), None),
    ],
)
def test_windows_calls_a_reader_that_has_ended_an_invalid_argument(
    monkeypatch: pytest.MonkeyPatch, platform: str, error: OSError, code: int | None
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "platform", platform)
    if code is not None:
        assert run_script(main) == code
    else:
        with pytest.raises(OSError, match="Invalid argument"):
            run_script(main)


def test_a_path_in_another_encoding_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        # What TensorBoard and safetensors do with it.
        b"/data/\xe4".decode("ascii", "surrogateescape").encode()

    assert run_script(main) == 2
    told = "'/data/\\udce4' is not in the encoding of this locale; set LC_ALL=C.UTF-8, or rename"
    assert capsys.readouterr().err == f"\nerror: {told} the file or the folder\n"

    def other() -> None:
        "ä".encode("ascii")

    with pytest.raises(UnicodeEncodeError):
        run_script(other)


def test_a_users_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("no data; name some")

    assert run_script(main) == 2
    assert capsys.readouterr() == ("", "\nerror: no data; name some\n")
