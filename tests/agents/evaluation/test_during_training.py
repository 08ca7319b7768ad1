"""The metrics of evaluations during training: one for each target, and the score that chooses."""

import numpy as np
import pytest
import torch

from agents.evaluation.during_training import Evaluator
from agents.evaluation.result import Result
from configs import Config, EvalConfig
from tests.support.models import tiny_data, tiny_model


def test_large_targets_that_differ_little_have_metrics_of_their_own(monkeypatch):
    targets = 1234567.8, 1234571.2
    evaluator = Evaluator(
        Config(eval=EvalConfig(targets=targets)), tiny_data(), torch.device("cpu")
    )
    played = [Result(target, np.full(3, target / 2), np.ones(3, int)) for target in targets]
    monkeypatch.setattr(evaluator, "_evaluate", lambda model, spec: played)
    metrics, score = evaluator.quick(tiny_model())
    asked = {name: value for name, value in metrics.items() if name.startswith("return_asked")}
    assert asked == {f"return_asked_{target}": pytest.approx(target / 2) for target in targets}
    assert score == targets[1] / 2
