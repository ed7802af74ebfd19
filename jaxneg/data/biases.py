"""First values of item biases: those that the loss would end with if nothing were known of the listener."""

from collections.abc import Callable

import numpy as np

from jaxneg.config import Config
from jaxneg.data import draws, expected, negatives, sequences, stores


def first(config: Config, store: stores.Store, targets: Callable[[], float]) -> np.ndarray | None:
    """The item biases that a config starts from, float32 [V]; None where it starts from zero.

        bias_i = log(w P(i is the target)) - log(number of times that i is expected among a target's negatives)

    which is where binary cross-entropy, with weight w of the target, has its least value over biases; sampled softmax
    has it up to a constant. Where the loss is of the whole catalogue, or estimates it (log_q), every item is a negative
    once. The loss "feedback" compares each item's likes with its rejections instead. ``loss.hardest`` counts as if all
    were kept.

    Args:
      config: the experiment.
      store: that it trains on.
      targets: tells how many events are targets in a batch on average, of which in-batch negatives are drawn.
    """
    data, loss, prior = config.data, config.loss, config.model.bias_prior
    if config.model.item_bias != "odds":
        return None
    positive_V, negative_V = negatives.train_counts(store)
    share = positive_V.sum() / max((positive_V + negative_V).sum(), 1)
    target_V = smoothed(positive_V, prior * share)
    if loss.name == "feedback":  # one rejected event is as good as one liked
        return _log_odds(target_V, smoothed(negative_V, prior * (1 - share)))
    if data.target == "any":
        target_V = smoothed(negatives.event_counts(store), prior)
    if loss.name == "softmax" or loss.log_q != "none":
        return _log_odds(target_V, np.ones(len(target_V)))
    index = negatives.index_of(store, data)
    hard_V, random_V = (of(index, store, data) for of in (expected.hard_V, expected.random_V))
    hard_V *= negative_V.sum() / max(hard_V.sum(), 1e-9)
    drawn_V = (1 - random_V.sum()) * smoothed(hard_V, prior * (1 - share)) + random_V
    drawn_V = data.negatives * drawn_V
    row = np.arange(len(target_V))
    p_V = draws.chance(row, store.items, data.random, index.until_V)
    drawn_V = drawn_V + data.shared_negatives * p_V * (1 - target_V)
    if loss.in_batch:
        count_V = sequences.target_counts(store, data)
        count_V = smoothed(count_V, prior) * count_V.sum()
        out_V = draws.log_left_out(count_V, max(targets() - 1, 0), max(count_V.sum() - 1, 0))
        drawn_V = drawn_V + np.exp(draws.log_among(out_V)) * (1 - target_V)
    weight = 1.0
    if loss.name == "gbce":
        many = data.negatives + data.shared_negatives
        weight -= loss.calibration * (1.0 - min(many / max(store.items - 1, 1), 1.0))
    return _log_odds(weight * target_V, drawn_V)


def likes(config: Config, store: stores.Store) -> np.ndarray | None:
    """The item biases that a like head starts from, float32 [V]: log odds of a like; None without a head.

        bias_i = log(likes_i + prior share) - log(rejections_i + prior (1 - share))

    ``share`` is that of likes among all signed events of training.
    """
    if config.like.weight == 0:
        return None
    positive_V, negative_V = negatives.train_counts(store)
    share = (positive_V.sum() + 1) / (positive_V.sum() + negative_V.sum() + 2)
    prior = config.model.bias_prior
    return _log_odds(positive_V + prior * share, negative_V + prior * (1 - share))


def smoothed(count_V: np.ndarray, prior: float) -> np.ndarray:
    """Shares of items from their counts, as if each had been met ``prior`` times more; the padding row has none."""
    share_V = (count_V + prior) / max(count_V.sum() + prior * (len(count_V) - 1), 1e-9)
    return np.where(np.arange(len(count_V)) > 0, share_V, 0.0)


def _log_odds(target_V: np.ndarray, drawn_V: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        bias_V = np.log(target_V) - np.log(drawn_V)
    return np.where(np.isfinite(bias_V) & (np.arange(len(bias_V)) > 0), bias_V, 0.0).astype(np.float32)
