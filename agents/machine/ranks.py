"""Training by several processes, one for each device, as `torchrun train.py` starts them.

Every rank takes its own rows of the same batches (see Sampler.shard), so that the gradients of all
ranks sum to those of one process, but for rounding and dropout. DistributedDataParallel would, with
three or more ranks, rebuild its buckets and sum in another order after a restart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from agents.machine import device as runtime
from envs.errors import UserError

if TYPE_CHECKING:
    from agents.machine.signals import Stop

TIMEOUT = timedelta(hours=2)
"""How long a rank waits for another, which may be downloading; torchrun notices dead ranks."""
_LOOK = 10
"""On a GPU, updates between checks whether to stop, since each check waits for the GPU."""
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


class LostRanks(UserError):
    """Another rank has ended or cannot be reached."""


class Ranks:
    """The processes of one training run, as seen by one of them: ALONE, or from `join`."""

    def __init__(self, rank: int = 0, size: int = 1, seed: int = 0) -> None:
        self.rank, self.size, self._seed = rank, size, seed
        self.stop: Stop | None = None  # where signals to this rank are noted
        self._asked: Tensor | None = None

    @property
    def writer(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    @contextmanager
    def first(self) -> Iterator[None]:
        """Context that the first rank of each machine completes before the others enter it."""
        waits = self.size > 1 and int(os.environ["LOCAL_RANK"]) > 0
        if waits:
            self.gather(None)
        yield
        if self.size > 1 and not waits:
            self.gather(None)

    def seed(self, update: int) -> None:
        """Seed torch (for dropout) by the run's seed, the update, the rank and their number."""
        if self.size > 1:
            mixed = np.random.SeedSequence([self._seed, update, self.rank, self.size])
            torch.manual_seed(int(mixed.generate_state(1, np.uint64)[0]))

    def sum(self, parameters: Iterable[Tensor], metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace the parameters' gradients by their sums over all ranks; return the metrics'."""
        if self.size == 1:
            return metrics
        gradients = [p.grad for p in parameters if p.grad is not None]
        asked = self.stop is not None and self.stop.asked
        # One message for all: gradients, metrics, and whether to stop.
        values = [value.reshape(1) for value in metrics.values()]
        flat = torch.cat([*(g.flatten() for g in gradients), *values, values[0].new_zeros(1)])
        flat[-1] = float(asked)
        self._talk(lambda: dist.all_reduce(flat))
        *parts, asked = flat.split([*(g.numel() for g in gradients), *[1] * len(values), 1])
        for gradient, part in zip(gradients, parts, strict=False):
            gradient.copy_(part.view_as(gradient))
        self._asked = asked if self._asked is None else self._asked + asked
        sums = parts[len(gradients) :]
        return {name: value[0] for name, value in zip(metrics, sums, strict=True)}

    def stopping(self, update: int) -> bool:
        """Whether any rank was asked to stop; after an update, all ranks get the same answer."""
        if self._asked is None or (self._asked.is_cuda and update % _LOOK):
            return False
        return bool(self._asked)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks in order; they have to be fit for JSON."""
        if self.size == 1:
            return [value]
        # Not all_gather_object, which unpickles.
        own = torch.from_numpy(np.frombuffer(json.dumps(value).encode(), np.uint8).copy())
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(own)
        self._talk(lambda: dist.all_reduce(sizes))
        texts = torch.zeros(self.size, int(sizes.max()), dtype=torch.uint8)
        texts[self.rank, : len(own)] = own
        self._talk(lambda: dist.all_reduce(texts))
        return [json.loads(bytes(t[:n].tolist())) for t, n in zip(texts, sizes, strict=True)]

    def send(self, tensors: Mapping[str, Tensor], values: Any) -> tuple[dict[str, Tensor], Any]:
        """Return the tensors, in CPU memory, and the values (fit for JSON) that rank 0 passes."""
        if self.size == 1:
            return dict(tensors), values
        kinds = {n: (tuple(t.shape), str(t.dtype).split(".")[-1]) for n, t in tensors.items()}
        values, kinds = self.gather((values, kinds) if self.writer else None)[0]
        received: dict[str, Tensor] = {}
        for name, (shape, dtype) in kinds.items():
            received[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            if self.writer:
                received[name].copy_(tensors[name])
            raw = received[name].reshape(-1).view(torch.uint8)
            self._talk(lambda raw=raw: dist.broadcast(raw, src=0))
        return received, values

    def _talk(self, message: Any) -> None:
        try:
            message()
        except RuntimeError as error:  # all errors of torch.distributed
            if self.stop is not None:
                self.stop.check()  # the others may have stopped already
            # "[.../pair.cc:553] Connection closed by peer [127.0.0.1]:57068. This is ..."
            reason = str(error).strip().splitlines()[0].split("] ", 1)[-1].split(". ")[0]
            raise LostRanks(
                f"rank {self.rank} of {self.size} has lost the others ({reason}): one has failed "
                "or was killed; torchrun --max-restarts 3 restarts all of them, with "
                "--resume-if-there from the last saved state"
            ) from None


ALONE = Ranks()


@contextmanager
def join(device: str, *, seed: int, resumes: bool) -> Iterator[tuple[Ranks, torch.device]]:
    """Context: the ranks that torchrun has started, or this process alone; and its device.

    seed: that of the run, the same on all ranks. Raises UserError where torchrun would restart
    train.py and it is not one that then resumes its run (`resumes`).
    """
    if any(name not in os.environ for name in _TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
        yield ALONE, runtime.select_device(device)
        return
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and not resumes:
        raise UserError(
            "torchrun --max-restarts restarts train.py: add --run-dir RUN --resume-if-there, so "
            "that it resumes its run"
        )
    chosen, backend = choose(device, *(int(os.environ[name]) for name in _TORCHRUN[2:4]))
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    # torchrun keeps one store for all attempts, in which there still are the addresses of the last
    # attempt's processes, which are gone.
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {size}"
    prefix = dist.PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    store = prefix(f"minrnn attempt {attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    yield Ranks(rank, size, seed), chosen
    dist.destroy_process_group()


def choose(device: str, rank: int, ranks: int) -> tuple[torch.device, str]:
    """Return the device of the local rank `rank` of `ranks`, and torch's name of the backend."""
    chosen = runtime.select_device(device)
    if chosen.type != "cuda":
        return chosen, "gloo"
    count = torch.cuda.device_count()
    if chosen.index is None or device == "auto":
        chosen = torch.device("cuda", rank % count)
    torch.cuda.set_device(chosen)
    # NCCL needs a GPU for each rank.
    own = ranks <= count and device in ("auto", "cuda")
    return chosen, "cpu:gloo,cuda:nccl" if own else "gloo"
