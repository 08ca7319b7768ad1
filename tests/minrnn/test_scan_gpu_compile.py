"""The Triton kernels compiled ahead of time, for chips that need not be here.

`python -m benchmarks.gpu_kernels` compiles all of them; these are the ones with the most registers,
and one of each kind.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.version.hip is not None, reason="Triton has no ptxas here"
)

NAMES = {"forward, summary", "forward", "backward, summary", "backward"}


@pytest.fixture(scope="module")
def compiled(checkout, tmp_path_factory):
    """Return a function from options to what is compiled, in a process without the interpreter."""
    cache = str(tmp_path_factory.mktemp("triton"))

    def run(*options):
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


@pytest.mark.parametrize(
    ("case", "target", "moved"),
    [
        # Words that a fused kernel cannot avoid: 3 and 6 for minGRU, 4 and 8 for minLSTM.
        ("mingru-g-float32", 90, {"forward": 12, "backward": 24}),
        ("minlstm-tanh-float32", 80, {"forward": 16, "backward": 32}),
        ("minlstm-g-bfloat16", 90, {"forward": 10, "backward": 20}),
    ],
)
def test_nothing_spills_and_every_access_is_sixteen_bytes_wide(case, target, moved, compiled):
    kernels = compiled("--cases", case, "--targets", str(target))
    assert {kernel["name"] for kernel in kernels} == NAMES
    for kernel in kernels:
        assert kernel["spilled"] == 0
        assert kernel["narrowest"] == 16
        assert kernel["shared"] <= 48 * 1024  # four programs and more on any chip since sm_80
        assert kernel["moved"] == moved.get(kernel["name"], kernel["moved"])


def test_an_unaligned_input_is_seen_to_be_read_in_words(compiled):
    kernels = compiled("--cases", "linear-linear-float32", "--targets", "80", "--offset", "1")
    found = {kernel["name"]: kernel["narrowest"] for kernel in kernels}
    assert found["carry"] == 16  # its inputs are the scan's own
    assert found["forward"] == found["backward"] == 4
