"""The recipe: what to train, on what data, and how. docs/recipe.md lists every key; `recipe_file` reads it.

Frozen, keyword-only dataclasses that check themselves when they are made; each key is a field, with its rule and its
meaning in the field's metadata (docs/recipe.md is made of them). An error names the key.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from git_gru.train.recipe_sync import SyncRecipe
from git_gru.train.section import RecipeError, Section
from git_gru.train.section import key as _key
from git_gru.train.section import required as _required

__all__ = [
    "TASK_DATA",
    "DataRecipe",
    "GuardRecipe",
    "LaunchRecipe",
    "ModelRecipe",
    "Recipe",
    "SyncRecipe",
    "TrainRecipe",
]

TASK_DATA = {
    "language-model": "text",
    "forecaster": "series",
    "classifier": "labelled",
    "entrypoint": "files",
}
"""The kind of data that each task learns from."""


def is_path_inside(path: str) -> bool:
    """Whether `path` leads from the repository's top to a place in it, as a tree has it."""
    return not path.startswith("/") and not {"", ".", "..", ".git"} & set(path.split("/"))


@dataclass(frozen=True, kw_only=True)
class ModelRecipe(Section):
    """`[model]`: the network and the file that holds it."""

    name: ClassVar[str] = "model"

    path: str = _key(
        "model.safetensors", "file of the model in the commit; when it is there, training starts from it"
    )
    kind: str = _key("gru", "the network", choices=("gru",))
    task: str = _key("language-model", "what it learns to do", choices=tuple(TASK_DATA))
    entrypoint: str = _key(
        "", "task `entrypoint`: `package.module:function` in the commit, your own network, data and loss"
    )
    embedding: int = _key(64, "size of a symbol's embedding (not for forecasters)", least=1, most=65536)
    hidden: int = _key(256, "hidden units of a layer, in each direction", least=1, most=65536)
    layers: int = _key(1, "stacked GRU layers", least=1, most=64)
    bidirectional: bool = _key(False, "read in both directions (forecaster and classifier)")
    dropout: float = _key(0.0, "share of units dropped between layers while training", least=0, below=1)
    tied: bool = _key(
        False, "language model: the output layer uses the embedding's weights (needs embedding = hidden)"
    )
    dtype: str = _key("fp32", "how weights are kept in commits", choices=("fp32", "bf16"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_entrypoint()
        if self.bidirectional and self.task == "language-model":
            raise RecipeError("model.bidirectional: a language model must not read what it is to predict")
        if self.tied and self.task != "language-model":
            raise RecipeError(f'model.tied is for language models, and model.task is "{self.task}"')
        if self.tied and self.embedding != self.hidden:
            raise RecipeError(
                f"model.tied needs model.embedding = model.hidden, and they are {self.embedding} and {self.hidden}"
            )
        if not is_path_inside(self.path):
            raise RecipeError(f"model.path must be a path inside the repository, not {self.path!r}")

    def _check_entrypoint(self) -> None:
        if self.task != "entrypoint":
            if self.entrypoint:
                raise RecipeError(
                    f'model.entrypoint is for model.task = "entrypoint", and it is "{self.task}"'
                )
            return
        module, _, function = self.entrypoint.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), function)):
            raise RecipeError(
                f'model.task = "entrypoint" needs model.entrypoint = "package.module:function", not {self.entrypoint!r}'
            )


@dataclass(frozen=True, kw_only=True)
class DataRecipe(Section):
    """`[data]`: which files of the commit are learnt from, and which part of them is kept for validation."""

    name: ClassVar[str] = "data"

    kind: str = _key("text", "what the files hold", choices=tuple(TASK_DATA.values()))
    files: tuple[str, ...] = _required("globs over the commit's files (`**` crosses folders)")
    window: int = _key(
        64,
        "text: symbols of a sample; series: rows that a forecast looks back on; labelled: bytes of a sequence, "
        "longer ones are cut",
        least=1,
        most=1 << 20,
    )
    validation: float = _key(
        0.05,
        "share kept for validation. Text: the end of every file; series: the last rows; labelled: chosen by a hash",
        above=0,
        most=0.5,
    )
    validation_files: tuple[str, ...] = _key(
        (), "globs of the files kept for validation, in place of `validation`; they are never trained on"
    )
    tokens: str = _key(
        "bytes",
        "text: its symbols. `bpe`: byte pairs, learnt from the training data (by the tokenizers library), kept with the model",
        choices=("bytes", "bpe"),
        only="text",
    )
    vocabulary: int = _key(
        4096, "text, `bpe`: symbols to learn, the 256 bytes among them", least=257, most=1 << 20, only="text"
    )
    tokenizer: str = _key(
        "",
        "text, `bpe`: a tokenizer.json in the commit (byte-level BPE) instead of one that is learnt",
        only="text",
    )
    stateful: bool = _key(
        False,
        "text: a batch is so many streams through the text, and the state is carried from window to window",
        only="text",
    )
    targets: tuple[str, ...] = _key((), "series: the columns to forecast", only="series")
    exogenous: tuple[str, ...] = _key(
        (), "series: columns that are looked back on, and not forecast", only="series"
    )
    time: str = _key(
        "", "series: the column of the time (numbers or ISO dates), which must rise", only="series"
    )
    series: str = _key(
        "", "series: the column that names the series of a row; without it every file is one", only="series"
    )
    horizon: int = _key(1, "series: rows to forecast", least=1, most=1 << 16, only="series")
    season: int = _key(
        1,
        "series: rows of a season; the naive forecast to compare with repeats the last one",
        least=1,
        most=1 << 16,
        only="series",
    )
    text: str = _key("text", "labelled: the column (CSV) or key (JSONL) of the sequence", only="labelled")
    label: str = _key("label", "labelled: the column or key of the label", only="labelled")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise RecipeError("data.files must name at least one glob")
        if self.tokens == "bytes" and self.tokenizer:
            raise RecipeError('data.tokenizer is for data.tokens = "bpe"')
        if self.kind == "series":
            self._check_series()

    def _check_series(self) -> None:
        if not self.targets:
            raise RecipeError('data.kind = "series" needs data.targets, the columns to forecast')
        columns = (*self.targets, *self.exogenous, *filter(None, (self.time, self.series)))
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise RecipeError(
                f"data.targets, data.exogenous, data.time and data.series name {twice[0]!r} twice"
            )
        if self.season > self.window:
            raise RecipeError(
                f"data.season is {self.season}, and data.window, of {self.window} rows, must hold a whole season"
            )
        if self.validation_files:
            raise RecipeError("data.validation_files: series are split by time; use data.validation")


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Section):
    """`[train]`: the optimization."""

    name: ClassVar[str] = "train"

    steps: int = _key(1000, "optimizer steps", least=1)
    batch: int = _key(32, "samples of a step, over all workers together", least=1)
    optimizer: str = _key("adamw", "the optimizer", choices=("adamw", "sgd"))
    lr: float = _key(0.003, "peak learning rate", above=0)
    schedule: str = _key("cosine", "the learning rate after the warm-up", choices=("cosine", "constant"))
    warmup: int = _key(20, "steps of linear warm-up", least=0)
    lr_final: float = _key(0.1, "with cosine: share of `lr` reached at the last step", least=0, most=1)
    weight_decay: float = _key(0.01, "weight decay (decoupled in adamw)", least=0)
    momentum: float = _key(0.9, "with sgd: momentum", least=0, below=1)
    beta1: float = _key(0.5, "with adamw: decay of the mean of gradients", least=0, below=1)
    beta2: float = _key(0.99, "with adamw: decay of the mean of their squares", least=0, below=1)
    clip: float = _key(1.0, "largest norm of the gradient; 0 for none", least=0)
    precision: str = _key(
        "fp32", "arithmetic of forward and backward; weights stay fp32", choices=("fp32", "bf16")
    )
    seed: int = _key(0, "seed of weights, order of samples and dropout", least=0, below=2**63)
    eval_every: int = _key(0, "steps between validations besides those at checkpoints; 0 for none", least=0)
    checkpoint_every: int = _key(
        200,
        'steps between checkpoint commits; the last step always makes one. With sync.strategy = "git" each round makes one',
        least=1,
    )
    patience: int = _key(
        0, "checkpoints on end without a lower `val_loss` after which the run ends; 0 for never", least=0
    )
    resume_every: int = _key(
        0,
        "steps between checkpoints whose resume state is kept for good, besides the newest's; 0 for none",
        least=0,
    )
    log_every: int = _key(10, "steps between lines of the run's metrics", least=1)
    deterministic: bool = _key(True, "same seed and same number of workers give the same weights")


@dataclass(frozen=True, kw_only=True)
class BalanceRecipe(Section):
    """`[balance]`: how work is shared among workers of unequal speed."""

    name: ClassVar[str] = "balance"

    mode: str = _key(
        "off", "`adaptive`: a worker takes as many samples as it is fast", choices=("off", "adaptive")
    )
    every: int = _key(
        10,
        "steps between looks at the workers' speeds; where they meet less often, at the end of a round",
        least=1,
        most=100_000,
    )
    threshold: float = _key(
        0.1, "share of a step's time that must be gained for shares to change", least=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class GuardRecipe(Section):
    """`[guard]`: what is watched for while training, and what follows."""

    name: ClassVar[str] = "guard"

    on_divergence: str = _key(
        "stop",
        "`rollback` goes back to the last checkpoint and on with other data",
        choices=("stop", "rollback"),
    )
    check_every: int = _key(10, "steps between looks at losses, gradients and weights", least=1, most=10_000)
    window: int = _key(100, "steps before, by which a loss or a gradient is judged", least=20, most=100_000)
    spike: float = _key(
        12.0,
        "robust standard deviations above the window's median that make a loss a spike; 0: none",
        least=0,
    )
    explosion: float = _key(
        100.0, "times the window's median that make a gradient's norm an explosion; 0: none", least=0
    )
    patience: int = _key(3, "such steps on end before it counts (NaN and Inf count at once)", least=1)
    lr_factor: float = _key(1.0, "what a rollback multiplies the learning rate by", above=0, most=1)
    most_rollbacks: int = _key(3, "rollbacks before the run stops", least=1)
    stall: float = _key(
        300.0,
        "seconds without a step, or a sign of life, after which a worker counts as stalled; 0: never",
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class LaunchRecipe(Section):
    """`[launch]`: the workers."""

    name: ClassVar[str] = "launch"

    nproc: int = _key(1, "workers on this machine (`--nproc`)", least=1, most=4096)
    device: str = _key("auto", "`auto`: a GPU a worker where there are any", choices=("auto", "cpu", "cuda"))
    join_timeout: float = _key(300.0, "`--nnodes`: seconds that a node waits for the others", above=0)
    last_call: float = _key(
        5.0, "`--nnodes MIN:MAX`: seconds for which more nodes are waited for once enough are there", least=0
    )
    lost_after: float = _key(
        15.0, "`--nnodes`: seconds without a sign of life after which a node counts as lost", least=2
    )
    retries: int = _key(
        3,
        "`--nnodes MIN:MAX`: times on end that nodes come together anew without a checkpoint between; then the run fails",
        least=0,
    )
    threads: int = _key(0, "threads of a worker; 0 shares the machine's cores among them", least=0, most=4096)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe."""

    model: ModelRecipe
    data: DataRecipe
    train: TrainRecipe
    sync: SyncRecipe
    balance: BalanceRecipe
    guard: GuardRecipe
    launch: LaunchRecipe

    def __post_init__(self) -> None:
        if self.data.kind != (wanted := TASK_DATA[self.model.task]):
            raise RecipeError(
                f'model.task = "{self.model.task}" learns from data.kind = "{wanted}", not "{self.data.kind}"'
            )
        if self.data.stateful and self.balance.mode != "off":
            raise RecipeError(
                "balance.mode: with data.stateful a worker keeps its rows of the batch, so shares cannot change"
            )
        if self.data.stateful and self.sync.is_git:
            raise RecipeError(
                'data.stateful: with sync.strategy = "git" all sites would go through the text in the same order'
            )
        if self.sync.has_warmup and self.sync.warmup >= self.train.steps:
            raise RecipeError(
                f"sync.warmup is {self.sync.warmup}, and must be less than train.steps, which is {self.train.steps}"
            )

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The recipe as plain values, defaults filled in; `recipe_of` makes the same recipe of it."""
        return dataclasses.asdict(self)
