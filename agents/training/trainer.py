"""The training loop: from batches to gradient steps and metrics. It knows nothing of files."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from agents.training import optimiser
from agents.training.objectives import Objective
from configs import OptimConfig
from envs.data.sampler import Batch, Sampler
from envs.errors import UserError

RESERVED = {"loss", "grad_norm", "lr", "updates_per_second"}  # the trainer's own metrics
_SHOWN = 30  # episodes that a message names


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
    """Minimise an objective over batches: warm-up, clipping, optional autocast and EMA."""

    def __init__(
        self,
        objective: Objective,
        sampler: Sampler,
        config: OptimConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """`objective` and `sampler` have one seed on all ranks; each takes its share of a batch."""
        self.ranks = ranks
        if ranks.size > 1:
            sampler.shard(ranks.rank, ranks.size)
        self.objective = objective.to(device)
        self.sampler, self.config, self.device = sampler, config, device
        groups = objective.param_groups(config.weight_decay)
        self.optimizer = optimiser.make(groups, config, device)
        grouped = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self._parameters = [p for p in objective.parameters() if id(p) in grouped]
        self.average = None
        if config.ema:
            function = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(objective.model, multi_avg_fn=function)
        self.update = 0
        self.pending: dict[str, list[Tensor]] = {}
        """Metrics of the updates since the last call of `metrics`, by name."""
        self.since = 0.0  # when the first of them began
        self.mark_checked()
        self._compiled: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None
        self._proven = 0  # calls of it that went well
        if config.compile == "on" or (config.compile == "auto" and device.type == "cuda"):
            # CUDA graphs: so small a model would spend its time launching kernels.
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            options: Any = {"mode": mode, "fullgraph": True, "dynamic": False}
            self._compiled = torch.compile(self.objective.loss, **options)

    @property
    def model(self) -> DecisionModel:
        """The model that is trained."""
        return self.objective.model

    @property
    def acting_model(self) -> DecisionModel:
        """The weights to act with: the moving average where there is one."""
        return self.model if self.average is None else cast(DecisionModel, self.average.module)

    def fit(self) -> Iterator[int]:
        """Train to the end; yield the number of updates made, after each. See also `metrics`."""
        while self.update < self.config.updates:
            for module in (self.objective, self.model):  # a policy puts the model in eval mode
                if not module.training:
                    module.train()
            if not self.pending:
                self.since = time.perf_counter()
            for name, value in self._update().items():
                self.pending.setdefault(name, []).append(value)
            yield self.update

    def metrics(self) -> dict[str, float]:
        """Return the means over the updates since the last call. Raises as `check` does."""
        self.check()
        count = len(self.pending["loss"])
        metrics = {name: torch.stack(values).mean().item() for name, values in self.pending.items()}
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        metrics["updates_per_second"] = count / (time.perf_counter() - self.since)
        self.pending.clear()
        return metrics

    def check(self) -> None:
        """Raise Diverged where a loss or gradient since the last `metrics` is not finite."""
        if not self.pending:
            return
        watched = [torch.stack(self.pending[name]) for name in ("loss", "grad_norm")]
        values = torch.stack(watched).T.tolist()
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
        """Take all updates until now for finite; `check` looks at those that follow."""
        self._checked = self.update, self.sampler.state_dict()

    def _update(self) -> dict[str, Tensor]:
        optimiser.set_lr(self.optimizer, self.config, self.update)
        batch = to_tensors(self.sampler.sample(), self.device)
        self.ranks.seed(self.update)
        metrics = self.ranks.sum(self._parameters, self._gradients(batch))
        limit = self.config.clip or math.inf
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self._parameters, limit)
        self.optimizer.step()
        self.objective.after_update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.update += 1
        return metrics

    def _gradients(self, batch: Batch[Tensor]) -> dict[str, Tensor]:
        # Leave the gradients in the parameters, and return the loss and the objective's metrics.
        if self._compiled is not None:
            try:
                metrics = self._backward(self._compiled, batch)
                self._proven += 1
                return metrics
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # No compiler on this machine, say. A CUDA graph is recorded at the second call.
                if self._proven >= 3:
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                logging.getLogger(__name__).warning(
                    "training continues uncompiled, as with --optim.compile off: %s", reason
                )
                self._compiled = None
        return self._backward(self.objective.loss, batch)

    def _backward(
        self, function: Callable[..., tuple[Tensor, dict[str, Tensor]]], batch: Batch[Tensor]
    ) -> dict[str, Tensor]:
        self.objective.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with self._autocast():
            loss, more = function(batch)
            if self.ranks.size > 1:
                # Before and not after: what is rounded in between is then that of one process.
                loss = loss * self.sampler.share
        loss.backward()
        if taken := RESERVED & more.keys():
            raise UserError(f"the trainer has a metric {min(taken)!r}: rename the objective's")
        # Copies: the next replay of a CUDA graph writes over them.
        metrics = {"loss": loss.detach().clone()}
        for name, value in more.items():
            value = torch.as_tensor(value, device=self.device).detach().float().clone()
            metrics[name] = value * self.sampler.share if self.ranks.size > 1 else value
        return metrics

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()


def to_tensors(batch: Batch[NDArray[Any]], device: torch.device) -> Batch[Tensor]:
    """Return a Batch of tensors on `device`, of a batch of arrays; None stays None."""
    tensors: Any = (
        None if array is None else torch.from_numpy(array).to(device, non_blocking=True)
        for array in batch
    )
    return Batch(*tensors)
