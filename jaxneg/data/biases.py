"""First values of item biases: those that the loss would end with if nothing were known of the listener."""

from collections.abc import Callable, Iterator

import numpy as np

from jaxneg.config import Config, DataConfig
from jaxneg.data import negatives, opinions, pipeline, store as stores


def first(config: Config, store: stores.Store, targets: Callable[[], float]) -> np.ndarray | None:
    """The item biases that a config starts from, float32 [V]; None where it starts from zero.

        bias_i = log(w P(i is the target)) - log(number of times that i is expected among a target's negatives)

    which is where binary cross-entropy, with weight w of the target, has its least value over biases; sampled softmax
    has it up to a constant. Where the loss is of the whole catalogue, or estimates it (log_q), every item is a negative
    once. The loss "feedback" compares each item's likes with its rejections instead. What a position's negatives are
    expected to be follows ``draw_negatives`` but for draws that hit the target; scope "popularity" counts as "user",
    and ``loss.hardest`` as if all were kept.

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
    hard_V, random_V, found = own(index, store, data)
    count_V = hard_V * negative_V.sum() / max(hard_V.sum(), 1e-9)
    drawn_V = data.negatives * (found * smoothed(count_V, prior * (1 - share)) + random_V)
    row = np.arange(len(target_V))
    p_V = negatives.chance(row, store.items, data.random, index.until_V)
    drawn_V = drawn_V + data.shared_negatives * p_V * (1 - target_V)
    if loss.in_batch:
        among_V = smoothed(pipeline.target_counts(store, data), prior)
        drawn_V = drawn_V + np.exp(negatives.log_any(among_V, max(targets() - 1, 0))) * (1 - target_V)
    weight = 1.0
    if loss.name == "gbce":
        many = data.negatives + data.shared_negatives
        weight -= loss.calibration * (1.0 - min(many / max(store.items - 1, 1), 1.0))
    return _log_odds(weight * target_V, drawn_V)


def own(
    index: negatives.NegativeIndex, store: stores.Store, data: DataConfig
) -> tuple[np.ndarray, np.ndarray, float]:
    """What one of a target's own negatives is expected to be: hard ones, random ones, and the share of hard ones.

    Both are float64 [V]; of random ones they are chances, which sum to the share that is not hard, of hard ones
    they are known up to a factor.
    """
    targets_G, user_G = _targets(store, data)
    by_user = np.bincount(user_G, targets_G, minlength=store.users)
    weight = index.weight if len(index.weight) else np.arange(len(index.negative_item) + 1.0)
    of_user = weight[index.negative_indptr[index.user_group_indptr]]
    total_U = np.diff(of_user)
    entry_X, scale_X = index.negative_item, np.zeros(0)
    hard_V = np.zeros(store.items + 1)
    if data.hard_scope in ("station", "session"):
        if data.hard_scope == "session":
            targets_R, user_R = _by_session(store, data), np.asarray(store.session_user)
            indptr, entry_X = np.asarray(index.session_indptr), index.session_item
            its = index.session_weight if len(index.session_weight) else np.arange(len(entry_X) + 1.0)
        else:
            targets_R, user_R, indptr, its = targets_G, user_G, index.negative_indptr, weight
        total_R = np.diff(its[indptr])
        rate_R = np.where(total_R > 0, targets_R / np.where(total_R > 0, total_R, 1.0), 0.0)
        scale_X = np.repeat(rate_R, np.diff(indptr)) * np.diff(its)
        hard_V += np.bincount(entry_X, scale_X, minlength=len(hard_V))
        left_U = np.bincount(user_R, np.where(total_R > 0, 0.0, targets_R), minlength=store.users)
    else:
        left_U = by_user
    rate_U = np.where(total_U > 0, left_U / np.where(total_U > 0, total_U, 1.0), 0.0)
    sizes_U = np.diff(index.negative_indptr[index.user_group_indptr])
    hard_V += np.bincount(
        index.negative_item, np.repeat(rate_U, sizes_U) * np.diff(weight), minlength=len(hard_V)
    )
    total = max(by_user.sum(), 1)
    random_U = by_user / total * (1 - data.p_hard * (total_U > 0))
    return hard_V, _random(index, data, random_U), float(1 - random_U.sum())


def smoothed(count_V: np.ndarray, prior: float) -> np.ndarray:
    """Shares of items from their counts, as if each had been met ``prior`` times more; the padding row has none."""
    share_V = (count_V + prior) / max(count_V.sum() + prior * (len(count_V) - 1), 1e-9)
    return np.where(np.arange(len(count_V)) > 0, share_V, 0.0)


def _random(index: negatives.NegativeIndex, data: DataConfig, weight_U: np.ndarray) -> np.ndarray:
    """Chances of random negatives, which are no positives of their user, over users of these weights."""
    row = np.arange(index.items + 1)
    p_V = np.where(row > 0, negatives.chance(row, index.items, data.random, index.until_V), 0.0)
    sizes_U = np.diff(index.positive_indptr)
    user_P = np.repeat(np.arange(len(sizes_U)), sizes_U)
    free_U = index.items - sizes_U
    some_U = free_U > 0  # a user who likes everything keeps the draw
    again_U = np.bincount(user_P, p_V[index.positive_item], minlength=len(sizes_U)) * some_U
    again_U = again_U / np.maximum(
        free_U, 1
    )  # chance of each item that is free to be drawn in place of positives
    # One listener more who likes nothing keeps what all others like from never being drawn.
    kept = len(sizes_U) / (len(sizes_U) + 1)

    def liked(value_U: np.ndarray) -> np.ndarray:
        return kept * np.bincount(index.positive_item, (value_U * some_U)[user_P], minlength=len(row))

    random_V = p_V * (weight_U.sum() - liked(weight_U))
    random_V += (weight_U * again_U).sum() - liked(weight_U * again_U)
    return np.where(row > 0, random_V, 0.0)


def _targets(store: stores.Store, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Events that may be targets in each (user, station) group, and the user of each."""
    indptr = np.asarray(store.user_group_indptr)
    count_G = np.zeros(indptr[-1], np.int64)
    for event in _wanted(store, data):
        count_G += np.bincount(store.group_T[event], minlength=len(count_G))
    return count_G, np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def _by_session(store: stores.Store, data: DataConfig) -> np.ndarray:
    """Events that may be targets in each session."""
    indptr = np.asarray(store.session_indptr)
    count = np.zeros(len(indptr) - 1, np.int64)
    for event in _wanted(store, data):
        count += np.bincount(np.searchsorted(indptr, event, side="right") - 1, minlength=len(count))
    return count


def _wanted(store: stores.Store, data: DataConfig) -> Iterator[np.ndarray]:
    for event in opinions.training_runs(store):
        yield event if data.target == "any" else event[store.sign[store.feedback_T[event]] > 0]


def _log_odds(target_V: np.ndarray, drawn_V: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        bias_V = np.log(target_V) - np.log(drawn_V)
    return np.where(np.isfinite(bias_V) & (np.arange(len(bias_V)) > 0), bias_V, 0.0).astype(np.float32)
