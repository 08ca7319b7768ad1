"""The compiled kernels of single cells: what each computes, and what torch can rely on."""

import pytest
import torch

from minrnn.scan.backends import backends
from tests.support.kernel_cases import KERNELS, arguments, results

pytestmark = pytest.mark.skipif("numba" not in backends(), reason="needs numba")

NAMES = pytest.mark.parametrize("name", KERNELS)
SHAPES = pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name, kernel in KERNELS.items() for shape in kernel.shapes],
)


@SHAPES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chance", [None, 0.0, 0.02, 0.4, 1.0])
def test_it_is_the_reference_in_float64_and_so_are_its_gradients(name, shape, chance, dtype):
    kernel = KERNELS[name]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for start in (True, False) if kernel.optional else (True,):
        given = arguments(name, shape, chance, dtype)
        if not start:
            given[-2] = None
        exact = [x if x is None or x.dtype == torch.bool else x.detach().double() for x in given]
        exact = [x if x is None or x.dtype == torch.bool else x.requires_grad_() for x in exact]
        got, wanted = results(kernel.function, given), results(kernel.reference, exact)
        for one, other in zip(got, wanted, strict=True):
            scale = tolerance * max(other.abs().max().item(), 1e-3)
            torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=scale)


@NAMES
def test_threads_change_nothing(name, monkeypatch):
    from minrnn.scan.cpu import launch

    counts, spread = [], launch.spread
    monkeypatch.setattr(launch, "GRAIN", 1)
    monkeypatch.setattr(launch, "spread", lambda w, n: counts.append(n) or spread(w, n))
    for shape in KERNELS[name].shapes[:2]:
        found = []
        for threads in (1, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            found.append(results(KERNELS[name].function, arguments(name, shape)))
            assert (max(counts) > 1) == (threads > 1)
            counts.clear()
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@NAMES
def test_any_strides_will_do(name):
    given = arguments(name, KERNELS[name].shapes[0])
    wanted = results(KERNELS[name].function, given)
    strange = [x.detach().transpose(0, -1).contiguous().transpose(0, -1) for x in given]
    strange = [x.requires_grad_(x.is_floating_point()) for x in strange]
    torch.testing.assert_close(results(KERNELS[name].function, strange), wanted)


@NAMES
def test_the_op_is_one_that_torch_can_rely_on(name):
    shape = {"slstm": (2, 6, 2, 3), "wkv": (2, 6, 3)}.get(name, (2, 9, 6, 3))
    torch.library.opcheck(getattr(torch.ops.minrnn, name).default, tuple(arguments(name, shape)))


@NAMES
def test_the_op_refuses_wrong_shapes_and_dtypes(name):
    shape = {"slstm": (2, 6, 2, 3), "wkv": (2, 6, 3)}.get(name, (2, 9, 6, 3))
    given = arguments(name, shape)
    op = getattr(torch.ops.minrnn, name)
    for index in range(1, len(given)):
        for wrong in (given[index][:-1], given[index].to(torch.float16)):
            with pytest.raises(ValueError, match=r"^expected \(.* on a CPU, not"):
                op(*given[:index], wrong, *given[index + 1 :])
