"""The whole schema of an experiment: frozen dataclasses, one comment per field.

An experiment is a Python file with ``get_config() -> Config``. The command line, sweeps and tests all change it by
``override``, which checks names and types.
"""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from jaxneg import figures
from jaxneg.config import experiments, parts
from jaxneg.config.fields import (
    COUNT,
    Bounds,
    Natural,
    OneOf,
    Part,
    Positive,
    Seed,
    Share,
    Size,
    Weight,
    Where,
    above,
    built,
    inside,
    settled,
)
from jaxneg.config.options import option as option, parse as parse
from jaxneg.errors import UserError as UserError
from jaxneg.files import documents

Kind = Literal["unknown", "thumb_down", "skip", "play", "thumb_up"]  # of feedback
KINDS: tuple[str, ...] = typing.get_args(Kind)


def _listed(known: Mapping[str, Any]) -> Any:
    """What --help shows of a field that names a part: ours."""
    return tyro.conf.arg(metavar=f"{{{','.join(known)}}}")


@dataclass(frozen=True)
class DataConfig:
    store: Where = "store"  # prepared store to read
    length: Positive = 50  # events the model sees, L
    reach: Literal["session", "user"] = "session"
    """how far back inputs go: this session, or all of the user's"""
    batch_size: Positive = 128  # sequences in the global batch, B; with --data.packed rows of them
    packed: bool = False  # several short sequences share a row, so that less of it is padding
    inputs: tuple[Kind, ...] = ()  # feedback kinds kept in sequences; none names all
    target: Literal["positive", "next_positive", "any"] = "positive"
    """rank high the next event if liked, the first liked one after, or the next in any case"""
    mask: Part = 0.0  # share of events hidden and predicted, as in BERT4Rec; 0 predicts the next event
    negatives: Natural = 1  # negatives per target, N; 0 leaves it to those shared by the batch
    p_hard: Share = 0.5  # share of negatives drawn from real negative feedback, in [0, 1]
    hard_scope: Literal["session", "station", "user", "popularity"] = "station"
    """where hard negatives come from; falls back to user. popularity: the user's nearest in count"""
    hard_skip: Weight = 1.0  # weight of a skip among hard negatives
    hard_thumb_down: Weight = 1.0  # weight of a thumbs-down among hard negatives
    hard_opinion: Literal["all", "net", "latest"] = "all"
    """of songs a listener rejected and liked: each rejection, those that outnumber the likes, or the latest alone"""
    random: Annotated[str, OneOf(parts.SAMPLERS, "sampler"), _listed(parts.SAMPLERS)] = "uniform"
    """draw of random negatives: any item alike, falling with its rank by count, or by its count in training"""
    shared_negatives: Natural = 0  # random negatives shared by the whole batch, S
    shuffle_events: bool = False
    """order each training sequence anew each epoch: for logs whose order means nothing"""
    shuffle_block: Natural = 0
    """for a store larger than memory: shuffle runs of so many sequences, then rows; 0 shuffles rows over all of it"""
    shuffle_pool: Positive = 256  # runs that are mixed at a time, in all
    blocks: Positive = 1
    """blocks of rows that are drawn each by itself: of many processes each draws its own, if their number divides it"""
    prefetch: Annotated[int, Bounds(1, 1024)] = 4  # batches made ahead
    seed: Seed = 0  # of the order of sequences and of the negatives


@dataclass(frozen=True)
class ModelConfig:
    encoder: Annotated[str, OneOf(parts.ENCODERS, "encoder"), _listed(parts.ENCODERS)] = "sasrec"
    """kind of encoder, which turns events into states"""
    width: Annotated[int, Bounds(1, 1 << 20)] = 64  # of embeddings and states, D
    layers: Annotated[int, Bounds(1, 10_000)] = 2  # blocks
    heads: Annotated[int, Bounds(1, 1 << 20)] = 1  # attention heads, H; must divide the width
    feed_forward: Annotated[int, Bounds(0, 1 << 24)] = 0
    """hidden width of the feed-forward part, F; 0 takes the model's width"""
    dropout: Part = 0.2  # share of activations zeroed in training
    norm: Literal["pre", "post"] = "pre"  # layer norm before or after each sub-layer
    window: Annotated[int, Bounds(2, COUNT)] = 5  # events that a filter of caser spans
    head: Literal["none", "gelu"] = "none"  # gelu: hidden states pass GELU(W h + b) before they are scored
    row_scale: Weight = 0.02  # standard deviation of item rows at the start
    feedback: Literal["none", "add", "gate"] = "gate"
    """of past events as input: added, or also scaling the item's row"""
    station: bool = True  # station as input
    attributes: bool = True  # track attributes as part of an item's input row
    position: bool = True  # learned positions as input
    tied: bool = True  # score with the input item rows; False gives the output a table of its own
    item_bias: Literal["none", "zero", "odds"] = "zero"
    """a learned bias per item, from zero or from the log's odds"""
    bias_prior: Size = 10.0  # events by which an item's odds are drawn to those of the whole log
    output_attributes: bool = False
    """add attribute rows to the rows that are scored, so rare items share strength"""
    dtype: Literal["float32", "bfloat16"] = "float32"  # of matmuls; parameters and reductions stay float32
    attention: Literal["plain", "fused"] = "plain"
    """fused: cuDNN's kernel on a GPU in bfloat16, XLA's elsewhere; no dropout on attention weights"""
    remat: bool = False  # compute each block again for its gradient: less memory, about a third more work


@dataclass(frozen=True)
class LossConfig:
    name: Annotated[str, OneOf(parts.LOSSES, "loss"), _listed(parts.LOSSES)] = "bce"
    """what is minimised; softmax runs over the whole catalogue"""
    calibration: Share = 0.75  # of gbce, in [0, 1]; 0 is bce
    penalty: Weight = 0.03  # of bpr_max, on the scores of negatives
    rejected: Weight = 1.0  # of not_to_recommend, weight of rejected targets
    hardest: Natural = 0  # negatives kept per position, those that score highest; 0 keeps all
    in_batch: bool = False  # the batch's other targets are negatives too
    log_q: Literal["none", "plain", "refined"] = "none"
    """correct shared and in-batch negatives for how often they are drawn; refined: the target left out of the sum"""
    feedback: Weight = 0.0  # weight of a further term: predict the feedback of the next event
    contrastive: Weight = 0.0  # weight of a further term: InfoNCE against the session's skips
    contrastive_form: Literal["paper", "released"] = "paper"  # released: with the faults of the authors' code
    contrastive_context: Literal["predicted", "item"] = "predicted"
    """c: hidden state, or row of the current item"""
    temperature: Size = 0.1  # of the contrastive term
    skips_kept: Share = 1.0  # share of the skips that the contrastive term sees


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: Annotated[float, above(0.0, 1e30)] = 1e-3  # peak
    warmup_steps: Natural = 100  # linear from 0 to the peak
    decay: Literal["constant", "cosine"] = "constant"  # after warm-up, over the epochs of the run
    weight_decay: Weight = 0.0  # decoupled, on matrices and tables
    clip: Weight = 5.0  # gradient norm; 0 clips nothing
    b2: Annotated[float, inside(0, 1, "()")] = 0.98  # Adam's second moment decay
    rows: Literal["dense", "sgd", "adagrad", "lazy_adam"] = "dense"
    """of item tables: Adam over all rows as of the parameters, or an optimiser of the rows that a batch touches"""
    row_learning_rate: Annotated[float, Bounds(0.0, 1e30)] = 0.0
    """peak, of touched rows; 0 takes that of the parameters"""
    accumulate: Positive = 1  # parts that a batch is taken in, one by one; the update is that of the whole
    average: Part = 0.0  # decay of the moving average of the weights that is evaluated; 0 takes the weights


@dataclass(frozen=True)
class TrainConfig:
    epochs: Positive = 50  # at most
    patience: Natural = 5
    """evaluations after warm-up without a better one before stopping; 0 never stops early"""
    monitor: Annotated[str, tyro.conf.arg(metavar="FIGURE")] = "pair_accuracy"
    """validation figure that decides: pair_accuracy, user_pair_accuracy, auc, mrr_positive, or ndcg@K, hit_rate@K,
    next_hit_rate@K and released_hit_rate@K with a K of --eval.ks; take the one that the model is judged by"""
    evaluate_every: Natural = 0  # steps between validations; 0 validates once an epoch
    checkpoint_every: Natural = 0  # steps between checkpoints; 0 saves at each validation
    log_every: Positive = 50  # steps between lines of metrics
    devices: Natural = 0  # devices to train on; 0 takes all
    shards: Positive = 1  # devices that share the rows of the item tables; each has all of them with 1
    compilation_cache: Where = ""  # directory of compiled programs; none leaves JAX's own setting
    seed: Seed = 0  # of initialisation and dropout
    stuck_after: Natural = 1800
    """seconds without a step until the process ends with code 75; 0 waits for ever"""


@dataclass(frozen=True)
class EvalConfig:
    batch_size: Annotated[int, Bounds(1, 1 << 20)] = 256  # examples scored together
    ks: tuple[Positive, ...] = (10, 100)  # ranking cut-offs
    bands: Annotated[int, Bounds(1, 10_000)] = 5  # bands of positive share
    pair_seed: Seed = 0  # of the choice of pairs and of the bootstrap
    bootstrap: Annotated[int, Bounds(1, 10_000_000)] = 1000  # resamples behind each interval
    exclude_seen: bool = False
    """drop the context's items from rankings (films are not watched again, songs are)"""
    released: Natural = 0  # random items that stand for the catalogue in released_hit_rate@k; 0 leaves it out
    released_batch: Positive = 64  # examples in order whose next liked items are candidates together in it


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
    """The config with every value as its field has it, once they make sense together.

    Raises UserError naming the field otherwise; see ``fields`` for what means the same.
    """
    config = settled(config, Config)
    data, model, optim = config.data, config.model, config.optim
    batch = f"the batch size {data.batch_size}"
    rules = [
        (data.batch_size % data.blocks == 0, "--data.blocks", f"a divisor of {batch}", data.blocks),
        (model.width % model.heads == 0, "--model.heads", f"a divisor of the width {model.width}", model.heads),
        (data.batch_size % optim.accumulate == 0, "--optim.accumulate", f"a divisor of {batch}", optim.accumulate),
        (figures.is_monitor(config.train.monitor), "--train.monitor", f"one of {figures.SPOKEN}", config.train.monitor),
        (len(config.eval.ks) > 0, "--eval.ks", "one cut-off or more", config.eval.ks),
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
    encoder, main, sampler = (
        parts.ENCODERS[model.encoder],
        parts.LOSSES[loss.name],
        parts.SAMPLERS[data.random],
    )
    touched = optim.rows != "dense"
    shared = data.shared_negatives > 0 or loss.in_batch
    log_q = loss.log_q != "none"
    hard = data.negatives > 0 and data.p_hard > 0
    uneven = hard or not sampler.even or loss.in_batch or loss.hardest > 0
    return [
        (
            encoder.bidirectional and data.mask == 0,
            f"--model.encoder {model.encoder} sees the next event, which it would be asked to predict",
            "hide events with --data.mask 0.2",
        ),
        (
            data.mask > 0 and data.target == "next_positive",
            "--data.mask predicts the hidden event itself",
            "use --data.target positive, or any to hide events of all kinds",
        ),
        (
            (main.signed or loss.feedback > 0)
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
            log_q and not main.softmax,
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
            loss.log_q == "refined" and main.signed,
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
            data.packed and not encoder.packable,
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
            model.attention != "plain" and not encoder.blocks,
            f"--model.attention {model.attention} is for attention, which --model.encoder {model.encoder} has not",
            "leave it out",
        ),
        (
            model.remat and not encoder.blocks,
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
    """The config that a Python experiment file's ``get_config()`` returns. Raises UserError if there is none.

    Its values are what the fields take; whether they go together, ``check`` says once options had their say.
    """
    with experiments.loaded(path, "a config ends in .py and defines get_config() -> Config") as module:
        config = module.get_config()
        if not isinstance(config, Config):
            what = config.__name__ if isinstance(config, type) else type(config).__name__
            raise UserError(f"get_config() in {path} must return a jaxneg.config.Config, got {what}")
        try:
            return settled(config, Config)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def override(config: Config, args: Sequence[str]) -> Config:
    """The config with command-line options applied, as in ``override(config, ["--model.layers", "4"])``.

    Raises UserError on an unknown option or a value of the wrong type.
    """
    if isinstance(args, str) or not all(isinstance(word, str) for word in args):
        raise UserError(f'options are a list of words, as ["--model.layers", "4"], got {args!r}')
    return check(parse(Config, args, default=settled(config, Config), prog="jaxneg train"))


def to_json(config: Config) -> str:
    """The config, and which files or modules registered what it names beyond ours."""
    registered = parts.saved(config)
    return json.dumps(
        dataclasses.asdict(config) | ({"registered": registered} if registered else {}), indent=2
    )


def from_json(text: str, beside: pathlib.Path | None = None) -> Config:
    """The config that ``to_json`` wrote, once what it names is known; see ``parts.recalled``.

    Raises UserError on unknown names, missing parts and wrong values.

    Args:
      text: JSON.
      beside: a directory in which files that register something may be.
    """
    try:
        values = documents.loaded(text)
        if isinstance(values, dict) and "registered" in values:
            parts.recalled(values.pop("registered"), beside)
        kinds: dict[str, Any] = {one.name: one.default_factory for one in dataclasses.fields(Config)}
        if not isinstance(values, dict) or set(values) != set(kinds):
            raise UserError(f"it is no object of {', '.join(kinds)}")
        for name, part in values.items():
            if not isinstance(part, dict):
                raise UserError(f"{name} is no object")
        if isinstance(log_q := values["loss"].get("log_q"), bool):  # before there were two corrections
            values["loss"]["log_q"] = "plain" if log_q else "none"
        return Config(**{name: built(kind, values[name], f"--{name}.") for name, kind in kinds.items()})
    except (UserError, documents.Wrong) as error:
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
