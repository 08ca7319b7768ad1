"""The configuration of a run: frozen dataclasses, one for each concern.

The docstring under a field is its help text. ``None`` means "choose for me": configs.choices makes
that choice from the data, and a run saves the configuration with all choices made. Nothing here
imports torch, so that ``--help`` is instant.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Tokens = Literal["fused", "interleaved"]
Memory = Literal["carry", "window"]
Engine = Literal["auto", "numba", "onnx", "eager"]
Stepper = Literal["gymnasium", "envpool"]
Preset = Literal[
    "default", "smoke", "paper-mingru", "paper-minlstm",
    "dt", "daaren", "ds4", "dmamba", "dxlstm", "drwkv", "dlstm", "dgru",
]  # fmt: skip

CELL_OPTIONS = ("expansion", "candidate", "forget_bias", "learn_initial_state", "signed")
"""Fields of ModelConfig that are options of cells; `cell` holds any others."""


@dataclass(frozen=True)
class ModelConfig:
    """The sequence agent: tokens -> stack of recurrent blocks -> action head."""

    backbone: str = "mingru"
    """The recurrent cell of each block: mingru, minlstm, gru, lstm, attention, aaren, s4d, mamba,
    mlstm, slstm or rwkv; or one name for each layer, as in mingru,attention,mingru."""
    dim: int = 128
    """Width of the network."""
    num_layers: int = 3
    """Number of blocks; each is a cell and an MLP."""
    expansion: float = 1.0
    """Width of the recurrent state as a multiple of `dim`; any but 1 adds a projection back. This
    and the next four options are for cells that have them: mingru and minlstm have all of them, gru
    and lstm some."""
    candidate: Literal["g", "tanh", "linear"] = "g"
    """The function that the candidate state passes through. `g` is the paper's, which is always
    positive."""
    forget_bias: float | None = None
    """Added to the initial bias of the forget gate: with a larger one the agent remembers longer at
    the start of training. Default: 3 for minlstm, as in the paper's released code, unless mingru or
    lstm is in the same stack; 0 for all others."""
    learn_initial_state: bool = False
    """Learn the state that an episode starts from, as the paper's released code does. Otherwise it
    is zero."""
    signed: bool = False
    """Let the decay of the state be negative, so that the agent can tell odd from even numbers of
    steps (arXiv:2411.12537)."""
    cell: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Other options of the cell, as in --model.cell window 20 num_heads 1. The window of attention
    is counted in tokens; with --model.tokens interleaved a step has three of them."""
    conv: int = 0
    """Width of a causal convolution in front of each cell; the paper uses 4 for language. 0 leaves
    it out."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP as a multiple of `dim`; 0 leaves the MLP out."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation function of the MLP."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation in front of each cell and MLP."""
    dropout: float = 0.0
    """Dropout on the output of each cell and MLP, and on the embedding. Training is steadier
    without it: the state alone remembers which of the data's policies the agent is following."""
    tokens: Tokens = "fused"
    """`fused` has one token for each step, the sum of return and observation. `interleaved` has
    three, as the Decision Transformer has: return, observation, action."""
    inputs: tuple[str, ...] = ()
    """Optional inputs that the agent reads beside return, observation and time. Their names are
    listed above."""
    head: str = "tanh"
    """What predicts the action: tanh (squared error), or tanh_gaussian (log-likelihood of a
    squashed Gaussian; acts by its mean, and samples on request)."""
    prev_action: bool = False
    """Let the agent see its previous action. It made no difference in our trials."""
    rtg_scales: int = 6
    """Number of resolutions at which the return-to-go is embedded, each four times as fine as the
    one before. 0 uses a linear embedding alone."""
    timestep_embedding: int = 0
    """Learn an embedding for each of so many time steps. Episodes cannot be longer than that. 0
    leaves it out."""

    def __post_init__(self) -> None:
        _positive(self, "dim", "num_layers", "expansion")
        _not_negative(self, "mlp_ratio", "timestep_embedding", "rtg_scales")
        if self.rtg_scales > 12:
            raise ValueError(f"rtg-scales must be at most 12, not {self.rtg_scales}")
        _fraction(self, "dropout")

    @property
    def backbones(self) -> tuple[str, ...]:
        """The names in `backbone`: one, or one for each layer."""
        names = tuple(name.strip() for name in self.backbone.split(","))
        if "" in names:
            raise ValueError(f"--model.backbone has an empty name: {self.backbone!r}")
        return names

    @property
    def cell_options(self) -> dict[str, Any]:
        """The options of the cell that were changed, so that a cell need not know all of them."""
        defaults = {f.name: f.default for f in dataclasses.fields(self) if f.name in CELL_OPTIONS}
        given = {name: getattr(self, name) for name in defaults}
        changed = {k: v for k, v in given.items() if v not in (None, 0, defaults[k])}
        return changed | self.cell


@dataclass(frozen=True)
class DataConfig:
    """How episodes become batches."""

    rows: Literal["packed", "windows"] = "windows"
    """`windows`: each row is a piece of one episode, which made better agents in our trials.
    `packed`: whole episodes follow one another in a row, and the state is reset between them."""
    length: int = 64
    """Number of steps in a row."""
    batch_size: int = 20
    """Number of rows in a batch."""
    env_id: str | None = None
    """The environment of a data set that is your own file, such as Hopper-v4 or my_package:My-v0.
    Other data sets name theirs. Needed unless --eval.episodes is 0."""
    env_kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Arguments of the environment, before those that the data set names, as in --data.env-kwargs
    include_cfrc_ext_in_observation False max_episode_steps 100."""
    reset_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """What env.reset(options=...) gets at the start of every episode, as NAME VALUE pairs."""
    obs_keys: tuple[str, ...] = ()
    """The parts of a Dict observation that the agent reads, in their order, as in --data.obs-keys
    observation desired_goal; for a file, those that its columns are. Default: all, sorted by
    name."""
    weights: tuple[float, ...] | None = None
    """With several data sets: how much of the training each of them gets, in any unit. By default
    every step counts the same."""
    download: bool = True
    """Download a data set that is not on this disk. With --data.no-download that is an error."""
    cache: bool = True
    """Keep a copy of large data sets in $MINRNN_CACHE or the folder for caches (on Linux
    ~/.cache/minrnn), so that later runs start quickly and with little memory."""
    return_scale: float | None = None
    """The number that returns-to-go are divided by. Default: the largest absolute return in the
    data."""

    def __post_init__(self) -> None:
        _positive(self, "length", "batch_size", "return_scale")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay. Gates, biases and norms have no weight decay."""

    objective: str = "return_conditioned"
    """What is minimised, by its name in the registry: return_conditioned."""
    objective_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Options of the objective, as in --optim.objective-options discount 0.99."""
    updates: int = 4000
    """Number of gradient steps."""
    lr: float = 1e-3
    """Largest learning rate, reached after the warm-up."""
    warmup: int = 200
    """Number of updates over which the learning rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate after the warm-up: `cosine` falls to zero at the last update, `constant`
    stays."""
    weight_decay: float = 1e-4
    """Decoupled weight decay, as in AdamW."""
    clip: float = 0.25
    """Gradients of a larger norm are scaled down to it. 0 leaves them as they are."""
    ema: float = 0.0
    """Act with an exponential moving average of the weights that has this decay, for example 0.999.
    0 acts with the weights themselves."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` computes matrix products under autocast, which is faster on recent GPUs. The
    recurrent state stays float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step with torch.compile; on a GPU it is then replayed as CUDA graphs.
    `auto` compiles on a GPU alone. It needs a C++ compiler, and the first update takes up to a
    minute."""

    def __post_init__(self) -> None:
        _positive(self, "updates", "lr")
        _not_negative(self, "warmup", "weight_decay", "clip")
        _fraction(self, "ema")


@dataclass(frozen=True)
class EvalConfig:
    """How the agent is evaluated in its environment."""

    targets: tuple[float, ...] | None = None
    """Target returns that the agent is asked for. Default: the 10, 30, 50, 70 and 90 % quantiles of
    the data's returns, and the best. A target beyond the data's returns counts as the nearest one
    in the data."""
    episodes: int = 20
    """Number of episodes for each target in the final evaluation; every one of them counts. 0
    trains without evaluation and without the environment. A file of your own then needs no
    --data.env-id: the bounds of actions come from the data, and there is no time limit."""
    num_envs: int = 120
    """Number of environments that are stepped together. It does not change which episodes are
    played."""
    every: int = 1000
    """Number of updates between evaluations during training. 0 evaluates at the end alone."""
    quick_episodes: int = 8
    """Number of episodes for each target in the evaluations during training."""
    memory: Memory = "carry"
    """`carry` keeps the recurrent state through the whole episode. `window` computes it again at
    each step from the last --data.length steps, as the Decision Transformer does."""
    stepper: Stepper = "gymnasium"
    """What steps the environments in the evaluations during training, which choose the best
    checkpoint. `envpool` does it in C++ threads, one for each core; training does not start where
    its environment is not the same. Reported scores are always gymnasium's."""
    seed: int = 10_000
    """Episode i starts from env.reset(seed=seed + i), for every target alike. The best checkpoint
    is chosen with other episodes, whose seeds start at seed + 1,000,000."""

    def __post_init__(self) -> None:
        _positive(self, "num_envs", "quick_episodes")
        _not_negative(self, "episodes", "every", "seed")
        if self.targets is not None and not self.targets:
            raise ValueError("eval.targets is empty: give at least one return, or leave it out")
        if not all(math.isfinite(target) for target in self.targets or ()):
            raise ValueError(f"eval.targets must be finite, not {self.targets}")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the training state is saved, from which --resume continues. It is also saved before and
    after every evaluation and when a run is stopped. Saving does not change what is learnt."""

    every: int = 0
    """Number of updates between saves. 0 saves by the clock alone."""
    seconds: float = 60.0
    """Number of seconds between saves. 0 saves by the number of updates alone."""
    keep: int = 2
    """Number of saved states to keep. Where the newest is damaged, the run is resumed from the one
    before."""

    def __post_init__(self) -> None:
        _positive(self, "keep")
        _not_negative(self, "every", "seconds")


@dataclass(frozen=True)
class Config:
    """Train a return-conditioned recurrent agent on offline data, and evaluate it."""

    preset: Preset = "default"
    """A named set of defaults; every other flag overrides it. `smoke` takes seconds, to see that
    all works. `paper-*` is the paper's set-up on D4RL (100,000 updates, hours on a CPU); for
    Hopper, add --model.dim 256 --optim.lr 1e-4. `d*` are the networks that the paper compares with,
    in the same set-up and with as many parameters: attention (the Decision Transformer), aaren,
    s4d, mamba, mlstm, rwkv, lstm, gru."""
    env: str = "minrnn/hopper/medium-replay-v0"
    """The data set: a Minari id (mujoco/hopper/medium-v0, D4RL/door/human-v2), a D4RL name
    (hopper-medium-replay-v2), the path of an HDF5 file in D4RL's layout (with --data.env-id), or
    minrnn/{hopper,walker2d,halfcheetah}/{medium-replay,medium,expert,medium-expert}-v0 or
    minrnn/pointmaze/{umaze,open,medium,large}-v0, which are generated here at first use. Data sets
    that are not on this disk are downloaded. Several names, separated by commas, are trained on
    together. `python -m envs.inspect NAME` shows a data set."""
    run_dir: Path | None = None
    """Folder for checkpoints, logs and plots. Default: runs/<data set>/<backbone>-seed<N>, with a
    number behind it where that exists."""
    resume: Path | None = None
    """Resume the run in this folder where it was stopped or killed. The result is bit for bit that
    of a run that was never stopped. Its configuration is kept; only --device, --threads,
    --log, --checkpoint.*, --data.cache and --data.download may be changed."""
    resume_if_there: bool = False
    """Resume the run in --run-dir if there is one, and start it otherwise: for commands that are
    restarted automatically, as by torchrun --max-restarts and job queues."""
    seed: int = 0
    """Seed of the weights, the batches and dropout."""
    device: str = "auto"
    """The device to train on: auto (the first GPU if there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """Number of CPU threads for torch. For the default model, two are a little faster than one on
    two free cores, and much slower if one of them is busy. Raise it for wide models and large
    batches."""
    deterministic: bool = False
    """Use a GPU's deterministic algorithms even where they are slower. A CPU always does: there,
    the same seed and threads give the same weights."""
    log: str = "tensorboard"
    """The loggers besides the console and metrics.jsonl, separated by commas, or none. Their names
    are listed above."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        _positive(self, "threads")
        _not_negative(self, "seed")


def to_dict(config: Any) -> dict[str, Any]:
    """Return `config` as plain JSON types."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{_flag(name)} must be positive, not {value}")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{_flag(name)} must not be negative, not {getattr(config, name)}")


def _fraction(config: Any, name: str) -> None:
    if not 0 <= getattr(config, name) < 1:
        raise ValueError(f"{_flag(name)} must be in [0, 1), not {getattr(config, name)}")


def _flag(name: str) -> str:
    return name.replace("_", "-")
