"""Every block of docs/plugging-in.md runs as it stands, in a process and folder of its own."""

import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

import minrnn
from tests.hosts.test_hosts import HOSTS, is_there

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
with open(os.path.join(ROOT, "docs", "plugging-in.md"), encoding="utf-8") as page:
    TEXT = page.read()
SECTIONS = {part.split("\n")[0]: part for part in TEXT.split("\n## ")[1:]}
BLOCKS = {
    f"{title} {number}": block
    for title, part in SECTIONS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", part, re.DOTALL))
}


def hosts(text):
    return set(re.findall(r"minrnn\.hosts\.(\w+)", text))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_run(name, checkout, tmp_path):
    for host in hosts(BLOCKS[name]) & set(HOSTS):
        if not is_there(host):
            pytest.skip(f"needs {host}")
    env = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, "-c", BLOCKS[name]], cwd=tmp_path, env=env, check=True)


def test_every_host_has_a_section_with_a_block_and_says_what_was_tried(checkout):
    project = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    shown = {host for block in BLOCKS.values() for host in hosts(block)}
    assert shown >= set(HOSTS)
    for host in HOSTS:
        row = re.search(rf"\| `minrnn\[{host}\]` \| `minrnn\.hosts\.{host}` \| (.+) \|", TEXT)
        assert row, host
        (line,) = re.findall(rf"\n{host} = \[(.*)\]", project)
        for wanted in map(Requirement, re.findall(r'"([^"]+)"', line)[1:]):  # after minrnn itself
            tried = re.search(rf"\b{wanted.name.split('[')[0]} ([\d.]+\d)", row[1])
            assert tried, (host, wanted.name)
            assert tried[1] in wanted.specifier, host


def test_the_sizes_of_states_are_those_that_are_said():
    (said,) = re.findall(r"with `dim=128` and two layers (.*?)\.\s", TEXT, re.DOTALL)
    _, *parts = re.split(r"(\d+) for ", said)
    found = {
        name: int(size)
        for size, names in zip(parts[::2], parts[1::2], strict=True)
        for name in re.findall(r"\w+", names)
        if name != "and"
    }
    assert len(found) == 6
    for name, size in found.items():
        config = minrnn.StackConfig(dim=128, num_layers=2, backbone=name)
        assert minrnn.Stack(config).state_size == size, name


def test_no_block_is_outside_of_a_section():
    assert len(BLOCKS) == TEXT.count("```python")
