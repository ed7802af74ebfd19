"""The whole schema of an experiment: frozen dataclasses, one comment per field.

An experiment is a Python file with ``get_config() -> Config``. The command line, sweeps and tests all change it by
``override``, which checks names and types.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import tyro

P = TypeVar("P")


class UserError(Exception):
    """A mistake that the user can mend: one clear line, exit code 2, no traceback."""


def option(metavar: str, otherwise: str) -> Any:
    """Annotation of an option that may stay open; --help says ``otherwise`` as its default."""
    return tyro.conf.arg(
        metavar=metavar,
        help_behavior_hint=lambda default: f"(default: {otherwise if default in ('None', '') else default})",
    )


@dataclass(frozen=True)
class DataConfig:
    store: str = "store"  # prepared store to read
    length: int = 50  # events the model sees, L
    reach: Literal["session", "user"] = (
        "session"  # how far back inputs go: this session, or all of the user's
    )
    batch_size: int = 128  # sequences in the global batch, B
    negatives: int = 1  # negatives per target, N
    p_hard: float = 0.5  # share of negatives drawn from real negative feedback, in [0, 1]
    hard_scope: Literal["station", "user"] = (
        "station"  # where hard negatives come from; station falls back to user
    )
    shuffle_events: bool = (
        False  # order each training sequence anew each epoch: for logs whose order means nothing
    )
    prefetch: int = 4  # batches made ahead
    seed: int = 0  # of the order of sequences and of the negatives


@dataclass(frozen=True)
class ModelConfig:
    encoder: Literal["sasrec"] = "sasrec"  # what turns x_BLD into h_BLD
    width: int = 64  # D
    layers: int = 2  # blocks
    heads: int = 1  # attention heads, H; must divide the width
    feed_forward: int = 0  # hidden width of the feed-forward part, F; 0 takes the model's width
    dropout: float = 0.2  # share of activations zeroed in training
    norm: Literal["pre", "post"] = "pre"  # layer norm before or after each sub-layer
    feedback: Literal["none", "add", "gate"] = (
        "gate"  # of past events as input: added, or also scaling the item's row
    )
    station: bool = True  # station as input
    attributes: bool = True  # track attributes as part of an item's input row
    position: bool = True  # learned positions as input
    tied: bool = True  # score with the input item rows; False gives the output a table of its own
    item_bias: Literal["none", "zero", "odds"] = (
        "zero"  # a learned bias per item, from zero or from the log's odds
    )
    bias_prior: float = 10.0  # events by which an item's odds are drawn to those of the whole log
    output_attributes: bool = (
        False  # add attribute rows to the rows that are scored, so rare items share strength
    )
    dtype: Literal["float32", "bfloat16"] = "float32"  # of matmuls; parameters and reductions stay float32


@dataclass(frozen=True)
class LossConfig:
    name: Literal["bce"] = "bce"  # binary cross-entropy over one positive and N negatives


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 100  # linear from 0 to the peak
    decay: Literal["constant", "cosine"] = "constant"  # after warm-up, over the epochs of the run
    weight_decay: float = 0.0  # decoupled, on matrices and tables
    clip: float = 5.0  # gradient norm; 0 clips nothing
    b2: float = 0.98  # Adam's second moment decay


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 50  # at most
    patience: int = 5  # evaluations without a better one before stopping; 0 never stops early
    monitor: Literal["pair_accuracy", "auc"] = "pair_accuracy"  # validation figure that decides
    evaluate_every: int = 0  # steps between validations; 0 validates once an epoch
    checkpoint_every: int = 0  # steps between checkpoints; 0 saves at each validation
    log_every: int = 50  # steps between lines of metrics
    devices: int = 0  # devices of the data axis; 0 takes all
    seed: int = 0  # of initialisation and dropout


@dataclass(frozen=True)
class EvalConfig:
    batch_size: int = 256  # examples scored together
    ks: tuple[int, ...] = (10, 100)  # ranking cut-offs
    bands: int = 5  # bands of positive share
    pair_seed: int = 0  # of the choice of pairs and of the bootstrap
    bootstrap: int = 1000  # resamples behind each interval
    exclude_seen: bool = (
        False  # drop the context's items from rankings (films are not watched again, songs are)
    )


@dataclass(frozen=True)
class Config:
    """An experiment. Saved as JSON beside each checkpoint, so nothing downstream needs the Python file."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def check(config: Config) -> Config:
    """The config itself, once its values make sense together. Raises UserError naming the field otherwise."""
    data, model, optim, train = config.data, config.model, config.optim, config.train
    whole_heads = model.heads >= 1 and model.width % model.heads == 0
    rules = [
        (0.0 <= data.p_hard <= 1.0, "--data.p-hard", "in [0, 1]", data.p_hard),
        (data.length >= 1, "--data.length", "at least 1", data.length),
        (data.batch_size >= 1, "--data.batch-size", "at least 1", data.batch_size),
        (data.negatives >= 1, "--data.negatives", "at least 1", data.negatives),
        (data.prefetch >= 1, "--data.prefetch", "at least 1", data.prefetch),
        (model.width >= 1, "--model.width", "at least 1", model.width),
        (model.layers >= 1, "--model.layers", "at least 1", model.layers),
        (whole_heads, "--model.heads", f"a divisor of the width {model.width}", model.heads),
        (model.feed_forward >= 0, "--model.feed-forward", "0 or more", model.feed_forward),
        (model.bias_prior > 0.0, "--model.bias-prior", "above 0", model.bias_prior),
        (0.0 <= model.dropout < 1.0, "--model.dropout", "in [0, 1)", model.dropout),
        (optim.learning_rate > 0.0, "--optim.learning-rate", "above 0", optim.learning_rate),
        (optim.warmup_steps >= 0, "--optim.warmup-steps", "0 or more", optim.warmup_steps),
        (optim.weight_decay >= 0.0, "--optim.weight-decay", "0 or more", optim.weight_decay),
        (optim.clip >= 0.0, "--optim.clip", "0 or more", optim.clip),
        (0.0 < optim.b2 < 1.0, "--optim.b2", "in (0, 1)", optim.b2),
        (train.epochs >= 1, "--train.epochs", "at least 1", train.epochs),
        (train.patience >= 0, "--train.patience", "0 or more", train.patience),
        (train.evaluate_every >= 0, "--train.evaluate-every", "0 or more", train.evaluate_every),
        (train.checkpoint_every >= 0, "--train.checkpoint-every", "0 or more", train.checkpoint_every),
        (train.log_every >= 1, "--train.log-every", "at least 1", train.log_every),
        (train.devices >= 0, "--train.devices", "0 or more", train.devices),
        (config.eval.batch_size >= 1, "--eval.batch-size", "at least 1", config.eval.batch_size),
        (len(config.eval.ks) > 0 and min(config.eval.ks) >= 1, "--eval.ks", "cut-offs of at least 1", config.eval.ks),
        (config.eval.bands >= 1, "--eval.bands", "at least 1", config.eval.bands),
        (config.eval.bootstrap >= 1, "--eval.bootstrap", "at least 1", config.eval.bootstrap),
    ]  # fmt: skip
    for holds, name, rule, value in rules:
        if not holds:
            raise UserError(f"{name} must be {rule}, got {value}")
    return config


def load(path: str | pathlib.Path) -> Config:
    """The config that a Python experiment file's ``get_config()`` returns. Raises UserError if there is none."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no config file {path}: give a Python file with get_config() -> Config")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"{path} is not a Python file: a config ends in .py and defines get_config() -> Config"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        raise UserError(f"{path} could not be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(
            f"get_config() in {path} must return a jaxneg.config.Config, got {type(config).__name__}"
        )
    return config


def override(config: Config, args: Sequence[str]) -> Config:
    """The config with command-line options applied, as in ``override(config, ["--model.layers", "4"])``.

    Raises UserError on an unknown option or a value of the wrong type.
    """
    return check(parse(Config, args, default=config, prog="jaxneg train"))


def parse(
    kind: type[P], args: Sequence[str], *, prog: str, default: P | None = None, help: str | None = None
) -> P:
    """A dataclass read from command-line options. Raises UserError of one line on a wrong name, type or choice."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=list(args),
                prog=prog,
                description=help,
                config=(tyro.conf.DisallowNone,),
                **({} if default is None else {"default": default}),  # type: ignore[arg-type]
            )
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(_one_line(errors.getvalue(), prog)) from error


def _one_line(text: str, prog: str) -> str:
    """tyro's box of an error as one line. Where the output is not UTF-8, it is a title, a rule and no box."""
    lines = [line.strip("│ ") for line in text.splitlines()][1 if text.startswith("╭") else 2 :]
    rule = next((n for n, line in enumerate(lines) if line and set(line) <= set("─-╰╯")), len(lines))
    message = " ".join(lines[:rule]).strip().removesuffix(".")
    # tyro lists the None of a default that says nothing, which DisallowNone forbids as a value.
    message = message.replace("'None', ", "").replace(", 'None'", "")
    if "Perhaps you meant:" in lines:
        after = lines[lines.index("Perhaps you meant:") :]
        options = [line.split()[0] for line in after if re.match(r"--\w", line)]
        message += f"; perhaps you meant {' or '.join(options)}"
    return f"{message}; {prog} --help lists the options"


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """The config that ``to_json`` wrote. Raises UserError on unknown or missing names."""
    try:
        values = json.loads(text)
        return Config(
            data=_part(DataConfig, values["data"]),
            model=_part(ModelConfig, values["model"]),
            loss=_part(LossConfig, values["loss"]),
            optim=_part(OptimConfig, values["optim"]),
            train=_part(TrainConfig, values["train"]),
            eval=_part(EvalConfig, values["eval"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not a config that this version saved: {error}") from error


def _part(kind: type[P], values: dict[str, Any]) -> P:
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
