"""What each rank of test_distributed does under torchrun: `ranks_worker.py FOLDER`.

In double precision, where rounding cannot hide an error; each rank saves its weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agents.machine import ranks as distributed
from agents.machine.ranks import ALONE, Ranks
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer, to_tensors
from configs import OptimConfig
from envs.data.sampler import Batch, PackedSampler, WindowSampler
from tests.support.models import tiny_data, tiny_model

KINDS = {"windows": WindowSampler, "packed": PackedSampler}
BATCH = 7
"""Rows; not the same for two ranks."""


def trained(kind: str, ranks: Ranks = ALONE, *, half: bool = False, **optim) -> Trainer:
    """Return a trainer after its updates in double precision; `half` has every other row alone."""
    sampler = KINDS[kind](tiny_data(), BATCH, 12, seed=1)
    if half:
        sampler.shard(0, 2)
    trainer = Doubles(
        ReturnConditioned(tiny_model().double()),
        sampler,
        OptimConfig(updates=40, warmup=10, **optim),
        torch.device("cpu"),
        ranks,
    )
    for _ in trainer.fit():
        pass
    return trainer


class Doubles(Trainer):
    """A Trainer whose batches are doubles."""

    def _backward(self, function, batch):
        floats = (x if x is None or x.dtype != torch.float32 else x.double() for x in batch)
        return super()._backward(function, type(batch)(*floats))


class Loss(nn.Module):
    """The loss as torch's data-parallel wrapper wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch):
        return ReturnConditioned(self.model).loss(Batch(*batch))[0]


def peer_gradients(ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first gradient of torch's DistributedDataParallel and ours, of equal parts."""

    def sampler() -> PackedSampler:
        return PackedSampler(tiny_data(), 8, 12, seed=1)

    model = tiny_model()
    trainer = Trainer(
        ReturnConditioned(model), sampler(), OptimConfig(clip=0.0), torch.device("cpu"), ranks
    )
    next(trainer.fit())
    ours = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    peer, rows = tiny_model(), sampler()
    rows.shard(ranks.rank, ranks.size)
    wrapped = DistributedDataParallel(Loss(peer))
    wrapped(*to_tensors(rows.sample(), torch.device("cpu"))).backward()
    theirs = torch.cat([p.grad.flatten() for p in peer.parameters() if p.grad is not None])
    return theirs, ours


def main(folder: Path) -> None:
    """Leave what this rank found in `folder`."""
    with distributed.join("cpu", seed=3, resumes=True) as (ranks, _):
        found = {}
        for kind in KINDS:
            trainer = trained(kind, ranks, ema=0.9)
            for name, tensor in trainer.acting_model.state_dict().items():
                found[f"{kind}.{name}"] = tensor
            found[f"{kind}.losses"] = torch.stack(trainer.pending["loss"])
        found["theirs"], found["ours"] = peer_gradients(ranks)
        ranks.seed(5)
        found["random"] = torch.rand(3)
        told = ranks.gather({"rank": ranks.rank, "text": "é" * (1 + 5 * ranks.rank)})
        assert told == [{"rank": r, "text": "é" * (1 + 5 * r)} for r in range(ranks.size)]
        mine = {"a": torch.tensor(ranks.rank + 0.5), "b": torch.full((2, 3), ranks.rank)}
        tensors, values = ranks.send(mine, {"from": ranks.rank})
        assert values == {"from": 0}
        assert tensors["a"] == 0.5
        assert tensors["b"].tolist() == [[0] * 3] * 2
        save_file(
            {n: t.contiguous() for n, t in found.items()}, folder / f"{ranks.rank}.safetensors"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
