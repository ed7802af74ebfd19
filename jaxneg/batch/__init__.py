"""The contract between the host, which makes batches, and the device, which trains on them.

Dimension key, used in every name, einsum and annotation of the package:

    B  sequences in a batch         V  rows of the catalogue: row 0 pads, then items
    L  positions in a sequence      A  attributes of a track
    M  positions attended to        U  distinct rows touched by a batch
    N  negatives per position       C  candidates ranked per query
    D  model width                  T  events in a flat log
    H  heads                        K  width of a head
    F  feed-forward width           S  negatives shared by a batch
                                    1  a broadcast axis

Sequences are padded on the right: position 0 holds the oldest event, so a causal model needs no padding mask.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy on the host, jax on the device

PAD = 0  # the row of no item, no station, no attribute, no feedback

# Feedback kinds, as stored and embedded. Their order is part of the store's format.
FEEDBACK = ("pad", "unknown", "thumb_down", "skip", "play", "thumb_up")
CODE = {kind: code for code, kind in enumerate(FEEDBACK)}
MASK = len(FEEDBACK)  # feedback code of an event that is hidden from the inputs; its item is PAD


def latest(shown_T: np.ndarray, length: int) -> np.ndarray:
    """Places of the events of one history that a model sees: of the last ``length`` of those shown, oldest first.

    Args:
      shown_T: bool, where an event is of a kind that is an input.
      length: events that the model sees, L.
    """
    return shown_T.nonzero()[0][-length:]


class Form(NamedTuple):
    """The shape of the global batches of a run, the same for every step."""

    rows: int  # of all processes, B
    length: int  # positions of a row, L
    packed: bool = False  # whether rows hold several sequences
    empty: int = 0  # rows among them that hold nothing, so that devices share packed rows evenly

    @property
    def held(self) -> int:
        """Rows that hold something in a full batch."""
        return self.rows - self.empty


class Batch(NamedTuple):
    """Training sequences. Position t carries the event seen at t and what is to be predicted there.

    That is an event after t, or, in cloze training, the hidden event at t. Cloze training shows all M = L + 1 events of
    a sequence, so that its L is one larger.

    Where rows are packed they hold several sequences one after the other. A field that the config does not read has
    no elements, its last axis being 0: ``data.batch_fields`` says which.
    """

    item_BL: Array  # int32, rows of the events seen; PAD after the last and where hidden
    feedback_BL: Array  # int32, codes of the events seen; MASK where hidden
    station_BL: Array  # int32, stations of the events seen
    target_BL: Array  # int32, row of the event to predict, whatever its feedback; PAD where there is none
    label_BL: (
        Array  # int8, feedback that the target got: +1 liked, -1 rejected, 0 neither; 0 without a target
    )
    negative_BLN: Array  # int32, negatives for the target; PAD where the losses need none
    hard_BLN: Array  # bool, True where the negative is a real one rather than a random draw
    event_BM: Array  # int32, rows of the whole sequence, last and hidden events included; M = 0 if packed
    sign_BM: Array  # int8, feedback that they got: +1, 0, -1
    shared_S: (
        Array  # int32, random negatives shared by the batch; corrected ones once each, PAD for repetitions
    )
    shared_log_q_S: (
        Array  # float32, log of the chance that the item is a shared or in-batch negative of a position
    )
    target_log_q_BL: Array  # float32, likewise of the target, at positions with another one
    segment_BL: Array  # int32, number of the sequence in its row from 1, 0 pads; L = 0 unless packed


class EvalBatch(NamedTuple):
    """Held-out examples: a context that the model sees and the liked and disliked items that follow it."""

    item_BL: Array  # int32, the last L events of the context
    feedback_BL: Array  # int32
    station_BL: Array  # int32
    liked_BC: Array  # int32, held-out positives in order of time, padded with PAD
    disliked_BC: Array  # int32, held-out negatives in order of time, padded with PAD
    pair_B2: Array  # int32, one liked and one disliked item of the same station; PAD, PAD where there is none
    user_B: Array  # int32, user of the example
    share_B: Array  # float32, share of positives among the signed events of the user's whole history
    real_B: Array  # bool, False for rows that only fill up the last batch
