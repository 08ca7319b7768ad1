"""The README's code is run as it stands, and its links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from agents.storage.checkpoint import save_checkpoint
from configs import PRESETS, saved, to_dict
from configs.cli import parse
from tests.support.models import tiny_model


def blocks(checkout, language, file="README.md"):
    text = (checkout / file).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def plain_blocks(checkout):
    """Return the blocks that run by themselves: not the one that needs an exported run, which
    tests/agents/acting/test_export.py runs, nor the one that needs a run."""
    found = blocks(checkout, "python")
    return [block for block in found if "onnxruntime" not in block and '"RUN"' not in block]


@pytest.mark.parametrize("number", range(2))
def test_python_blocks_run(checkout, number):
    block = plain_blocks(checkout)[number]
    subprocess.run([sys.executable, "-c", block], cwd=checkout, check=True)


def test_there_are_no_more_python_blocks_than_are_run(checkout):
    assert len(plain_blocks(checkout)) == 2
    assert len(blocks(checkout, "python")) == 4


def test_the_block_that_acts_plays_an_episode(checkout, tmp_path):
    (block,) = [block for block in blocks(checkout, "python") if '"RUN"' in block]
    metadata = {"env_id": "Pendulum-v1", "env_kwargs": {}, "obs_keys": [], "data": "toy/toy-v0"}
    metadata |= {"targets": [30.0], "update": 1, "window": None, "reference": None}
    save_checkpoint(tmp_path / "last", tiny_model(3, 1), metadata)
    names: dict[str, Any] = {}
    exec(block.replace("RUN", str(tmp_path)), names)
    assert names["truncated"]
    assert names["total"] < 0


def test_python_blocks_of_the_docs_run(checkout):
    # tests/hosts/test_docs.py runs those of plugging-in.md, which need other libraries, and
    # tests/test_extending.py those of extending.md.
    pages = [path.name for path in (checkout / "docs").glob("*.md")]
    files = [f"docs/{name}" for name in pages if name not in ("plugging-in.md", "extending.md")]
    found = [block for file in files for block in blocks(checkout, "python", file)]
    assert found
    for block in found:
        subprocess.run([sys.executable, "-c", block], cwd=checkout, check=True)


def test_train_commands_parse(checkout, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    begun = to_dict(parse(["--run-dir", str(run)], ""))
    (run / saved.FILE).write_text(json.dumps(begun), encoding="utf-8")
    lines = [line for block in blocks(checkout, "bash") for line in block.splitlines()]
    commands = [part.strip() for line in lines for part in line.split("&&")]
    runs = [shlex.split(c, comments=True) for c in commands if "train.py" in shlex.split(c)]
    train = [
        [str(run) if word == "RUN" else word for word in words[words.index("train.py") + 1 :]]
        for words in runs
    ]
    assert sum(str(run) in arguments for arguments in train) == 2  # --resume, --resume-if-there
    assert [] in train  # the plain command is there
    for arguments in train:
        if arguments != ["--help"]:
            assert parse(arguments, "").preset in PRESETS


MODULES = {
    "evaluate.py": "evaluate.py agents/evaluation/spec.py",
    "-m envs.sources.policies": "envs/sources/policies.py",
    "-m envs.behaviour.train_sac": "envs/behaviour/train_sac.py",
    "-m envs.sources.arrays": "envs/sources/arrays.py",
}


@pytest.mark.parametrize("module", MODULES)
def test_flags_of_the_other_commands_exist(checkout, module):
    text = (checkout / "README.md").read_text(encoding="utf-8")
    commands = re.findall(rf"python {re.escape(module)}([^`\n]*)", text)
    assert commands
    files = MODULES[module].split()
    source = "".join((checkout / file).read_text(encoding="utf-8") for file in files)
    for flag in re.findall(r"--([a-z-]+)", " ".join(commands)):
        declared = f'"--{flag}"' in source or f"    {flag.replace('-', '_')}:" in source
        assert declared or flag == "help", flag


def test_nothing_is_left_to_fill_in(checkout):
    assert "_HERE" not in (checkout / "README.md").read_text(encoding="utf-8")


def test_the_test_command_is_the_one_of_the_gate(checkout):
    install, test = 'pip install -e ".[dev]" -c constraints.txt', "pytest -n auto"
    assert f"{install} && {test}" in (checkout / "README.md").read_text("utf-8").splitlines()
    gate = (checkout / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in gate  # each check stops the gate
    checks = [install, "ruff check .", "ruff format --check .", "pyright", test]
    assert [line for line in gate if line in checks] == checks


def pages(checkout):
    return [checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))]


def headings(page):
    """Return the anchors of a page's headings, as they are linked to."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in found]


def test_links_lead_to_files_and_headings(checkout):
    links = [
        (page, link)
        for page in pages(checkout)
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 10
    for page, link in links:
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not heading or heading in headings(target), f"{page.name}: {link}"


def test_the_modules_that_have_moved_are_where_the_changelog_says(checkout):
    text = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 50
    for old, new in rows:
        folder = checkout
        for name in re.findall(r"`((?:agents|configs|envs)?\.[\w.]+)`", new):
            start = folder if name.startswith(".") else checkout
            path = start.joinpath(*name.strip(".").split("."))
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{old}: {name}"
            folder = path.parent


NAMED = r"`((?:agents|envs|minrnn|configs|tests|benchmarks)/[\w/]+\.\w+|docs/[\w.-]+)`"


def test_files_and_modules_that_pages_name_exist(checkout):
    missing = []
    for page in [*pages(checkout), checkout / "SECURITY.md", checkout / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        files = set(re.findall(NAMED, text))
        modules = re.findall(r"-m ((?:agents|envs|minrnn|tests|benchmarks)(?:\.\w+)+)", text)
        files |= {module.replace(".", "/") for module in modules}
        for name in sorted(files):
            path = checkout / name
            if not (path.exists() or path.with_suffix(".py").exists()):
                missing.append(f"{page.name}: {name}")
    assert not missing


def test_the_tests_that_the_faults_name_are_there(checkout):
    text = (checkout / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = text.split("| fault | what happens | test |\n")[1].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[1:]]
    assert len(rows) > 20
    for fault, _, tests in rows:
        names = re.findall(r"`([^`]+)`", tests)
        assert names, fault
        for name in names:
            assert name.startswith("tests/"), f"{fault}: {name}"
            assert (checkout / name).is_file(), f"{fault}: {name}"
