"""Names of figures: how people read them, and which of them a validation can decide by."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "pair_accuracy": "pair accuracy",
    "user_pair_accuracy": "pair accuracy by user",
    "drawn_pair_accuracy": "pair accuracy, a pair a user",
    "auc": "AUC",
    "like_pair_accuracy": "pair accuracy of likes",
    "like_auc": "AUC of likes",
    "mrr_positive": "MRR liked",
    "mrr_negative": "MRR disliked",
    "random_accuracy": "against random items",
    "epochs_to_convergence": "epochs to convergence",
    "seconds_to_convergence": "seconds to convergence",
    "hard_share": "share of hard negatives",
}
NAMES = {
    "hit_rate": "HR",
    "ndcg": "NDCG",
    "gini": "Gini",
    "item_coverage": "coverage",
    "next_hit_rate": "next HR",
    "released_hit_rate": "released HR",
    "delta_hit_rate": "ΔHR",
    "delta_ndcg": "ΔNDCG",
}

VALIDATION = "validation_"  # how figures of validation begin beside others

OF_PAIRS = ("pair_accuracy", "user_pair_accuracy", "auc")  # of liked and disliked items
OF_LIKED = ("mrr_positive",)
# of liked items, each with "@" and a cut-off
AT_K = ("ndcg", "hit_rate", "next_hit_rate", "released_hit_rate")
SPOKEN = f"{', '.join((*OF_PAIRS, *OF_LIKED))}, or {', '.join(f'{name}@K' for name in AT_K)}"


def title(figure: str) -> str:
    """A figure as people read it: "ndcg@10" -> "NDCG@10"."""
    if figure.startswith("last_"):
        return f"{title(figure.removeprefix('last_'))}, last epoch"
    name, at, k = figure.partition("@")
    return TITLES.get(figure) or (f"{NAMES[name]}@{k}" if at and name in NAMES else figure.replace("_", " "))


def is_monitor(figure: str) -> bool:
    """Whether a validation can decide by a figure of that name, if its cut-off is measured."""
    name, at, k = figure.partition("@")
    if not at:
        return figure in (*OF_PAIRS, *OF_LIKED)
    return name in AT_K and k.isascii() and k.isdigit() and k == str(int(k)) and int(k) > 0


def monitors(ks: Sequence[int], released: bool) -> list[str]:
    """The figures that a validation with these cut-offs can decide by."""
    at_k = [name for name in AT_K if released or name != "released_hit_rate"]
    return [*OF_PAIRS, *OF_LIKED, *(f"{name}@{k}" for name in at_k for k in ks)]


def counted(users: int, pairs: int | None = None, examples: int | None = None) -> str:
    """How many a figure is of: "312 pairs of 40 users"."""
    parts = [_number(n, word) for n, word in ((pairs, "pair"), (examples, "example")) if n is not None]
    who = _number(users, "user")
    return f"{' in '.join(parts)} of {who}" if parts else who


def validated(run: Mapping[str, Any]) -> str:
    """How many a run's validation is of; empty of a run of a version that did not say so."""
    users, pairs, examples = (run.get(f"{VALIDATION}{name}") for name in ("users", "pairs", "examples"))
    return "" if users is None else counted(users, pairs, examples)


def apart(low: float | None, high: float | None) -> str:
    """What a difference with such an interval is to 0; without an interval it is not told apart."""
    if low is None or high is None:
        return "not told apart from"
    return "above" if low > 0 else "below" if high < 0 else "not told apart from"


def shortened(name: str, most: int = 32) -> str:
    """A name that a plot has room for: of a long one the beginning and, longer, the end, as paths differ there."""
    if len(name) <= most:
        return name
    start = most // 4
    return f"{name[:start]}…{name[start + 1 - most :]}"


def _number(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
