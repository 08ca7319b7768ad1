"""Imports go one way, and each layer brings no more than it says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

OURS = {"minrnn", "envs", "configs", "agents", "train", "evaluate"}
MAY_IMPORT = {
    "minrnn": set(),
    "envs": set(),
    "configs": set(),
    "agents": {"minrnn", "envs", "configs"},
}
NEVER = {
    "minrnn": {"gymnasium", "minari", "numpy", "tyro", "tensorboard"},
    "envs": {"torch"},
    "configs": {"torch", "numpy", "gymnasium"},
}
ROOMS = {
    "envs": (
        *("errors", "files", "script", "worlds", "data", "rollout", "scoring", "behaviour"),
        *("sources", "inspect"),
    ),
    "agents": (
        *("machine", "model", "training", "storage", "loggers", "acting", "evaluation", "report"),
        *("runs",),
    ),
}
"""The folders and modules of each package: one imports only those that stand before it."""


def imported(file: Path) -> set[str]:
    """Return the top-level names of every absolute import in a file, lazy ones included."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def imports_of(node: ast.AST) -> list[str]:
    """Return what a statement imports, in full: modules, or names in them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def between_rooms(folder: Path) -> dict[tuple[str, str], str]:
    """Return the pairs of rooms of which one imports the other, with a file that does so."""
    pairs = {}
    for file in sorted(folder.rglob("*.py")):
        room = file.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in imports_of(node) if room != "__init__" else ():
                if name.count("."):
                    package, other, *_ = name.split(".")
                    if package == folder.name and other != room:
                        pairs[room, other] = str(file)
    return pairs


def above(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return all pairs that follow from these."""
    found = set(pairs)
    while True:
        more = {(a, d) for a, b in found for c, d in pairs if b == c} - found
        if not more:
            return found
        found |= more


def test_no_module_imports_itself_through_others(checkout):
    files = {}
    for file in (file for package in MAY_IMPORT for file in (checkout / package).rglob("*.py")):
        parts = file.relative_to(checkout).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    pairs = set()
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in imports_of(node):
                other = name if name in files else name.rsplit(".", 1)[0]
                if other in files and other != module:
                    pairs.add((module, other))
    assert not [(a, b) for a, b in above(pairs) if a == b]


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_one_way(package, checkout):
    folder = checkout / package
    rooms = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == set(ROOMS[package])
    place = {room: number for number, room in enumerate(ROOMS[package])}
    for (room, other), file in between_rooms(folder).items():
        assert place[other] < place[room], f"{file} of {room} imports {other}, which is above it"


@pytest.mark.parametrize("package", ROOMS)
def test_the_picture_of_the_rooms_is_true(package, checkout):
    page = (checkout / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)[0]
    real = set(between_rooms(checkout / package))
    needed = {
        (a, b)
        for a, b in real
        if not any((a, c) in real and (c, b) in above(real) for c in ROOMS[package])
    }
    wanted = {f"{package}.{a} --> {package}.{b}" for a, b in needed}
    shown = {
        line.strip() for line in picture.splitlines() if f" {package}." in line and "-->" in line
    }
    assert shown == wanted, "the picture should have\n" + "\n".join(sorted(wanted))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package, checkout):
    files = sorted((checkout / package).rglob("*.py"))
    assert files
    for file in files:
        found = imported(file)
        assert not (found & OURS) - MAY_IMPORT[package] - {package}, file
        if file.parent != checkout / "minrnn" / "hosts":  # each adapter imports its host
            assert not found & NEVER.get(package, set()), file


def test_the_library_does_not_know_its_adapters(checkout):
    for file in (checkout / "minrnn").rglob("*.py"):
        if file.parent.name != "hosts":
            assert "minrnn.hosts" not in file.read_text(encoding="utf-8"), file


def test_d4rl_is_never_imported(checkout):
    for package in MAY_IMPORT:
        for file in (checkout / package).rglob("*.py"):
            assert "d4rl" not in imported(file), file


def test_the_library_needs_torch_alone(checkout):
    blocked = ["gymnasium", "minari", "tyro", "matplotlib", "h5py", "agents", "envs", "configs"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import minrnn, torch\n"
        "y, _ = minrnn.Stack(minrnn.StackConfig(dim=8))(torch.zeros(1, 2, 8))\n"
        "minrnn.check_mixer\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def test_the_library_waits_for_no_compiler(checkout):
    # torch._dynamo takes longer to import than all else together.
    code = (
        "import sys, minrnn, torch\n"
        "x, resets = torch.zeros(1, 3, 8), torch.tensor([[True, False, True]])\n"
        "for name in minrnn.available():\n"
        "    stack = minrnn.Stack(minrnn.StackConfig(dim=8, backbone=name))\n"
        "    stack(x, resets=resets)[0].sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def test_every_text_file_has_its_encoding(checkout):
    """The locale's differs between machines: Windows has another for each language."""
    files = [file for name in (*OURS, "benchmarks") for file in (checkout / name).rglob("*.py")]
    for file in (*files, checkout / "train.py", checkout / "evaluate.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert not in_the_locale(node), f"{file}:{node.lineno} names no encoding"


def in_the_locale(call):
    """Whether a call reads or writes text in the locale's encoding."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in options or getattr(getattr(call.func, "value", None), "id", "") == "av":
        return False
    if name in ("read_text", "write_text"):
        return True
    if name in ("run", "Popen", "check_output"):
        return "text" in options
    modes = [a.value for a in (*call.args, *options.values()) if isinstance(a, ast.Constant)]
    modes = [mode for mode in modes if isinstance(mode, str) and re.fullmatch("[rwaxbt+]+", mode)]
    plain = isinstance(call.func, ast.Name) or (not call.args and not options)
    return name in ("open", "fdopen") and not any("b" in m for m in modes) and (modes or plain)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", True),
        ("path.write_text(x)", True),
        ("path.write_text(x, encoding='utf-8')", False),
        ("open(path)", True),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open('rb')", False),
        ("open(path, mode='w', newline='')", True),
        ("self.open(parent, name)", False),
        ("run(command, text=True)", True),
        ("measure(text=x)", False),
    ],
)
def test_calls_without_an_encoding_are_found(code, expected):
    assert bool(in_the_locale(ast.parse(code, mode="eval").body)) is expected
