"""The help texts of train.py and evaluate.py, at several widths of the terminal."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
import sys

import pytest

import evaluate
import minrnn
import train
from agents.loggers.base import LOGGERS
from agents.model.heads import HEADS
from agents.model.inputs import OPTIONAL
from agents.training.objectives import OBJECTIVES
from configs import PRESETS

SCRIPTS = {"train.py": train, "evaluate.py": evaluate}
REGISTERED_BY_TESTS = {"mine", "plain-for-test", "toy_td"}
EDGE = 4  # a box's borders, and the space beside each


@functools.cache
def help_text(script, columns, checkout):
    environment = os.environ | {"COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, script, "--help"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_breaks_lines_only_where_the_next_word_does_not_fit(script, columns, checkout):
    text = help_text(script, columns, checkout)
    assert max(map(len, text.splitlines())) <= columns
    lines = [line[1:-1] if line.startswith("│") else "" for line in text.splitlines()]
    wrapped = 0
    for line, following in itertools.pairwise(lines):
        indent = len(following) - len(following.lstrip())
        if indent < 6 or line[:indent].strip() or not following.strip():
            continue  # another option, or the first line of its help
        word = re.findall(r"[^\s,]+,?", following)[0]
        wrapped += 1
        assert len(f"{line.strip()} {word}") > columns - EDGE - indent + 1, (line, following)
    assert wrapped > 5


def test_a_wide_terminal_has_whole_sentences_in_its_two_columns(checkout):
    lines = help_text("train.py", 160, checkout).splitlines()
    left = [re.split("│+", line)[1].strip() for line in lines if line.startswith("│")]
    assert "the same seed and threads give the same weights." in " ".join(left)


@pytest.mark.parametrize("columns", [60, 100, 160])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_description_is_wrapped_to_the_terminal(script, columns, checkout):
    shown = help_text(script, columns, checkout).split("\n\n")[1].splitlines()
    assert max(map(len, shown)) <= columns
    assert " ".join(shown).split() == SCRIPTS[script].DESCRIPTION.split()
    for line, following in itertools.pairwise(shown):
        assert len(f"{line} {following.split()[0]}") > columns - 2


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("--model.backbone", minrnn.available()),
        ("--model.head", HEADS),
        ("--model.inputs", OPTIONAL),
        ("--optim.objective", OBJECTIVES),
        ("--log", LOGGERS),
        ("--preset", PRESETS),
    ],
)
def test_the_help_of_an_option_lists_all_its_values(option, names, checkout):
    text = help_text("train.py", 100, checkout)
    shown = re.split(rf"\n│ {option}[ =]", text)[1].split("\n│ --")[0]
    shown += text.split("\n\n")[1] if option in ("--log", "--model.inputs") else ""
    names = set(names) - REGISTERED_BY_TESTS
    assert names
    assert not names - set(re.findall(r"[\w-]+", shown))


def test_an_option_without_a_value_shows_no_default(checkout):
    for script in SCRIPTS:
        assert not re.search(r"\(default:\s*(│\s*)*(None)?\)", help_text(script, 100, checkout))
