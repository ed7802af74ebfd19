"""What settings must be together, beyond what each field takes by itself."""

import re

from jaxneg import figures
from jaxneg.config import parts
from jaxneg.config.fields import settled
from jaxneg.config.schema import Config
from jaxneg.errors import UserError


def check(config: Config) -> Config:
    """The config with every value as its field has it, once they make sense together.

    Raises UserError naming the field otherwise; see ``fields`` for what means the same.
    """
    config = settled(config, Config)
    data, model, optim = config.data, config.model, config.optim
    batch = f"the batch size {data.batch_size}"
    rules = [
        (data.batch_size % data.blocks == 0, "--data.blocks", f"a divisor of {batch}", data.blocks),
        (
            model.width % model.heads == 0,
            "--model.heads",
            f"a divisor of the width {model.width}",
            model.heads,
        ),
        (
            data.batch_size % optim.accumulate == 0,
            "--optim.accumulate",
            f"a divisor of {batch}",
            optim.accumulate,
        ),
        (
            figures.is_monitor(config.train.monitor),
            "--train.monitor",
            f"one of {figures.SPOKEN}",
            config.train.monitor,
        ),
        (
            re.fullmatch(r"(\d{1,9}:[1-9]\d{0,8})?", config.train.profile) is not None,
            "--train.profile",
            "START:STEPS, as 100:5",
            config.train.profile,
        ),
        (len(config.eval.ks) > 0, "--eval.ks", "one cut-off or more", config.eval.ks),
    ]
    for holds, name, rule, value in rules:
        if not holds:
            raise UserError(f"{name} must be {rule}, got {value}")
    for clash, what, mend in _clashes(config):
        if clash:
            raise UserError(f"{what}: {mend}")
    return config


def _clashes(config: Config) -> list[tuple[bool, str, str]]:
    """Settings that do not go together, and what to do instead."""
    data, model, loss, optim, like = config.data, config.model, config.loss, config.optim, config.like
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
    packed = (
        "--data.packed always" if data.packed == "always" else f"--data.row {data.row}" if data.row else ""
    )
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
            (main.signed or loss.feedback > 0 or like.weight > 0)
            and (data.target == "next_positive" or (data.mask > 0 and data.target == "positive")),
            "--loss.feedback, --like.weight, --loss.name feedback and not_to_recommend learn from rejected events too",
            "use --data.target positive without --data.mask, or --data.target any",
        ),
        (
            like.folds and data.mask > 0,
            "--like.rows folded solves for a listener from the events before the next one, and --data.mask hides some",
            "leave one of them out",
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
            touched and optim.average > 0,
            f"--optim.average averages all rows, and --optim.rows {optim.rows} leaves most alone",
            "leave one of them out",
        ),
        (
            touched and like.weight > 0 and (like.decay > 0 or like.learning_rate > 0),
            f"--like.decay and --like.learning-rate are of rows that Adam changes, and --optim.rows {optim.rows} has "
            "all item rows",
            "leave them out, or use --optim.rows dense",
        ),
        (
            bool(packed) and not encoder.packable,
            f"--model.encoder {model.encoder} would look across the sequences of a packed row",
            f"use another encoder, or leave out {packed}",
        ),
        (
            bool(packed) and data.shuffle_block > 0,
            "--data.shuffle-block mixes runs of sequences, and packing has laid them into rows of several",
            f"leave it or {packed} out",
        ),
        (
            bool(packed) and loss.contrastive > 0,
            "--loss.contrastive needs whole sequences, and a packed row has no room for their last events",
            f"leave it or {packed} out",
        ),
        (
            data.row > 0 and data.packed == "never",
            f"--data.row {data.row} is of rows that sequences share, and --data.packed is never",
            "leave one of them out",
        ),
        (
            0 < data.row < data.positions,
            f"--data.row {data.row} is shorter than a sequence of {data.positions} positions",
            f"give {data.positions} or more, or a smaller --data.length",
        ),
        (
            model.attention != "plain" and not encoder.blocks,
            f"--model.attention {model.attention} is for attention, which --model.encoder {model.encoder} has not",
            "leave it out",
        ),
        (
            model.residual != "float32" and not encoder.blocks,
            f"--model.residual is of blocks, and --model.encoder {model.encoder} has none",
            "leave it out",
        ),
        (
            model.residual == "bfloat16" and model.dtype != "bfloat16",
            f"--model.residual bfloat16 would round what products in {model.dtype} made",
            "use --model.dtype bfloat16 too, or leave it out",
        ),
        (
            model.dropout_attention is not None and not encoder.blocks,
            f"--model.dropout-attention is of attention, which --model.encoder {model.encoder} has not",
            "leave it out",
        ),
        (
            model.attention == "fused" and (model.dropout_attention or 0.0) > 0,
            f"--model.dropout-attention {model.dropout_attention} drops weights of attention, which no kernel of "
            "--model.attention fused does",
            "give 0, or --model.attention plain",
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
            optim.accumulate > 1 and (loss.feedback > 0 or loss.contrastive > 0 or like.weight > 0),
            "--optim.accumulate weighs parts by their targets, and --loss.feedback, --loss.contrastive and "
            "--like.weight are means over other events",
            "leave one of them out",
        ),
    ]


def may_pack(config: Config) -> bool:
    """Whether sequences of this config may share a row, if that is worth it."""
    data = config.data
    whole = config.loss.contrastive > 0 or data.shuffle_block > 0
    return data.packed != "never" and parts.ENCODERS[config.model.encoder].packable and not whole
