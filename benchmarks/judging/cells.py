"""Cells of the study's sweeps, and the pairs of them that rules compare."""

from typing import NamedTuple

P_HARD = ("0", "0.3", "0.4", "0.6", "1")
KINDS = ("+", "+ -", "+ - skip")
HARDEST = ("16", "64 shared", "1024 shared")
ORDERED = ("contrastive", "spotify")  # sweeps whose claims are on the next song, one by log


class Cell(NamedTuple):
    """A cell of a sweep of the study."""

    sweep: str
    labels: tuple[str, ...]


class Pair(NamedTuple):
    """A figure of a cell less that of another."""

    figure: str
    one: Cell
    other: Cell


def at(p_hard: str) -> Cell:
    return Cell("p_hard", (p_hard,))


def shown(kind: str, target: str) -> Cell:
    """Trained with kinds of feedback as inputs against "random" or "true" negatives."""
    if kind == "+ - skip":
        return at({"random": "0", "true": "1"}[target])
    return Cell("negatives", (kind, target))


def hardest_of(n: str) -> Cell:
    return Cell("hardest", (n,))


def arm(target: str, term: str, sweep: str = "contrastive") -> Cell:
    return Cell(sweep, (target, term))


def popularity(sweep: str) -> Cell:
    """Popularity in the station on the examples of a sweep."""
    return Cell("baselines", (sweep,))


def encoder(name: str, term: str) -> Cell:
    return arm("next_positive", term) if name == "SASRec" else Cell("encoders", (name, term))


def taken_apart(name: str) -> Cell:
    """The term otherwise than in the six arms."""
    return Cell("term", (name,))


def objective(name: str) -> Cell:
    return Cell("objectives", (name,))


OFF, PAPER = arm("next_positive", "off"), arm("next_positive", "paper")
# Published gain of HR@1 by encoder, without and with InfoNCE on MSSD.
ENCODERS = {"SASRec": 0.410 / 0.377 - 1, "BERT4Rec": 0.355 / 0.204 - 1, "GRU4Rec": 0.235 / 0.210 - 1}
ENCODERS |= {"Caser": 0.251 / 0.223 - 1}
WEIGHTS = {
    "off": OFF,
    "0.25": taken_apart("weight 0.25"),
    "0.5": PAPER,
    "0.75": taken_apart("weight 0.75"),
    "1": taken_apart("weight 1"),
}
HIT = "released_hit_rate@1"
TRON = "TRON: 100 of 1000 shared, none hard"
BCE = "BCE, p_hard 0.5"
CLOZE = ("bidirectional", "causal")


def pairs() -> list[Pair]:
    """All that rules compare over listeners, which benchmarks/study.py therefore measures."""
    made = [Pair("pair_accuracy", at(p), at("0")) for p in ("0.3", "0.4", "1")]
    made += [Pair(of, at("1"), at("0")) for of in ("mrr_positive", "mrr_negative")]
    made += [Pair("pair_accuracy", shown(kind, "true"), shown(kind, "random")) for kind in KINDS[:2]]
    made += [Pair("pair_accuracy", shown("+ - skip", "true"), shown("+", "true"))]
    made += [Pair("pair_accuracy", shown("+", "true"), shown("+ - skip", "random"))]
    for n in HARDEST:
        made += [Pair("pair_accuracy", hardest_of(n), at("0")), Pair("pair_accuracy", at("1"), hardest_of(n))]
        made += [Pair("pair_accuracy", hardest_of(n), hardest_of(HARDEST[-1]))] if n != HARDEST[-1] else []
    made += [Pair(HIT, arm("next_positive", "off", sweep), popularity(sweep)) for sweep in ORDERED]
    for of in (HIT, "released_hit_rate@20", f"last_{HIT}", "pair_accuracy"):
        made += [Pair(of, encoder(name, "paper"), encoder(name, "off")) for name in ENCODERS]
        for sweep in ORDERED:
            for target in ("next_positive", "any"):
                off, paper, released = (arm(target, term, sweep) for term in ("off", "paper", "released"))
                made += [Pair(of, paper, off), Pair(of, released, off), Pair(of, paper, released)]
        made += [Pair(of, taken_apart("c = item"), OFF)]
    made += [
        Pair("unseen_disliked_mrr@10", encoder(name, "off"), encoder(name, "paper")) for name in ENCODERS
    ]
    made += [Pair(HIT, PAPER, taken_apart(f"{kept}% of skips")) for kept in (25, 50)]
    inner = list(WEIGHTS.values())[1:-1]
    made += [Pair(HIT, one, other) for one in inner for other in (OFF, WEIGHTS["1"])]
    made += [
        Pair("pair_accuracy", objective(BCE), objective(f"BCE, no {name}")) for name in ("station", "artist")
    ]
    made += [Pair("pair_accuracy", objective(f"BCE, cloze, {name}"), objective(BCE)) for name in CLOZE]
    made += [Pair(of, objective(TRON), at("0")) for of in ("ndcg@10", "pair_accuracy")]
    return list(dict.fromkeys(made))
