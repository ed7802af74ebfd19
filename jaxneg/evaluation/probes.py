"""What a run shows beyond its rankings: whom it can serve, what it takes feedback for, how it answers a dislike."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxneg import metrics
from jaxneg.batch import CODE, EvalBatch
from jaxneg.config import EvalConfig
from jaxneg.data import stores
from jaxneg.data.shards import Events
from jaxneg.files import documents
from jaxneg.metrics import measures, scores

RUNS = 64  # parts in which the log is counted, which bounds the memory
TOP = 100  # items of a list whose change is measured, or a tenth of a catalogue below 1,000
EXAMPLES = 2000  # examples whose lists are compared, at most
NEAR = 0.5  # cosine above which two items count as similar
# like -> its opposite, or the next best
FLIPS = {"play": ("skip", "thumb_down"), "thumb_up": ("thumb_down", "skip")}
# parameters with a row per feedback kind
TABLES = {"added": "inputs.feedback", "gate": "inputs.feedback_gate"}


class Catalogue(NamedTuple):
    """Items as far as their likeness goes."""

    row_VD: np.ndarray  # float32, as they are scored
    attribute_VA: np.ndarray  # int32, values of attributes, 0 for none


def input_sets(store: stores.Store) -> dict[str, list[int]]:
    """Feedback codes by set of inputs, each set with one sort more: likes, thumbs-down, skips."""
    liked = np.flatnonzero(store.sign > 0).tolist()
    return {
        "likes": liked,
        "likes, thumbs-down": [*liked, CODE["thumb_down"]],
        "likes, thumbs-down, skips": [*liked, CODE["thumb_down"], CODE["skip"]],
    }


def user_coverage(store: stores.Store) -> dict[str, dict[int, float]]:
    """Share of all users with usable input events in the training window, by set of inputs.

        coverage(inputs) = |{users with n or more events of the kinds in inputs}| / |users|

    for n of 1 and of evaluate.ENOUGH. NaN without users.

    Reference: Mei, Bembom and Ehmann, Negative Feedback for Music Personalization, 2024, arXiv:2406.04488.
    """
    begin, end = np.asarray(store.session_indptr)[:-1], np.asarray(store.session_train_end)
    user = np.asarray(store.session_user)
    return {
        name: _coverage(
            np.bincount(user, _count(store.feedback_T, codes, begin, end), minlength=store.users), store.users
        )
        for name, codes in input_sets(store).items()
    }


def example_coverage(
    store: stores.Store, begin_X: Int[np.ndarray, "X"], end_X: Int[np.ndarray, "X"], cold: int = 0
) -> dict[str, dict[int, float]]:
    """Share of held-out examples with usable input events before them, by set of inputs; as ``user_coverage``.

    Args:
      store: the log.
      begin_X: place of the first event that an example may take as input; ascending with ``end_X``.
      end_X: one past the last such event.
      cold: further examples, which have no event before them.
    """
    return {
        name: _coverage(_count(store.feedback_T, codes, begin_X, end_X), len(begin_X) + cold)
        for name, codes in input_sets(store).items()
    }


def _coverage(count: np.ndarray, total: int) -> dict[int, float]:
    return {n: metrics.Mean(float((count >= n).sum()), total).value for n in (1, measures.ENOUGH)}


def _count(feedback_T: Events, codes: list[int], begin_X: np.ndarray, end_X: np.ndarray) -> np.ndarray:
    """Events of the codes in each range of the log, int64 [X]; ranges are in the order of the log."""
    count = np.zeros(len(begin_X), np.int64)
    step = max(1, len(begin_X) // RUNS)
    for first in range(0, len(begin_X), step):
        low, high = begin_X[first : first + step], end_X[first : first + step]
        start = low[0]
        total = np.concatenate([[0], np.cumsum(np.isin(feedback_T[start : high.max()], codes))])
        count[first : first + step] = total[high - start] - total[low - start]
    return count


def feedback_cosines(params: documents.Object, kinds: Collection[str]) -> dict[str, Float[np.ndarray, "F F"]]:
    """Cosines between the learned rows of feedback kinds, in the order of ``kinds``, by table of the model.

    "added" are the rows summed into the input, "gate" those that scale an item's row. A model without feedback
    inputs has neither. NaN beside a row of zeros. Leave out kinds that were never an input: their rows are as
    they were drawn.

    Reference: Mei, Bembom and Ehmann, Negative Feedback for Music Personalization, 2024, arXiv:2406.04488.
    """
    codes = [CODE[kind] for kind in kinds]
    found: dict[str, np.ndarray] = {}
    for name, table in TABLES.items():
        if table in params:
            row_FD = np.asarray(params[table], np.float64)[codes]
            with np.errstate(invalid="ignore"):
                row_FD = row_FD / np.linalg.norm(row_FD, axis=1, keepdims=True)
            found[name] = row_FD @ row_FD.T
    return found


def flips(store: stores.Store, kinds: Collection[str]) -> dict[str, str]:
    """Which dislike stands for the opposite of each kind of like, out of the kinds that a model took as inputs."""
    found: dict[str, str] = {}
    for kind, opposites in FLIPS.items():
        known = [one for one in opposites if one in kinds and store.sign[CODE[one]] < 0]
        if kind in kinds and store.sign[CODE[kind]] > 0 and known:
            found[kind] = known[0]
    return found


def responsiveness(
    score: scores.Score,
    batches: Iterable[EvalBatch],
    flip: Mapping[str, str],
    catalogue: Catalogue,
    config: EvalConfig,
    limit: int = EXAMPLES,
) -> dict[str, object]:
    """How the top of a list moves when the last event of its context turns from a like into a dislike.

    The top is of 100 items, or of a tenth of a catalogue below 1,000. Every context that ends in a like is scored
    twice: as it is, and with the feedback of its last event flipped. Of both lists it takes the share of items that
    are similar to the last event's item, itself left out, and how often that item is there:

        change  = mean(share after) / mean(share before) - 1
        overlap = mean over examples of |before and after| / |before or after|

    Similar by "attribute" shares a value of any attribute, such as the artist; by "row" has a cosine above 0.5
    between the rows that are scored. Each comes as {"before", "after", "change", "change_low", "change_high"},
    "item" likewise for the item itself. Intervals are 95% bootstrap intervals over users. A change is NaN where
    nothing was similar before; "attribute" is missing where tracks have no attributes.

    Args:
      score: from a batch to scores_BV.
      batches: of held-out examples; taken until ``limit`` examples are found.
      flip: dislike to put in place of each kind of like, from ``flips``.
      catalogue: what makes two items similar.
      config: whether a context's items are left out of its lists, the last one included; resamples behind each
        interval and their seed.
      limit: examples at most.

    Reference: Wang et al., Learning from Negative User Feedback and Measuring Responsiveness for Sequential
    Recommenders, 2023, arXiv:2308.12256.
    """
    columns: dict[str, list[np.ndarray]] = {}
    users: list[np.ndarray] = []
    examples, k = 0, min(TOP, max(1, (len(catalogue.row_VD) - 1) // 10))
    for batch in batches:
        at, last_B, flipped = _flipped(batch, flip)
        at = at[: limit - examples]
        if len(at):
            before_Bk, after_Bk = (
                _top(scored, one, at, k, config.exclude_seen)
                for one, scored in scores.each(score, (batch, flipped))
            )
            measured = {"overlap": _jaccard(before_Bk, after_Bk)}
            for end, top_Bk in (("before", before_Bk), ("after", after_Bk)):
                shares = _shares(top_Bk, last_B[at], catalogue)
                measured |= {f"{name} {end}": share_B for name, share_B in shares.items()}
            for name, value_B in measured.items():
                columns.setdefault(name, []).append(value_B)
            users.append(np.asarray(batch.user_B)[at])
            examples += len(at)
        if examples >= limit:
            break
    user_X = np.concatenate(users) if users else np.zeros(0, np.int32)
    found: dict[str, object] = {
        "users": len(np.unique(user_X)),
        "examples": examples,
        "top": k,
        "flip": dict(flip),
    }
    if examples == 0:
        return found
    value_X = {name: np.concatenate(column) for name, column in columns.items()}
    found["overlap"] = metrics.mean(value_X["overlap"]).value
    found["overlap_low"], found["overlap_high"] = metrics.bootstrap(
        value_X["overlap"], user_X, resamples=config.bootstrap, seed=config.pair_seed
    )
    for name in ("attribute", "row", "item"):
        if f"{name} before" in value_X:
            both = value_X[f"{name} before"], value_X[f"{name} after"]
            found[name] = _change(*both, user_X, config)
    return found


def _flipped(batch: EvalBatch, flip: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, EvalBatch]:
    """Which rows end in a like, the last item of each row, and the batch with these likes turned into dislikes."""
    feedback_BL = np.array(batch.feedback_BL)
    every = np.arange(len(feedback_BL))
    place_B = np.maximum((np.asarray(batch.item_BL) > 0).sum(-1) - 1, 0)
    opposite = {CODE[kind]: CODE[other] for kind, other in flip.items()}
    last_B = np.asarray(batch.item_BL)[every, place_B]
    ends_B = np.isin(feedback_BL[every, place_B], list(opposite)) & np.asarray(batch.real_B) & (last_B > 0)
    at = np.flatnonzero(ends_B)
    feedback_BL[at, place_B[at]] = [opposite[int(code)] for code in feedback_BL[at, place_B[at]]]
    return at, last_B, batch._replace(feedback_BL=feedback_BL)


def _top(scored: scores.Scored, batch: EvalBatch, at: np.ndarray, k: int, exclude_seen: bool) -> np.ndarray:
    """Leading items of the rows ``at``, int64 [B, k]; 0 where the catalogue ends."""
    seen_BL = np.asarray(batch.item_BL)[at] if exclude_seen else None
    return scores.of_rows(scored, at, len(batch.real_B)).rank((), k=k, seen_BL=seen_BL).top_Bk


def _jaccard(a_Bk: np.ndarray, b_Bk: np.ndarray) -> Float[np.ndarray, "B"]:
    """Per row the items in both lists over those in either; 0 fills lists up."""
    both_B = np.array([np.intersect1d(a[a > 0], b[b > 0]).size for a, b in zip(a_Bk, b_Bk, strict=True)])
    either_B = (a_Bk > 0).sum(-1) + (b_Bk > 0).sum(-1) - both_B
    return np.where(either_B > 0, both_B / np.maximum(either_B, 1), np.nan)


def _shares(top_Bk: np.ndarray, item_B: np.ndarray, catalogue: Catalogue) -> dict[str, np.ndarray]:
    """Per row the share of its list that is similar to an item, and whether the item is there."""
    attribute_VA, row_VD = catalogue.attribute_VA, catalogue.row_VD
    size_B = np.maximum((top_Bk > 0).sum(-1), 1)
    itself_Bk = top_Bk == item_B[:, None]
    other_Bk = (top_Bk > 0) & ~itself_Bk
    found = {
        "row": (_near(row_VD, top_Bk, item_B) & other_Bk).sum(-1) / size_B,
        "item": itself_Bk.any(-1).astype(np.float64),
    }
    if attribute_VA.shape[1]:
        own_BA = attribute_VA[item_B]
        same_Bk = ((attribute_VA[top_Bk] == own_BA[:, None]) & (own_BA[:, None] > 0)).any(-1)
        found["attribute"] = (same_Bk & other_Bk).sum(-1) / size_B
    return found


def _near(row_VD: np.ndarray, top_Bk: np.ndarray, item_B: np.ndarray) -> Bool[np.ndarray, "B k"]:
    """Whether the cosine between rows is above NEAR; False beside a row of zeros."""
    top_BkD, item_BD = row_VD[top_Bk], row_VD[item_B]
    length_Bk = np.linalg.norm(top_BkD, axis=-1) * np.linalg.norm(item_BD, axis=-1)[:, None]
    return np.einsum("BkD,BD->Bk", top_BkD, item_BD) > NEAR * length_Bk


def _change(
    before_X: np.ndarray, after_X: np.ndarray, user_X: np.ndarray, config: EvalConfig
) -> dict[str, float]:
    before, after = before_X.mean(), after_X.mean()
    low, high = metrics.bootstrap_ratio(
        after_X, before_X, user_X, resamples=config.bootstrap, seed=config.pair_seed
    )
    return {
        "before": float(before),
        "after": float(after),
        "change": float(after / before) - 1 if before > 0 else float("nan"),
        "change_low": low - 1,
        "change_high": high - 1,
    }
