"""The configuration of a run: frozen dataclasses, one for each concern.

The docstring under a field is its help text. ``None`` means "choose for me"; :func:`resolve` makes
that choice from the data, and the resolved configuration is what a run saves. No torch in here, so
that ``--help`` is instant.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Tokens = Literal["fused", "interleaved"]
Memory = Literal["carry", "window"]
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
    """Sequence mixer, by its name in the registry: mingru, minlstm, gru, lstm, attention, aaren,
    s4d, mamba, mlstm, slstm, rwkv; or one for each layer, as in mingru,attention,mingru."""
    dim: int = 128
    """Width of the residual stream."""
    num_layers: int = 3
    """Number of blocks (mixer and MLP)."""
    expansion: float = 1.0
    """Recurrent state width over `dim`; other than 1 adds a down-projection. This and the next
    four are for cells that have them: mingru and minlstm all, gru and lstm some."""
    candidate: Literal["g", "tanh", "linear"] = "g"
    """What the candidate state passes through; `g` is the paper's positive function."""
    forget_bias: float | None = None
    """Added to the forget gate's initial bias: larger remembers longer at the start of training.
    Default: 3 for minlstm (as the paper's released code), 0 for others, and beside others."""
    learn_initial_state: bool = False
    """Learn the state that an episode starts from, as the paper's released code; else zero."""
    signed: bool = False
    """Let the decay be negative, which tells odd from even (arXiv:2411.12537)."""
    cell: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Other options of the cell, as in --model.cell window 20 num_heads 1. The window of attention
    is in tokens, of which a step has three with --model.tokens interleaved."""
    conv: int = 0
    """Width of a causal convolution before each cell (the paper's for language: 4); 0 has none."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over `dim`; 0 leaves the MLP out."""
    activation: Literal["relu", "gelu"] = "relu"
    """Nonlinearity of the MLP."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation in front of mixer and MLP."""
    dropout: float = 0.0
    """Dropout on the residual branches and the embedding. Steadier without: the state is the only
    memory of which of the data's policies is being followed."""
    tokens: Tokens = "fused"
    """One token a step (return + observation), or three in a row (return, observation, action)."""
    prev_action: bool = False
    """Show the agent its previous action. It made no difference in our trials."""
    rtg_scales: int = 6
    """Resolutions at which the return-to-go is embedded, each 4 x finer; 0 is linear alone."""
    timestep_embedding: int = 0
    """Learn an embedding for that many time steps, which caps the episode length; 0 has none."""

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
    """`packed`: whole episodes end to end, resets inside. `windows`: one piece of one episode."""
    length: int = 64
    """Environment steps in a row."""
    batch_size: int = 20
    """Rows in a batch."""
    env_id: str | None = None
    """The environment of a file of one's own, such as Hopper-v4, or my_package:My-v0; other data
    sets know theirs. Needed unless --eval.episodes is 0."""
    weights: tuple[float, ...] | None = None
    """With several data sets: the share of training steps that each is to have, in any unit.
    Default: every step counts the same."""
    download: bool = True
    """Download what is not on this disk; with --data.no-download that is an error."""
    cache: bool = True
    """Keep a copy of large data sets that later starts map into memory, in $MINRNN_CACHE or
    ~/.cache/minrnn."""
    return_scale: float | None = None
    """What returns-to-go are divided by. Default: the data's largest absolute return."""

    def __post_init__(self) -> None:
        _positive(self, "length", "batch_size", "return_scale")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay; gates, biases and norms are not decayed."""

    updates: int = 4000
    """Gradient steps."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 200
    """Updates of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up; cosine ends at zero."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    clip: float = 0.25
    """Largest norm of the gradient; 0 does not clip."""
    ema: float = 0.0
    """Act with an exponential moving average of the weights of this decay, e.g. 0.999; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` runs matrix products under autocast; the recurrent state stays float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step with torch.compile; on a GPU it is then replayed as CUDA graphs.
    `auto`: on a GPU. It needs a C++ compiler, and takes up to a minute at the first update."""

    def __post_init__(self) -> None:
        _positive(self, "updates", "lr")
        _not_negative(self, "warmup", "weight_decay", "clip")
        _fraction(self, "ema")


@dataclass(frozen=True)
class EvalConfig:
    """How the agent is tried in its environment."""

    targets: tuple[float, ...] | None = None
    """Returns to ask for. Default: the data's 10, 30, 50, 70, 90 % quantiles and its best. What
    lies beyond the data's returns is taken for the nearest there."""
    episodes: int = 20
    """Episodes for each target at the end; every one of them counts. 0 trains without evaluation,
    and without the environment: that of a file of one's own may then stay unnamed, which leaves it
    the bounds of the data's actions, and no time limit."""
    num_envs: int = 120
    """Environments stepped together; it does not change which episodes are played."""
    every: int = 1000
    """Updates between evaluations during training; 0 evaluates at the end only."""
    quick_episodes: int = 8
    """Episodes for each target in the evaluations during training."""
    memory: Memory = "carry"
    """`carry` the state through the episode, or re-run a `window` of the last steps each time."""
    stepper: Stepper = "gymnasium"
    """What steps the environments in the evaluations during training, which choose the best
    checkpoint. `envpool` does it in C++ threads, one for each core; where that is not the same
    environment, training does not start. Scores that are reported are always gymnasium's."""
    seed: int = 10_000
    """Episode i starts from `env.reset(seed=seed + i)`, the same for every target. The episodes
    that choose the best checkpoint are others: theirs start at seed + 1,000,000."""

    def __post_init__(self) -> None:
        _positive(self, "num_envs", "quick_episodes")
        _not_negative(self, "episodes", "every", "seed")
        if self.targets is not None and not self.targets:
            raise ValueError("eval.targets is empty: give at least one return, or leave it out")
        if not all(math.isfinite(target) for target in self.targets or ()):
            raise ValueError(f"eval.targets must be finite, not {self.targets}")


@dataclass(frozen=True)
class CheckpointConfig:
    """What --resume goes on from. It is saved around every evaluation and when a run is stopped,
    too; saving changes nothing in what is learnt."""

    every: int = 0
    """Updates between saves; 0 goes by the clock alone."""
    seconds: float = 60.0
    """Seconds between saves; 0 goes by updates alone."""
    keep: int = 2
    """Saved states to keep; where the newest is damaged, the one before is gone on from."""

    def __post_init__(self) -> None:
        _positive(self, "keep")
        _not_negative(self, "every", "seconds")


@dataclass(frozen=True)
class Config:
    """Train a return-conditioned recurrent agent on offline data, and evaluate it."""

    preset: Preset = "default"
    """Named starting point; every other flag overrides it. `paper-*` is the paper's set-up on
    D4RL (100,000 updates: hours on a CPU); add --model.dim 256 --optim.lr 1e-4 for Hopper. `d*` are
    what it compares with, in that set-up and with as many parameters: attention (the Decision
    Transformer), aaren, s4d, mamba, mlstm, rwkv, lstm, gru."""
    env: str = "minrnn/hopper/medium-replay-v0"
    """Data set: a Minari id (mujoco/hopper/medium-v0, D4RL/door/human-v2), a name of D4RL's
    (hopper-medium-replay-v2), the path of an HDF5 file in D4RL's layout (with --data.env-id), or
    minrnn/{hopper,walker2d,halfcheetah}/{medium-replay,medium,expert,medium-expert}-v0 and
    minrnn/pointmaze/{umaze,open,medium,large}-v0, which are rolled out at first use. What is not on
    this disk is downloaded. Several, separated by commas, are trained on together. Look at one with
    python -m envs.inspect."""
    run_dir: Path | None = None
    """Folder for checkpoints, logs and plots. Default: runs/<data set>/<backbone>-seed<N>."""
    resume: Path | None = None
    """Go on with the run in this folder where it was stopped or killed, to the bit. Its
    configuration is kept; only --device, --threads, --checkpoint.*, --data.cache and
    --data.download may be others."""
    resume_if_there: bool = False
    """Go on with the run in --run-dir where it was begun before: for commands that are begun again
    by themselves, as torchrun --max-restarts and queues do."""
    seed: int = 0
    """Seed of weights, batches and dropout."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads for torch. At the default size two are a little faster where both cores are free
    and much slower where one is not; raise it for wide models and large batches."""
    deterministic: bool = False
    """Take the deterministic algorithms of a GPU where they are slower. A CPU always does: the same
    seed and threads give the same weights."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        _positive(self, "threads")
        _not_negative(self, "seed")


@dataclass(frozen=True)
class DataInfo:
    """What :func:`resolve` needs to know of a data set."""

    env_id: str
    returns: tuple[float, ...]
    """Return of every episode."""
    max_length: int
    """Steps of the longest episode."""
    horizon: int | None
    """Time limit of the environment, where it is known."""


TARGET_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
HAVE_FORGET_BIAS = {"mingru", "minlstm", "lstm"}


def resolve(config: Config, info: DataInfo) -> Config:
    """Return `config` with every choice made: no field that depends on the data is None."""
    best = max(info.returns)
    data, evaluation = config.data, config.eval
    if data.return_scale is None:
        scale = max(abs(best), abs(min(info.returns)))
        data = dataclasses.replace(data, return_scale=float(scale) or 1.0)
    if evaluation.targets is None:
        quantiles = [quantile(info.returns, q) for q in TARGET_QUANTILES]
        # Few or equal episodes give equal quantiles: ask for each once.
        targets = tuple(dict.fromkeys(legible(target) for target in [*quantiles, best]))
        evaluation = dataclasses.replace(evaluation, targets=targets)
    steps = max(info.max_length, info.horizon or 0)
    if 0 < config.model.timestep_embedding < steps:
        raise ValueError(
            f"--model.timestep-embedding {config.model.timestep_embedding} is shorter than an "
            f"episode ({steps} steps): raise it, or use 0 (no embedding)"
        )
    model = config.model
    if model.forget_bias is None:
        bias = 3.0 if HAVE_FORGET_BIAS & {*model.backbones} == {"minlstm"} else 0.0
        model = dataclasses.replace(model, forget_bias=bias)
    return dataclasses.replace(config, model=model, data=data, eval=evaluation)


def legible(value: float) -> float:
    """Return a return to ask for, to four digits, and to a tenth where it has more."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return round(value, max(1, 3 - magnitude))


def quantile(values: tuple[float, ...], q: float) -> float:
    """Return the linearly interpolated `q` quantile of `values` (NumPy's default definition)."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


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
