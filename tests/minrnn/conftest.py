from __future__ import annotations

import pytest

from minrnn.scan import kernel_op
from minrnn.scan.backends import backends


@pytest.fixture(params=["kernel", "torch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute cells by their compiled kernels, and in plain torch, as without numba."""
    if request.param == "torch":
        monkeypatch.setattr(kernel_op, "cpu_kernels", lambda _: None)
    elif "numba" not in backends():
        pytest.skip("needs numba")
    return request.param
