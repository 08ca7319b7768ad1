"""The numba backend among threads, processes, caches; and life without it."""

import itertools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from minrnn.scan import backends, mingru_scan, minlstm_scan

pytestmark = pytest.mark.skipif("numba" not in backends(), reason="numba is not installed")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(batch=4, length=300, width=200, dtype=torch.float32):
    """Return h, last and all gradients of one scan."""
    generator = torch.Generator().manual_seed(0)
    k, c = (
        torch.randn(batch, length, width, generator=generator).to(dtype).requires_grad_()
        for _ in range(2)
    )
    h0 = torch.randn(batch, width, generator=generator, requires_grad=True)
    init = torch.randn(width, generator=generator, requires_grad=True)
    resets = torch.rand(batch, length, generator=generator) < 0.05
    h, last = mingru_scan(k, c, h0, resets, "numba", init=init)
    return h, last, *torch.autograd.grad(h.sum() + last.sum(), (k, c, h0, init))


@pytest.mark.parametrize("shape", [(4, 300, 200), (1, 3000, 200), (3, 70, 1031), (200, 40, 33)])
def test_the_number_of_threads_changes_no_bit(shape, threads, monkeypatch):
    threads(1)
    one = run(*shape)
    monkeypatch.setattr(sys.modules["minrnn.scan.cpu.launch"], "GRAIN", 1000)
    for number in (2, 5):
        threads(number)
        for x, y in zip(run(*shape), one, strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("shape", "past"), [((4, 300, 208), True), ((1, 900, 1040), True), ((3, 70, 1031), False)]
)
def test_writing_past_the_caches_changes_no_bit(shape, past, dtype, threads, monkeypatch):
    cpu = sys.modules["minrnn.scan.cpu"]
    threads(1)
    normal = run(*shape, dtype)
    decide, decided = cpu._past_caches, []
    monkeypatch.setattr(cpu, "_LARGE", 0)
    monkeypatch.setattr(cpu.launch, "GRAIN", 1000)
    monkeypatch.setattr(cpu, "_past_caches", lambda *x: decided.append(decide(*x)) or decided[-1])
    for number in (1, 3):
        threads(number)
        for x, y in zip(run(*shape, dtype), normal, strict=True):
            assert torch.equal(x, y)
    assert decided == [past] * 4
    h = torch.zeros(64 * 17)[1 : 64 * 16 + 1].view(1, 64, 16)
    assert not decide(h, [h])  # its rows start in the middle of a line


def test_calls_from_several_threads_at_once(threads, monkeypatch):
    monkeypatch.setattr(sys.modules["minrnn.scan.cpu.launch"], "GRAIN", 1000)
    threads(3)
    wanted = run()
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: run(), range(16)):
            for x, y in zip(got, wanted, strict=True):
                assert torch.equal(x, y)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_of_a_process_that_has_used_threads(method, checkout):
    code = """
import multiprocessing, sys, torch
from minrnn.scan import mingru_scan
torch.set_num_threads(3)
x = torch.linspace(-1, 1, 4 * 800 * 256).view(4, 800, 256)
def end(_=0):  # torch's own threads hang in a forked child, so no arithmetic of its here
    return mingru_scan(x, x, backend="numba")[1][:, :9].tolist()
if __name__ == "__main__":
    wanted = end()
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map_async(end, range(4)).get(60) == [wanted] * 4
"""
    script = checkout / ".pytest_cache" / f"scan_{method}.py"  # spawn imports it by its path
    script.parent.mkdir(exist_ok=True)
    script.write_text(code, encoding="utf-8")
    subprocess.run(
        [sys.executable, script, method],
        check=True,
        timeout=300,
        env={"PYTHONPATH": str(checkout), "PATH": ""},
    )


def test_an_interrupt_frees_nothing_that_a_thread_still_writes_to(checkout):
    code = """
import signal, sys, torch
from minrnn.scan import mingru_scan
torch.set_num_threads(2)
k = torch.randn(64, 512, 256)
mingru_scan(k, k, backend="numba")
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
caught = 0
for i in range(60):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.0005 * (i % 12))
        for _ in range(4):
            mingru_scan(k, k, backend="numba")
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert caught
"""
    python(code, checkout)


def python(code, checkout, **env):
    """Run a script at the checkout and return what it wrote to stderr."""
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(checkout), "PATH": "", **env}
    return subprocess.run(command, check=True, env=env, capture_output=True, text=True).stderr


def test_without_numba_torch_computes_and_one_note_is_logged(checkout):
    code = """
import sys
sys.modules["numba"] = None
import torch
from minrnn.scan import backends, mingru_scan
x = torch.rand(2, 30, 4)
for _ in range(3):
    mingru_scan(x, x)
assert backends() == ("eager",)
try:
    mingru_scan(x, x, backend="numba")
except ValueError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError
"""
    notes = python(code, checkout)
    assert notes.count("numba") == 2, notes  # the package and how to install it, in one line
    assert len(notes.strip().splitlines()) == 1


def test_a_disabled_compiler_is_as_a_missing_one(checkout):
    code = """
import torch
from minrnn.scan import backends, mingru_scan
assert backends() == ("eager",)
mingru_scan(torch.rand(2, 3, 4), torch.rand(2, 3, 4))
"""
    python(code, checkout, NUMBA_DISABLE_JIT="1")


def test_no_place_for_compiled_kernels_is_no_failure(checkout):
    code = """
import torch
from numba.core import caching
from minrnn.scan import mingru_scan
caching.CacheImpl._locator_classes.clear()
x = torch.rand(2, 3, 4)
mingru_scan(x, x, backend="numba")
"""
    python(code, checkout)


def test_a_full_disk_while_a_kernel_is_kept_is_no_failure(checkout, tmp_path):
    code = """
import torch
from numba.core.caching import IndexDataCacheFile
from minrnn.scan import mingru_scan
def full(self, *arguments):
    raise OSError(28, "No space left on device")
IndexDataCacheFile.save = full
x = torch.rand(2, 3, 4)
h, _ = mingru_scan(x, x, backend="numba")
assert torch.allclose(h, mingru_scan(x, x, backend="eager")[0])
"""
    python(code, checkout, NUMBA_CACHE_DIR=str(tmp_path))


def test_a_kernel_of_another_version_of_the_gates_is_not_used(checkout, tmp_path):
    shutil.copytree(checkout / "minrnn", tmp_path / "minrnn")
    code = """
import torch
from minrnn.scan import mingru_scan
x = torch.full((1, 1, 16), 50.0)
print(round(mingru_scan(x, x, backend="numba")[0][0, 0, 0].item(), 3))
"""

    def value():
        command = [sys.executable, "-c", code]
        env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PATH": ""}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True
        )
        return float(done.stdout)

    assert value() == 50.5
    gates = tmp_path / "minrnn/scan/cpu/gates.py"
    gates.write_text(gates.read_text().replace("c + 0.5", "c + 0.75"))
    assert value() == 50.75


def test_each_kernel_has_cache_files_of_its_own():
    # numba names them after the function, and two processes may write them at once.
    from minrnn.scan.cpu import gates, kernels

    names = [
        make(*constants, "float32", False).py_func.__qualname__
        for make in (kernels.forward, kernels.backward)
        for constants in itertools.product(
            gates.GATES.values(), gates.CANDIDATES.values(), ("float32", "bfloat16")
        )
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_inputs_and_states_are_saved(dtype):
    saved = {}

    def pack(x):
        saved[x.untyped_storage().data_ptr()] = x
        return x

    f, i, c = (torch.rand(2, 50, 64, dtype=dtype, requires_grad=True) for _ in range(3))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        h, _ = minlstm_scan(f, i, c)
    assert set(saved) == {x.untyped_storage().data_ptr() for x in (f, i, c, h)}


def test_a_cpu_without_avx_gives_the_same_numbers(checkout, tmp_path):
    """As numba compiles for any CPU of this kind, without float16's instructions on x86."""
    code = f"""
import torch
from minrnn.scan import mingru_scan
from minrnn.scan.cpu.simd import FEATURES
assert FEATURES == {{""}}
generator = torch.Generator().manual_seed(0)
x = torch.randn(2, 50, 70, generator=generator)
found = [mingru_scan(x.to(t), x.to(t), backend="numba")[0] for t in (torch.float32, torch.float16)]
torch.save(found, {str(tmp_path / "found.pt")!r})
"""
    python(code, checkout, NUMBA_CPU_NAME="generic")
    x = torch.randn(2, 50, 70, generator=torch.Generator().manual_seed(0))
    dtypes = torch.float32, torch.float16
    for dtype, found in zip(dtypes, torch.load(tmp_path / "found.pt"), strict=True):
        wanted = mingru_scan(x.to(dtype), x.to(dtype), backend="numba")[0]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_float16_is_converted_without_the_cpus_instructions(monkeypatch):
    import numba

    from minrnn.scan.cpu import simd

    @numba.njit
    def widen(halves, numbers, count):
        x, y = simd.at(halves, "float16"), simd.at(numbers, "float32")
        for i in range(0, count, 16):
            simd.store(y, i, simd.load(x, i, simd.line_of(y)))

    @numba.njit
    def narrow(numbers, halves, count):
        x, y = simd.at(numbers, "float32"), simd.at(halves, "float16")
        for i in range(0, count, 16):
            simd.store(y, i, simd.load(x, i, simd.line_of(x)))

    monkeypatch.setattr(simd, "_HALVES", False)
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    found = torch.full((len(halves),), 7.0)
    widen(halves.data_ptr(), found.data_ptr(), len(halves))
    assert torch.equal(found.nan_to_num(1e9), halves.float().nan_to_num(1e9))
    # Between two neighbours, beside the middle, and all over.
    ordered = halves.float()[halves.isfinite()].sort().values
    middle = (ordered[1:] + ordered[:-1]) / 2
    beside = [torch.nextafter(middle, torch.tensor(end)) for end in (-1e9, 1e9)]
    bits = torch.randint(-(2**31), 2**31, (2**16,), generator=torch.Generator().manual_seed(0))
    others = bits.to(torch.int32).view(torch.float32)
    edges = torch.tensor([65519.996, 65520.0, 65536.0, 1e9, 2.0**-25, 2.0**-24, -0.0, torch.nan])
    numbers = torch.cat([ordered, middle, *beside, others, edges, -edges, halves.float()])
    numbers = numbers[: len(numbers) // 16 * 16].contiguous()
    found = torch.zeros(len(numbers), dtype=torch.float16)
    narrow(numbers.data_ptr(), found.data_ptr(), len(numbers))
    wanted = numbers.to(torch.float16)
    assert torch.equal(found.isnan(), wanted.isnan())
    number = ~wanted.isnan()
    assert torch.equal(found[number].view(torch.int16), wanted[number].view(torch.int16))
