"""The fields of an experiment: what values each takes, what it is for, and what a change of it changes."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from jaxneg.config import parts
from jaxneg.config.fields import (
    COUNT,
    Bounds,
    Effect,
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
    inside,
    option,
)

NOTHING, FIGURES, DATA, TRAINING, MODEL = Effect
Kind = Literal["unknown", "thumb_down", "skip", "play", "thumb_up"]  # of feedback
KINDS: tuple[str, ...] = typing.get_args(Kind)


def _listed(known: Mapping[str, Any]) -> Any:
    """What --help shows of a field that names a part: ours."""
    return tyro.conf.arg(metavar=f"{{{','.join(known)}}}")


@dataclass(frozen=True)
class DataConfig:
    store: Annotated[Where, NOTHING] = "store"  # prepared store to read
    length: Annotated[Positive, MODEL] = 50  # events the model sees, L
    reach: Annotated[Literal["session", "user"], DATA] = "session"
    """how far back inputs go: this session, or all of the user's"""
    batch_size: Annotated[Positive, DATA] = 128
    """sequences in the global batch, B; as many on average where they are packed"""
    packed: Annotated[Literal["auto", "always", "never"], DATA] = "auto"
    """several short sequences share a row, so that less of it is padding; auto: where that saves a tenth"""
    row: Annotated[Natural, DATA] = 0
    """positions of a row that sequences share, at least a sequence's; 0 takes as many as that"""
    inputs: Annotated[tuple[Kind, ...], MODEL] = ()  # feedback kinds kept in sequences; none names all
    target: Annotated[Literal["positive", "next_positive", "any"], DATA] = "positive"
    """rank high the next event if liked, the first liked one after, or the next in any case"""
    mask: Annotated[Part, MODEL] = 0.0
    """share of events hidden and predicted, as in BERT4Rec; 0 predicts the next event"""
    negatives: Annotated[Natural, DATA] = 1
    """negatives per target, N; 0 leaves it to those shared by the batch"""
    p_hard: Annotated[Share, DATA] = 0.5  # share of negatives drawn from real negative feedback, in [0, 1]
    hard_scope: Annotated[Literal["session", "station", "user", "popularity"], DATA] = "station"
    """where hard negatives come from; falls back to user. popularity: the user's nearest in count"""
    hard_skip: Annotated[Weight, DATA] = 1.0  # weight of a skip among hard negatives
    hard_thumb_down: Annotated[Weight, DATA] = 1.0  # weight of a thumbs-down among hard negatives
    hard_opinion: Annotated[Literal["all", "net", "latest"], DATA] = "all"
    """of songs a listener rejected and liked: each rejection, those that outnumber the likes, or the latest alone"""
    random: Annotated[str, OneOf(parts.SAMPLERS, "sampler"), _listed(parts.SAMPLERS), DATA] = "uniform"
    """draw of random negatives: any item alike, falling with its rank by count, or by its count in training"""
    shared_negatives: Annotated[Natural, DATA] = 0  # random negatives shared by the whole batch, S
    shuffle_events: Annotated[bool, DATA] = False
    """order each training sequence anew each epoch: for logs whose order means nothing"""
    shuffle_block: Annotated[Natural, DATA] = 0
    """for a store larger than memory: shuffle runs of so many sequences, then rows; 0 shuffles rows over all of it"""
    shuffle_pool: Annotated[Positive, DATA] = 256  # runs that are mixed at a time, in all
    blocks: Annotated[Positive, DATA] = 1
    """blocks of rows that are drawn each by itself: of many processes each draws its own, if their number divides it"""
    seed: Annotated[Seed, DATA] = 0  # of the order of sequences and of the negatives

    @property
    def positions(self) -> int:
        """Positions of a whole sequence: all events but the last, a target alone; in cloze training all of them."""
        return self.length + (self.mask > 0)


@dataclass(frozen=True)
class ModelConfig:
    encoder: Annotated[str, OneOf(parts.ENCODERS, "encoder"), _listed(parts.ENCODERS), MODEL] = "sasrec"
    """kind of encoder, which turns events into states"""
    width: Annotated[int, Bounds(1, 1 << 20), MODEL] = 64  # of embeddings and states, D
    layers: Annotated[int, Bounds(1, 10_000), MODEL] = 2  # blocks
    heads: Annotated[int, Bounds(1, 1 << 20), MODEL] = 1  # attention heads, H; must divide the width
    feed_forward: Annotated[int, Bounds(0, 1 << 24), MODEL] = 0
    """hidden width of the feed-forward part, F; 0 takes the model's width"""
    dropout: Annotated[Part, MODEL] = 0.2  # share of activations zeroed in training
    dropout_attention: Annotated[Part | None, option("FLOAT", "as dropout"), MODEL] = None
    """share of attention weights zeroed in training; fused attention zeroes none"""
    norm: Annotated[Literal["pre", "post"], MODEL] = "pre"  # layer norm before or after each sub-layer
    window: Annotated[int, Bounds(2, COUNT), MODEL] = 5  # events that a filter of caser spans
    head: Annotated[Literal["none", "gelu"], MODEL] = "none"
    """gelu: hidden states pass GELU(W h + b) before they are scored"""
    row_scale: Annotated[Weight, MODEL] = 0.02  # standard deviation of item rows at the start
    feedback: Annotated[Literal["none", "add", "gate"], MODEL] = "gate"
    """of past events as input: added, or also scaling the item's row"""
    station: Annotated[bool, MODEL] = True  # station as input
    attributes: Annotated[bool, MODEL] = True  # track attributes as part of an item's input row
    position: Annotated[bool, MODEL] = True  # learned positions as input
    tied: Annotated[bool, MODEL] = True
    """score with the input item rows; False gives the output a table of its own"""
    item_bias: Annotated[Literal["none", "zero", "odds"], MODEL] = "zero"
    """a learned bias per item, from zero or from the log's odds"""
    bias_prior: Annotated[Size, MODEL] = 10.0
    """events by which an item's odds are drawn to those of the whole log"""
    output_attributes: Annotated[bool, MODEL] = False
    """add attribute rows to the rows that are scored, so rare items share strength"""
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = "float32"
    """of matmuls; parameters and reductions stay float32"""
    residual: Annotated[Literal["float32", "bfloat16"], MODEL] = "float32"
    """of the residual stream that blocks add to: bfloat16 halves its memory traffic; norms and softmax stay float32"""
    attention: Annotated[Literal["plain", "fused"], MODEL] = "plain"
    """fused: a kernel, cuDNN's on a GPU in bfloat16 or splash on a TPU, else XLA's; no dropout on attention weights"""
    remat: Annotated[bool, MODEL] = False
    """compute each block again for its gradient: less memory, about a third more work"""

    @property
    def weights_dropped(self) -> float:
        """Share of attention weights that training zeroes; kernels zero none."""
        if self.attention == "fused":
            return 0.0
        return self.dropout if self.dropout_attention is None else self.dropout_attention


@dataclass(frozen=True)
class LossConfig:
    name: Annotated[str, OneOf(parts.LOSSES, "loss"), _listed(parts.LOSSES), TRAINING] = "bce"
    """what is minimised; softmax runs over the whole catalogue"""
    calibration: Annotated[Share, TRAINING] = 0.75  # of gbce, in [0, 1]; 0 is bce
    penalty: Annotated[Weight, TRAINING] = 0.03  # of bpr_max, on the scores of negatives
    rejected: Annotated[Weight, TRAINING] = 1.0  # of not_to_recommend, weight of rejected targets
    hardest: Annotated[Natural, TRAINING] = 0
    """negatives kept per position, those that score highest; 0 keeps all"""
    in_batch: Annotated[bool, TRAINING] = False  # the batch's other targets are negatives too
    log_q: Annotated[Literal["none", "plain", "refined"], TRAINING] = "none"
    """correct shared and in-batch negatives for how often they are drawn; refined: the target left out of the sum"""
    feedback: Annotated[Weight, TRAINING] = 0.0
    """weight of a further term: predict the feedback of the next event"""
    contrastive: Annotated[Weight, TRAINING] = 0.0
    """weight of a further term: InfoNCE against the session's skips"""
    contrastive_form: Annotated[Literal["paper", "released"], TRAINING] = "paper"
    """released: with the faults of the authors' code"""
    contrastive_context: Annotated[Literal["predicted", "item"], TRAINING] = "predicted"
    """c: hidden state, or row of the current item"""
    temperature: Annotated[Size, TRAINING] = 0.1  # of the contrastive term
    skips_kept: Annotated[Share, TRAINING] = 1.0  # share of the skips that the contrastive term sees


@dataclass(frozen=True)
class LikeConfig:
    weight: Annotated[Weight, MODEL] = 0.0
    """of a head beside the one that ranks, which learns P(liked | shown); 0 leaves it out"""
    rows: Annotated[Literal["own", "none", "folded"], MODEL] = "own"
    """what it knows of a listener: a row per item against the encoder's state; none: the items' biases alone; folded:
    such rows on top of factorisations of the signs, which stay fixed, solved for the listener from the events seen"""
    gradient: Annotated[bool, TRAINING] = False
    """its loss trains the encoder too; without, the model ranks as if the head were not there"""
    decay: Annotated[Weight, TRAINING] = 0.0  # decoupled weight decay of its rows
    learning_rate: Annotated[float, Bounds(0.0, 1e30), TRAINING] = 0.0
    """peak, of its rows and biases; 0 takes that of the parameters"""

    @property
    def folds(self) -> bool:
        """Whether listeners are folded in."""
        return self.weight > 0 and self.rows == "folded"


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: Annotated[float, above(0.0, 1e30), TRAINING] = 1e-3  # peak
    warmup_steps: Annotated[Natural, TRAINING] = 100  # linear from 0 to the peak
    decay: Annotated[Literal["constant", "cosine"], TRAINING] = "constant"
    """after warm-up, over the epochs of the run"""
    weight_decay: Annotated[Weight, TRAINING] = 0.0  # decoupled, on matrices and tables
    clip: Annotated[Weight, TRAINING] = 5.0  # gradient norm; 0 clips nothing
    b2: Annotated[float, inside(0, 1, "()"), TRAINING] = 0.98  # Adam's second moment decay
    rows: Annotated[Literal["dense", "sgd", "adagrad", "lazy_adam"], TRAINING] = "dense"
    """of item tables: Adam over all rows as of the parameters, or an optimiser of the rows that a batch touches"""
    row_learning_rate: Annotated[float, Bounds(0.0, 1e30), TRAINING] = 0.0
    """peak, of touched rows; 0 takes that of the parameters"""
    accumulate: Annotated[Positive, TRAINING] = 1
    """parts that a batch is taken in, one by one; the update is that of the whole"""
    average: Annotated[Part, MODEL] = 0.0
    """decay of the moving average of the weights that is evaluated; 0 takes the weights"""


@dataclass(frozen=True)
class TrainConfig:
    epochs: Annotated[Positive, NOTHING] = 50  # at most
    patience: Annotated[Natural, NOTHING] = 5
    """evaluations after warm-up without a better one before stopping; 0 never stops early"""
    monitor: Annotated[str, tyro.conf.arg(metavar="FIGURE"), TRAINING] = "pair_accuracy"
    """validation figure that decides: pair_accuracy, user_pair_accuracy, auc, mrr_positive, or ndcg@K, hit_rate@K,
    next_hit_rate@K and released_hit_rate@K with a K of --eval.ks; take the one that the model is judged by"""
    evaluate_every: Annotated[Natural, TRAINING] = 0  # steps between validations; 0 validates once an epoch
    checkpoint_every: Annotated[Natural, TRAINING] = 0
    """steps between checkpoints; 0 saves at each validation"""
    log_every: Annotated[Positive, NOTHING] = 50  # steps between lines of metrics
    steps_per_dispatch: Annotated[Positive, NOTHING] = 1
    """steps that one call of the program takes, where nothing is due between them: for small steps on accelerators"""
    devices: Annotated[Natural, NOTHING] = 0
    """devices to train on; 0 takes all; a CPU is one of all its cores, or as many as are asked for, up to one a core"""
    shards: Annotated[Positive, NOTHING] = 1
    """devices that share the rows of the item tables; each has all of them with 1"""
    seed: Annotated[Seed, TRAINING] = 0  # of initialisation and dropout
    warm_start: Annotated[Where, option("RUN", "none", "--from"), NOTHING] = ""
    """run to start from; its best weights, rows of items and the like by raw id, whichever its store was"""
    warm_optimizer: Annotated[bool, TRAINING] = True
    """start with the moments of that run's optimiser too"""
    stuck_after: Annotated[Natural, NOTHING] = 1800
    """seconds without a step until the process ends with code 75; 0 waits for ever"""
    profile: Annotated[str, option("START:STEPS", "none"), NOTHING] = ""
    """steps that are traced for TensorBoard and Perfetto, into profile/ of the run, as 100:5"""

    @property
    def profiled(self) -> range:
        """The steps that are traced, counted from 0. Raises ValueError where ``profile`` is no START:STEPS."""
        if not self.profile:
            return range(0)
        start, steps = map(int, self.profile.split(":"))
        return range(start, start + steps)


@dataclass(frozen=True)
class EvalConfig:
    batch_size: Annotated[int, Bounds(1, 1 << 20), FIGURES] = 256  # examples scored together
    ks: Annotated[tuple[Positive, ...], FIGURES] = (10, 100)  # ranking cut-offs
    bands: Annotated[int, Bounds(1, 10_000), FIGURES] = 5  # bands of positive share
    pair_seed: Annotated[Seed, DATA] = 0  # of the choice of pairs and of the bootstrap
    bootstrap: Annotated[int, Bounds(1, 10_000_000), FIGURES] = 1000  # resamples behind each interval
    exclude_seen: Annotated[bool, FIGURES] = False
    """drop the context's items from rankings (films are not watched again, songs are)"""
    released: Annotated[Natural, DATA] = 0
    """random items that stand for the catalogue in released_hit_rate@k; 0 leaves it out"""
    released_batch: Annotated[Positive, DATA] = 64
    """examples in order whose next liked items are candidates together in it"""


@dataclass(frozen=True)
class Config:
    """An experiment. Saved as JSON beside each checkpoint, so nothing downstream needs the Python file."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    like: LikeConfig = field(default_factory=LikeConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
