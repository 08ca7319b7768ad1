"""Every example of docs/extending.md is applied and run as it stands, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SECTIONS = {
    part.split("\n")[0]: part
    for part in PAGE.read_text(encoding="utf-8").split("\n## How to add ")[1:]
}
NEEDED = ("agents", "configs", "envs", "minrnn", "train.py", "evaluate.py")
"""What the examples import or change."""


def blocks(section: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a section."""
    return re.findall(r"```(diff|python)\n(.*?)```", SECTIONS[section], re.DOTALL)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_works(section, checkout, tmp_path):
    root = checkout
    if any(language == "diff" for language, _ in blocks(section)):
        root = tmp_path / "checkout"
        root.mkdir()
        for name in NEEDED:
            ignore = shutil.ignore_patterns("__pycache__")
            copy = shutil.copytree if (checkout / name).is_dir() else shutil.copy
            copy(
                checkout / name,
                root / name,
                **({"ignore": ignore} if copy is shutil.copytree else {}),
            )
    env = os.environ | {"PYTHONPATH": str(root), "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    ran = 0
    for language, text in blocks(section):
        if language == "diff":
            apply = ["git", "apply", "-"]
            subprocess.run(apply, input=text, text=True, cwd=root, env=env, check=True)
        else:
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, env=env, check=True)
            ran += 1
    assert ran, "an example ends with a block that uses what was added"
