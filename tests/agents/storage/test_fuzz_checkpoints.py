"""Mutated checkpoints, a few of many: python -m tests.tools.fuzz_checkpoints has them all."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.tools import fuzz_checkpoints
from tests.tools.fuzz_loaders import Checkpoints
from tests.tools.fuzz_mutations import mutate


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded as Linux has it")
@pytest.mark.parametrize("what", ["checkpoints", "states"])
def test_what_was_mutated_is_loaded_or_refused_and_runs_no_code(tmp_path: Path, what: str) -> None:
    results = list(fuzz_checkpoints.run(12345, 0, 200, tmp_path, what))
    failed = [result for result in results if result["outcome"] not in fuzz_checkpoints.GOOD]
    assert not failed, "\n".join(f"{result}" for result in failed)
    assert len(results) == 200
    assert {r["outcome"] for r in results} == set(fuzz_checkpoints.GOOD), "mutations are too strong"


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    Checkpoints().save(tmp_path / "bases")
    base = tmp_path / "bases" / "mingru"
    for number in range(40):
        case = [tmp_path / f"{number}{letter}" for letter in "ab"]
        about = [mutate(base, path, random.Random(number), Path("canary")) for path in case]
        assert about[0] == about[1]
        for name in ("agent.json", "model.safetensors"):
            files = [path / name for path in case]
            if files[0].is_file() and not files[0].is_symlink() and "whole" not in about[0]:
                assert files[0].read_bytes() == files[1].read_bytes()
