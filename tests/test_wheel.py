"""The wheel is minrnn alone, wants torch and numpy alone, and works with nothing else around it.

It is built by its backend, and installed into a virtual environment that sees, of all that is
installed here, torch, numpy and what those two require: nothing is downloaded.
"""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def required(names):
    """Return the distributions of these names and of all that they require, here."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform, say
            continue
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Return the interpreter of an environment with the wheel, torch and numpy."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "-q", str(wheel)], check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(interpreter, code).strip())
    for one in required(["torch", "numpy"]).values():
        tops = {file.parts[0] for file in one.files or [] if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            link, target = packages / top, Path(str(one.locate_file(top)))
            if target.exists() and not link.exists():
                link.symlink_to(target)
    return interpreter


def run(interpreter, code, **env):
    """Return what the code prints, run by itself: no folder of this project on the path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [str(interpreter), "-W", "error", "-I", "-c", code]
    done = subprocess.run(command, env=kept | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_minrnn_alone_and_no_compiled_code(wheel, checkout):
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {name for name in names if name.startswith("minrnn/")}
    assert {name.split("/")[0].split("-")[0] for name in names - code} == {"minrnn"}
    assert all(".dist-info/" in name for name in names - code)
    here = {str(path.relative_to(checkout)) for path in (checkout / "minrnn").rglob("*.py")}
    assert code == {*here, "minrnn/py.typed"}


def test_it_requires_torch_and_numpy_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    found = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)]
    plain = {requirement.name for requirement in found if "extra" not in str(requirement.marker)}
    assert plain == {"torch", "numpy"}


def test_it_works_with_nothing_else_and_no_compiler(python, tmp_path):
    code = (
        "import sys, torch, minrnn\n"
        "stack = minrnn.Stack(minrnn.StackConfig(dim=8, num_layers=1))\n"
        "y, state = stack(torch.randn(2, 5, 8))\n"
        "y.sum().backward()\n"
        "y, state = stack.step(torch.randn(2, 8), state)\n"
        "minrnn.check_mixer\n"
        "print(minrnn.__file__, tuple(y.shape))\n"
        "others = {'numba', 'gymnasium', 'minari', 'agents', 'envs'} & set(sys.modules)\n"
        "assert not others, others\n"
    )
    printed = run(python, code, PATH=str(tmp_path), CC="no-compiler", CXX="no-compiler")
    assert str(Path(python).parents[1]) in printed
    assert "(2, 8)" in printed
    missing = "import importlib.util\nassert importlib.util.find_spec('pytest') is None"
    run(python, missing)


def test_importing_it_loads_nothing_slow_beyond_torch(python):
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import minrnn\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    loaded = set(run(python, code).split())
    others = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    assert others <= {"minrnn", "torch"}
    assert not {"torch._dynamo", "torch._inductor", "torch.export"} & loaded


def test_type_checkers_see_its_types(python, tmp_path):
    pytest.importorskip("pyright")
    script = tmp_path / "user.py"
    script.write_text(
        "import torch\n"
        "import minrnn\n"
        "stack = minrnn.Stack(minrnn.StackConfig(dim=8))\n"
        "reveal_type(stack(torch.zeros(1, 2, 8))[0])\n"
        "minrnn.StackConfig(dim='wide')\n"
    )
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(python), str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'is "Tensor"' in done.stdout, done.stdout
    assert "user.py:5" in done.stdout, done.stdout
    assert "1 error" in done.stdout, done.stdout
