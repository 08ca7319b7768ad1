"""The training loop: batches in, gradient steps, metrics out. Knows nothing of files."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import minrnn
from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from configs import OptimConfig
from envs.data.sampler import Batch, PackedSampler, WindowSampler
from envs.errors import UserError

_SHOWN = 30
"""Episodes that a message names."""


class Diverged(UserError):
    """The loss or the gradient of an update is not finite."""

    def __init__(self, update: int, loss: float, norm: float, episodes: list[int]) -> None:
        first = ", ".join(map(str, episodes[:_SHOWN]))
        more = f" and {len(episodes) - _SHOWN} more" if len(episodes) > _SHOWN else ""
        super().__init__(
            f"loss or gradient is not finite at update {update} (loss {loss:g}, gradient {norm:g}; "
            f"its batch has episodes {first}{more}): lower --optim.lr, or look for outliers in "
            "those episodes"
        )
        self.update, self.episodes = update, episodes


class Trainer:
    """Fit a DecisionModel to batches: AdamW, warm-up, clipping, optional autocast and EMA."""

    def __init__(
        self,
        model: DecisionModel,
        sampler: PackedSampler | WindowSampler,
        config: OptimConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """`model` and `sampler` are of one seed on all ranks; each takes its share of a batch."""
        self.ranks = ranks
        if ranks.size > 1:
            sampler.shard(ranks.rank, ranks.size)
        self.model = model.to(device)
        self.sampler, self.config, self.device = sampler, config, device
        self.optimizer = torch.optim.AdamW(
            param_groups(model, config.weight_decay),
            lr=config.lr,
            betas=(0.9, 0.999),
            fused=device.type in ("cpu", "cuda"),
        )
        self.average = None
        if config.ema:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        self.update = 0
        self.losses: list[Tensor] = []  # of the updates since the last `metrics`
        self.norms: list[Tensor] = []
        self.since = 0.0  # when the first of them began
        self.mark_checked()
        self._compiled: Callable[..., Tensor] | None = None
        self._proven = 0  # calls of it that went well
        if config.compile == "on" or (config.compile == "auto" and device.type == "cuda"):
            # CUDA graphs: so small a model would spend its time launching kernels.
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self._compiled = torch.compile(
                self.model.loss, mode=mode, fullgraph=True, dynamic=False
            )

    @property
    def acting_model(self) -> DecisionModel:
        """The weights to act with: the moving average where there is one."""
        return self.model if self.average is None else cast(DecisionModel, self.average.module)

    def fit(self) -> Iterator[int]:
        """Train to the end; yield the number of each update behind it. See also `metrics`."""
        while self.update < self.config.updates:
            if not self.model.training:
                self.model.train()
            if not self.losses:
                self.since = time.perf_counter()
            loss, norm = self._update()
            self.losses.append(loss)
            self.norms.append(norm)
            yield self.update

    def metrics(self) -> dict[str, float]:
        """Return the means over the updates since the last call. Raises as `check` does."""
        self.check()
        metrics = {
            "loss": torch.stack(self.losses).mean().item(),
            "grad_norm": torch.stack(self.norms).mean().item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "updates_per_second": len(self.losses) / (time.perf_counter() - self.since),
        }
        self.losses.clear()
        self.norms.clear()
        return metrics

    def check(self) -> None:
        """Raise Diverged where a loss or gradient since the last `metrics` is not finite.

        Not after every update, as a GPU would have to be waited for.
        """
        if not self.losses:
            return
        values = torch.stack([torch.stack(self.losses), torch.stack(self.norms)]).T.tolist()
        bad = (i for i, pair in enumerate(values) if not all(map(math.isfinite, pair)))
        if (first := next(bad, None)) is not None:
            update = self.update - len(values) + first + 1
            self.sampler.load_state_dict(self._checked[1])
            for _ in range(update - self._checked[0]):
                self.sampler.sample()
            loss, norm = values[first]
            raise Diverged(update, loss, norm, self.sampler.last_episodes())
        self.mark_checked()

    def mark_checked(self) -> None:
        """Take all until now for finite: what comes is looked for from here."""
        self._checked = self.update, self.sampler.state_dict()

    def _update(self) -> tuple[Tensor, Tensor]:
        rate = self.config.lr * schedule(self.config, self.update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = to_tensors(self.sampler.sample(), self.device)
        self.ranks.seed(self.update)
        loss = self._gradients(batch)
        loss = self.ranks.sum(self.model, loss)
        limit = self.config.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.update += 1
        return loss, norm

    def _gradients(self, batch: dict[str, Tensor]) -> Tensor:
        # Leave the gradients in the parameters, and return the loss.
        if self._compiled is not None:
            try:
                loss = self._backward(self._compiled, batch)
                self._proven += 1
                return loss
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # No compiler on this machine, say. A CUDA graph is recorded at the second call.
                if self._proven >= 3:
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                logging.getLogger(__name__).warning(
                    "training goes on uncompiled, as with --optim.compile off: %s", reason
                )
                self._compiled = None
        return self._backward(self.model.loss, batch)

    def _backward(self, function: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with self._autocast():
            loss = function(**batch)
            # Before and not after: what is rounded in between is then that of one process.
            loss = loss * self.sampler.share if self.ranks.size > 1 else loss
        loss.backward()
        return loss.detach().clone()  # the next replay of a CUDA graph writes over it

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()


def to_tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return the arrays of `batch` as tensors on `device`, by name."""
    return {
        name: torch.from_numpy(array).to(device, non_blocking=True)
        for name, array in batch._asdict().items()
    }


def schedule(config: OptimConfig, update: int) -> float:
    """Return the learning rate of `update` (from 0) as a fraction of the peak."""
    if update < config.warmup:
        return (update + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    progress = (update - config.warmup) / max(1, config.updates - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the parameters for AdamW: no decay for gates, biases, norms and embeddings of time.

    A module names its gates in ``no_weight_decay()``; decaying them pulls every gate to one half.
    """
    exempt: set[int] = set()
    for module in model.modules():
        named = dict(module.named_parameters())
        if isinstance(module, minrnn.SequenceMixer):
            exempt.update(id(named[name]) for name in module.no_weight_decay())
        if isinstance(module, nn.Embedding):
            exempt.add(id(module.weight))
    parameters = list(model.parameters())
    exempt.update(id(p) for p in parameters if p.ndim < 2)
    return [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
