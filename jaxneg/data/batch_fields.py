"""Which fields of a batch a config reads. The others have no elements: nothing is drawn, sent or looked up for them."""

from jaxneg.batch import Batch
from jaxneg.config import Config, parts, rules

ALWAYS = ("item_BL", "target_BL")


def read(config: Config, stations: int = 1) -> frozenset[str]:
    """Names of the fields of ``Batch`` that the training step of a config reads.

    Args:
      config: the experiment.
      stations: of the store; without any the model has no use for them.
    """
    data, model, loss = config.data, config.model, config.loss
    ranks = loss.name != "feedback"
    sampled = ranks and loss.name != "softmax"
    own = sampled and data.negatives > 0
    shared = sampled and data.shared_negatives > 0
    corrected = sampled and loss.log_q != "none"
    by_label = parts.LOSSES[loss.name].signed or loss.feedback > 0 or data.target != "any"
    by_label |= config.like.weight > 0
    reads = {
        "feedback_BL": model.feedback != "none" or data.mask > 0 or config.like.folds,
        "station_BL": model.station and stations > 0,
        "label_BL": by_label,
        "negative_BLN": own,
        "hard_BLN": own and data.p_hard > 0,
        "event_BM": loss.contrastive > 0,
        "sign_BM": loss.contrastive > 0,
        "shared_S": shared,
        "shared_log_q_S": shared and corrected,
        "target_log_q_BL": corrected and loss.in_batch,
        "segment_BL": rules.may_pack(config),  # empty all the same where packing saves too little
    }
    return frozenset(ALWAYS) | {name for name, is_read in reads.items() if is_read}


def without(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a field that is not read: its rows, where it has rows of a batch, and nothing in them."""
    return (*shape[:-1], 0)


ALL = frozenset(Batch._fields)
