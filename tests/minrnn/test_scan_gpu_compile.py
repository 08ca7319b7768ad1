"""The Triton kernels compiled ahead of time, for chips that need not be here.

All gates, each with one candidate, and all candidates; both schedules; float32 for one generation
of chips, bfloat16 for another, without Triton's slowest pass, which changes nothing here. With
--long all gates with all candidates in every dtype for both, with that pass: eight minutes of a
core.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu_kernels import CASES

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.version.hip is not None, reason="Triton has no ptxas here"
)

NAMES = {"forward, summary", "forward", "backward, summary", "backward"}


@pytest.fixture(scope="module")
def compiled(checkout, tmp_path_factory):
    """Return a function from options to what is compiled, in a process without the interpreter."""

    def run(*options):
        cache = str(tmp_path_factory.mktemp("triton"))
        env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu_kernels", *options],
            env={**env, "TRITON_CACHE_DIR": cache},
            cwd=checkout,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


# Bytes an element that a fused kernel cannot avoid: 3 and 6 words for minGRU, 4 and 8 for minLSTM.
MOVED = {
    "linear-linear-float32": (12, 20),
    "mingru-g-float32": (12, 24),
    "minlstm-tanh-float32": (16, 32),
    "minlstm-g-bfloat16": (10, 20),
}

SOME = {
    *("linear-linear-float32", "mingru-g-float32", "minlstm-tanh-float32"),
    *("minlstm-raw-linear-float32", "linear-linear-bfloat16", "mingru-tanh-bfloat16"),
    *("minlstm-g-bfloat16", "minlstm-raw-g-bfloat16"),
}


@pytest.mark.slow
def test_no_kernel_spills_and_every_access_is_sixteen_bytes_wide(compiled, pytestconfig):
    plan, flags = {"float32": (90,), "bfloat16": (80,)}, ["--no-coalesce"]
    if pytestconfig.getoption("long"):
        flags = []
        plan = dict.fromkeys(("float32", "bfloat16", "float16", "float64"), (80, 90))
    kernels = []
    for dtype, targets in plan.items():
        cases = [case for case in CASES if case.endswith(f"-{dtype}")]
        assert len(cases) == 10
        if flags:
            cases = [case for case in cases if case in SOME]
            assert len(cases) == 4
        found = compiled("--cases", *cases, "--targets", *map(str, targets), *flags)
        expected = {(case, target) for case in cases for target in targets}
        assert {(k["case"], k["target"]) for k in found} == expected
        kernels += found
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["narrowest"] == 16, kernel
        assert kernel["shared"] <= 48 * 1024, kernel  # more than a block may have by default
    for case, (forward, backward) in MOVED.items():
        found = {k["name"]: k["moved"] for k in kernels if k["case"] == case}
        assert set(found) >= NAMES
        assert (found["forward"], found["backward"]) == (forward, backward)


@pytest.mark.parametrize(
    ("case", "target"), [("mingru-g-float32", "90"), ("minlstm-g-bfloat16", "80")]
)
def test_the_pass_that_is_left_out_changes_nothing(compiled, case, target, pytestconfig):
    if target == "80" and not pytestconfig.getoption("long"):
        pytest.skip("--long compiles for the other generation, too")
    options = ("--cases", case, "--targets", target)
    assert compiled(*options) == compiled(*options, "--no-coalesce")


def test_an_unaligned_input_is_seen_to_be_read_in_words(compiled):
    kernels = compiled("--cases", "linear-linear-float32", "--targets", "80", "--offset", "1")
    found = {kernel["name"]: kernel["narrowest"] for kernel in kernels}
    assert found["carry"] == 16  # its inputs are the scan's own
    assert found["forward"] == found["backward"] == 4
