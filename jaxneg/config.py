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

from jaxneg.errors import UserError as UserError

P = TypeVar("P")
KINDS = ("unknown", "thumb_down", "skip", "play", "thumb_up")  # of feedback
BIDIRECTIONAL = ("bert4rec",)  # encoders whose positions see later events
BLOCKS = ("sasrec", "bert4rec", "ligr")  # encoders that are blocks of attention
UNPACKED = ("caser",)  # encoders that cannot tell where a sequence of a packed row begins


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
    reach: Literal["session", "user"] = "session"
    """how far back inputs go: this session, or all of the user's"""
    batch_size: int = 128  # sequences in the global batch, B; with --data.packed rows of them
    packed: bool = False  # several short sequences share a row, so that less of it is padding
    inputs: tuple[str, ...] = ()  # feedback kinds kept in sequences; none names all
    target: Literal["positive", "next_positive", "any"] = "positive"
    """rank high the next event if liked, the first liked one after, or the next in any case"""
    mask: float = 0.0  # share of events hidden and predicted, as in BERT4Rec; 0 predicts the next event
    negatives: int = 1  # negatives per target, N; 0 leaves it to those shared by the batch
    p_hard: float = 0.5  # share of negatives drawn from real negative feedback, in [0, 1]
    hard_scope: Literal["session", "station", "user", "popularity"] = "station"
    """where hard negatives come from; falls back to user. popularity: the user's nearest in count"""
    hard_skip: float = 1.0  # weight of a skip among hard negatives
    hard_thumb_down: float = 1.0  # weight of a thumbs-down among hard negatives
    hard_opinion: Literal["all", "net", "latest"] = "all"
    """of songs a listener rejected and liked: each rejection, those that outnumber the likes, or the latest alone"""
    random: Literal["uniform", "log_uniform", "by_count"] = "uniform"
    """draw of random negatives: any item alike, falling with its rank by count, or by its count in training"""
    shared_negatives: int = 0  # random negatives shared by the whole batch, S
    shuffle_events: bool = False
    """order each training sequence anew each epoch: for logs whose order means nothing"""
    shuffle_block: int = 0
    """for a store larger than memory: shuffle runs of so many sequences, then rows; 0 shuffles rows over all of it"""
    shuffle_pool: int = 256  # runs that are mixed at a time, in all
    blocks: int = 1
    """blocks of rows that are drawn each by itself: of many processes each draws its own, if their number divides it"""
    prefetch: int = 4  # batches made ahead
    seed: int = 0  # of the order of sequences and of the negatives


@dataclass(frozen=True)
class ModelConfig:
    encoder: Literal["sasrec", "bert4rec", "gru4rec", "caser", "ligr"] = "sasrec"
    """what turns x_BLD into h_BLD"""
    width: int = 64  # D
    layers: int = 2  # blocks
    heads: int = 1  # attention heads, H; must divide the width
    feed_forward: int = 0  # hidden width of the feed-forward part, F; 0 takes the model's width
    dropout: float = 0.2  # share of activations zeroed in training
    norm: Literal["pre", "post"] = "pre"  # layer norm before or after each sub-layer
    window: int = 5  # events that a filter of caser spans
    head: Literal["none", "gelu"] = "none"  # gelu: hidden states pass GELU(W h + b) before they are scored
    row_scale: float = 0.02  # standard deviation of item rows at the start
    feedback: Literal["none", "add", "gate"] = "gate"
    """of past events as input: added, or also scaling the item's row"""
    station: bool = True  # station as input
    attributes: bool = True  # track attributes as part of an item's input row
    position: bool = True  # learned positions as input
    tied: bool = True  # score with the input item rows; False gives the output a table of its own
    item_bias: Literal["none", "zero", "odds"] = "zero"
    """a learned bias per item, from zero or from the log's odds"""
    bias_prior: float = 10.0  # events by which an item's odds are drawn to those of the whole log
    output_attributes: bool = False
    """add attribute rows to the rows that are scored, so rare items share strength"""
    dtype: Literal["float32", "bfloat16"] = "float32"  # of matmuls; parameters and reductions stay float32
    attention: Literal["plain", "fused"] = "plain"
    """fused: cuDNN's kernel on a GPU in bfloat16, XLA's elsewhere; no dropout on attention weights"""
    remat: bool = False  # compute each block again for its gradient: less memory, about a third more work


@dataclass(frozen=True)
class LossConfig:
    name: Literal[
        "bce", "gbce", "sampled_softmax", "softmax", "bpr_max", "top1_max", "not_to_recommend", "feedback"
    ] = "bce"
    """see jaxneg/losses.py; softmax runs over the whole catalogue"""
    calibration: float = 0.75  # of gbce, in [0, 1]; 0 is bce
    penalty: float = 0.03  # of bpr_max, on the scores of negatives
    rejected: float = 1.0  # of not_to_recommend, weight of rejected targets
    hardest: int = 0  # negatives kept per position, those that score highest; 0 keeps all
    in_batch: bool = False  # the batch's other targets are negatives too
    log_q: Literal["none", "plain", "refined"] = "none"
    """correct shared and in-batch negatives for how often they are drawn; refined: the target left out of the sum"""
    feedback: float = 0.0  # weight of a further term: predict the feedback of the next event
    contrastive: float = 0.0  # weight of a further term: InfoNCE against the session's skips
    contrastive_form: Literal["paper", "released"] = "paper"  # released: with the faults of the authors' code
    contrastive_context: Literal["predicted", "item"] = "predicted"
    """c: hidden state, or row of the current item"""
    temperature: float = 0.1  # of the contrastive term
    skips_kept: float = 1.0  # share of the skips that the contrastive term sees


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 100  # linear from 0 to the peak
    decay: Literal["constant", "cosine"] = "constant"  # after warm-up, over the epochs of the run
    weight_decay: float = 0.0  # decoupled, on matrices and tables
    clip: float = 5.0  # gradient norm; 0 clips nothing
    b2: float = 0.98  # Adam's second moment decay
    rows: Literal["dense", "sgd", "adagrad", "lazy_adam"] = "dense"
    """of item tables: Adam over all rows as of the parameters, or an optimiser of the rows that a batch touches"""
    row_learning_rate: float = 0.0  # peak, of touched rows; 0 takes that of the parameters
    accumulate: int = 1  # parts that a batch is taken in, one by one; the update is that of the whole
    average: float = 0.0  # decay of the moving average of the weights that is evaluated; 0 takes the weights


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 50  # at most
    patience: int = 5  # evaluations without a better one before stopping; 0 never stops early
    monitor: Literal["pair_accuracy", "auc", "ndcg@10"] = "pair_accuracy"  # validation figure that decides
    evaluate_every: int = 0  # steps between validations; 0 validates once an epoch
    checkpoint_every: int = 0  # steps between checkpoints; 0 saves at each validation
    log_every: int = 50  # steps between lines of metrics
    devices: int = 0  # devices to train on; 0 takes all
    shards: int = 1  # devices that share the rows of the item tables; each has all of them with 1
    compilation_cache: str = ""  # directory of compiled programs; none leaves JAX's own setting
    seed: int = 0  # of initialisation and dropout
    stuck_after: int = 1800  # seconds without a step until the process ends with code 75; 0 waits for ever


@dataclass(frozen=True)
class EvalConfig:
    batch_size: int = 256  # examples scored together
    ks: tuple[int, ...] = (10, 100)  # ranking cut-offs
    bands: int = 5  # bands of positive share
    pair_seed: int = 0  # of the choice of pairs and of the bootstrap
    bootstrap: int = 1000  # resamples behind each interval
    exclude_seen: bool = False
    """drop the context's items from rankings (films are not watched again, songs are)"""
    released: int = 0  # random items that stand for the catalogue in released_hit_rate@k; 0 leaves it out


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
    data, model, loss, optim, train = config.data, config.model, config.loss, config.optim, config.train
    whole_blocks = data.blocks >= 1 and data.batch_size % data.blocks == 0
    whole_heads = model.heads >= 1 and model.width % model.heads == 0
    whole_parts = optim.accumulate >= 1 and data.batch_size % optim.accumulate == 0
    rules = [
        (0.0 <= data.p_hard <= 1.0, "--data.p-hard", "in [0, 1]", data.p_hard),
        (data.length >= 1, "--data.length", "at least 1", data.length),
        (data.batch_size >= 1, "--data.batch-size", "at least 1", data.batch_size),
        (set(data.inputs) <= set(KINDS), "--data.inputs", f"kinds out of {', '.join(KINDS)}", " ".join(data.inputs)),
        (0.0 <= data.mask < 1.0, "--data.mask", "in [0, 1)", data.mask),
        (data.negatives >= 0, "--data.negatives", "0 or more", data.negatives),
        (data.hard_skip >= 0.0, "--data.hard-skip", "0 or more", data.hard_skip),
        (data.hard_thumb_down >= 0.0, "--data.hard-thumb-down", "0 or more", data.hard_thumb_down),
        (data.shared_negatives >= 0, "--data.shared-negatives", "0 or more", data.shared_negatives),
        (data.shuffle_block >= 0, "--data.shuffle-block", "0 or more", data.shuffle_block),
        (data.shuffle_pool >= 1, "--data.shuffle-pool", "at least 1", data.shuffle_pool),
        (whole_blocks, "--data.blocks", f"a divisor of the batch size {data.batch_size}", data.blocks),
        (data.prefetch >= 1, "--data.prefetch", "at least 1", data.prefetch),
        (model.width >= 1, "--model.width", "at least 1", model.width),
        (model.layers >= 1, "--model.layers", "at least 1", model.layers),
        (whole_heads, "--model.heads", f"a divisor of the width {model.width}", model.heads),
        (model.feed_forward >= 0, "--model.feed-forward", "0 or more", model.feed_forward),
        (model.window >= 2, "--model.window", "at least 2", model.window),
        (model.row_scale >= 0.0, "--model.row-scale", "0 or more", model.row_scale),
        (model.bias_prior > 0.0, "--model.bias-prior", "above 0", model.bias_prior),
        (0.0 <= model.dropout < 1.0, "--model.dropout", "in [0, 1)", model.dropout),
        (0.0 <= loss.calibration <= 1.0, "--loss.calibration", "in [0, 1]", loss.calibration),
        (loss.penalty >= 0.0, "--loss.penalty", "0 or more", loss.penalty),
        (loss.rejected >= 0.0, "--loss.rejected", "0 or more", loss.rejected),
        (loss.hardest >= 0, "--loss.hardest", "0 or more", loss.hardest),
        (loss.feedback >= 0.0, "--loss.feedback", "0 or more", loss.feedback),
        (loss.contrastive >= 0.0, "--loss.contrastive", "0 or more", loss.contrastive),
        (loss.temperature > 0.0, "--loss.temperature", "above 0", loss.temperature),
        (0.0 <= loss.skips_kept <= 1.0, "--loss.skips-kept", "in [0, 1]", loss.skips_kept),
        (optim.learning_rate > 0.0, "--optim.learning-rate", "above 0", optim.learning_rate),
        (optim.warmup_steps >= 0, "--optim.warmup-steps", "0 or more", optim.warmup_steps),
        (optim.weight_decay >= 0.0, "--optim.weight-decay", "0 or more", optim.weight_decay),
        (optim.clip >= 0.0, "--optim.clip", "0 or more", optim.clip),
        (0.0 < optim.b2 < 1.0, "--optim.b2", "in (0, 1)", optim.b2),
        (optim.row_learning_rate >= 0.0, "--optim.row-learning-rate", "0 or more", optim.row_learning_rate),
        (whole_parts, "--optim.accumulate", f"a divisor of the batch size {data.batch_size}", optim.accumulate),
        (0.0 <= optim.average < 1.0, "--optim.average", "in [0, 1)", optim.average),
        (train.epochs >= 1, "--train.epochs", "at least 1", train.epochs),
        (train.patience >= 0, "--train.patience", "0 or more", train.patience),
        (train.evaluate_every >= 0, "--train.evaluate-every", "0 or more", train.evaluate_every),
        (train.checkpoint_every >= 0, "--train.checkpoint-every", "0 or more", train.checkpoint_every),
        (train.log_every >= 1, "--train.log-every", "at least 1", train.log_every),
        (train.devices >= 0, "--train.devices", "0 or more", train.devices),
        (train.shards >= 1, "--train.shards", "at least 1", train.shards),
        (train.stuck_after >= 0, "--train.stuck-after", "0 or more", train.stuck_after),
        (config.eval.batch_size >= 1, "--eval.batch-size", "at least 1", config.eval.batch_size),
        (len(config.eval.ks) > 0 and min(config.eval.ks) >= 1, "--eval.ks", "cut-offs of at least 1", config.eval.ks),
        (config.eval.bands >= 1, "--eval.bands", "at least 1", config.eval.bands),
        (config.eval.bootstrap >= 1, "--eval.bootstrap", "at least 1", config.eval.bootstrap),
        (config.eval.released >= 0, "--eval.released", "0 or more", config.eval.released),
    ]  # fmt: skip
    for holds, name, rule, value in rules:
        if not holds:
            raise UserError(f"{name} must be {rule}, got {value}")
    for clash, what, mend in _clashes(config):
        if clash:
            raise UserError(f"{what}: {mend}")
    return config


def _clashes(config: Config) -> list[tuple[bool, str, str]]:
    """Settings that do not go together, and what to do instead."""
    data, model, loss, optim = config.data, config.model, config.loss, config.optim
    touched = optim.rows != "dense"
    shared = data.shared_negatives > 0 or loss.in_batch
    log_q = loss.log_q != "none"
    hard = data.negatives > 0 and data.p_hard > 0
    uneven = hard or data.random != "uniform" or loss.in_batch or loss.hardest > 0
    return [
        (
            model.encoder in BIDIRECTIONAL and data.mask == 0,
            f"--model.encoder {model.encoder} sees the next event, which it would be asked to predict",
            "hide events with --data.mask 0.2",
        ),
        (
            data.mask > 0 and data.target == "next_positive",
            "--data.mask predicts the hidden event itself",
            "use --data.target positive, or any to hide events of all kinds",
        ),
        (
            (loss.name in ("feedback", "not_to_recommend") or loss.feedback > 0)
            and (data.target == "next_positive" or (data.mask > 0 and data.target == "positive")),
            "--loss.feedback and --loss.name feedback and not_to_recommend learn from rejected events too",
            "use --data.target positive without --data.mask, or --data.target any",
        ),
        (
            data.negatives == 0 and not shared and loss.name not in ("softmax", "feedback"),
            "--data.negatives 0 leaves the loss without negatives",
            "give some, or --data.shared-negatives, --loss.in-batch or --loss.name softmax",
        ),
        (
            loss.name == "not_to_recommend" and not shared,
            "--loss.name not_to_recommend compares every target with the same candidates",
            "give --data.shared-negatives 1000 or --loss.in-batch",
        ),
        (
            log_q and not shared,
            "--loss.log-q corrects shared and in-batch negatives, and there are none",
            "give --data.shared-negatives or --loss.in-batch, or leave it out",
        ),
        (
            log_q and loss.name not in ("sampled_softmax", "not_to_recommend"),
            f"--loss.log-q estimates a softmax, which --loss.name {loss.name} is none of",
            "use --loss.name sampled_softmax, or leave it out",
        ),
        (
            log_q and loss.hardest > 0,
            "--loss.log-q counts every negative, and --loss.hardest drops most",
            "leave one of them out",
        ),
        (
            log_q and data.negatives > 0 and data.p_hard < 1,
            "--loss.log-q estimates the sum over the catalogue from shared and in-batch negatives, to which random "
            "ones of --data.negatives would add",
            "use --data.negatives 0, or --data.p-hard 1 to have rejected events weigh in once more",
        ),
        (
            loss.log_q == "refined" and loss.name == "not_to_recommend",
            "--loss.log-q refined leaves the target out, which --loss.name not_to_recommend weighs itself",
            "use --loss.log-q plain, or --loss.name sampled_softmax",
        ),
        (
            loss.name == "gbce" and loss.calibration > 0 and uneven,
            "--loss.name gbce is calibrated for negatives that are drawn uniformly from the catalogue",
            "use --data.p-hard 0 and --data.random uniform without --loss.in-batch and --loss.hardest, or "
            "--loss.calibration 0",
        ),
        (
            loss.name == "softmax" and (shared or loss.hardest > 0),
            "--loss.name softmax takes the whole catalogue",
            "leave out --data.shared-negatives, --loss.in-batch and --loss.hardest, or use sampled_softmax",
        ),
        (
            data.hard_skip == 0 and data.hard_thumb_down == 0 and data.p_hard > 0,
            "--data.hard-skip and --data.hard-thumb-down are both 0, so nothing is left for --data.p-hard",
            "give one of them a weight, or --data.p-hard 0",
        ),
        (
            config.train.shards > 1 and not touched,
            "--train.shards parts the item tables, and --optim.rows dense changes all of their rows",
            "use --optim.rows adagrad, lazy_adam or sgd, or --train.shards 1",
        ),
        (
            touched and loss.name == "softmax",
            f"--loss.name softmax touches every row, and --optim.rows {optim.rows} is for batches that touch few",
            "use --loss.name sampled_softmax, or --optim.rows dense",
        ),
        (
            touched and optim.average > 0,
            f"--optim.average averages all rows, and --optim.rows {optim.rows} leaves most alone",
            "leave one of them out",
        ),
        (
            data.packed and model.encoder in UNPACKED,
            f"--model.encoder {model.encoder} would look across the sequences of a row of --data.packed",
            "use another encoder, or leave out --data.packed",
        ),
        (
            data.packed and data.shuffle_block > 0,
            "--data.shuffle-block mixes runs of sequences, and --data.packed has laid them into rows of several",
            "leave one of them out",
        ),
        (
            data.packed and loss.contrastive > 0,
            "--loss.contrastive needs whole sequences, and a row of --data.packed has no room for their last events",
            "leave one of them out",
        ),
        (
            model.attention != "plain" and model.encoder not in BLOCKS,
            f"--model.attention {model.attention} is for attention, which --model.encoder {model.encoder} has not",
            "leave it out",
        ),
        (
            model.remat and model.encoder not in BLOCKS,
            f"--model.remat computes blocks again, and --model.encoder {model.encoder} has none",
            "leave it out",
        ),
        (
            optim.accumulate > 1 and loss.in_batch,
            "--loss.in-batch takes negatives from the whole batch, and --optim.accumulate shows a part at a time",
            "give --data.shared-negatives instead, or leave one of them out",
        ),
        (
            optim.accumulate > 1 and (loss.feedback > 0 or loss.contrastive > 0),
            "--optim.accumulate weighs parts by their targets, and --loss.feedback and --loss.contrastive are means "
            "over other events",
            "leave one of them out",
        ),
    ]


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
        if isinstance(log_q := values["loss"].get("log_q"), bool):  # before there were two corrections
            values["loss"]["log_q"] = "plain" if log_q else "none"
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


def differences(old: Config, new: Config) -> list[str]:
    """Fields in which two configs differ, as "data.length: 50 -> 20"."""
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    return [
        f"{part}.{name}: {before[part][name]} -> {value}"
        for part, values in after.items()
        for name, value in values.items()
        if before[part][name] != value
    ]


def _part(kind: type[P], values: dict[str, Any]) -> P:
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
