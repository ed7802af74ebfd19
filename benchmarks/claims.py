"""What became of every claim that the four papers make: a row each, from the figures that the benchmarks left.

    .venv/bin/python benchmarks/claims.py

Reads benchmarks/results/study/*.json, which benchmarks/study.py left, and writes claims.md. A verdict is a rule in this
file: nothing is judged by hand. Prints one JSON object with the number of claims by verdict.
"""

import argparse
import collections
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxneg import pages

RESULTS = pathlib.Path(__file__).parent / "results"
SEEN, PARTLY, NOT_SEEN, UNTESTED = "seen", "in part", "not seen", "cannot be tested here"
FIGURES = 2  # of the definitions of figures; tables without it, or below, are of jaxneg 0.1
P_HARD = ("0", "0.1", "0.2", "0.3", "0.4", "0.6", "0.8", "1")
ENCODERS = ("SASRec", "BERT4Rec", "GRU4Rec", "Caser")


BEFORE = (
    "Epochs to convergence there are to within 0.1% of the best validation, which is below its noise; checkpoints were "
    "chosen by another figure than is judged, without step 0; pairs of an item with itself count one half."
)
ORDERLESS = (
    "songs of these sessions are drawn each by itself from the station's pool: nothing but the station tells the next "
    "one, which a term that learns from the session's skips cannot add to"
)


Judge = Callable[[pathlib.Path], tuple[str, str]]


class Missing(Exception):
    """A benchmark that a claim needs has not been run."""


class NotConverged(Missing):
    """A seed stopped at its limit: a mean over the others would flatter the cell."""


class Spread(NamedTuple):
    """A figure over seeds."""

    mean: float
    sd: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.mean:.4f} ± {self.sd:.4f}" if abs(self.mean) < 10 else f"{self.mean:.4g} ± {self.sd:.3g}"
        )


class Study:
    """Figures of one sweep by the labels of a cell."""

    def __init__(self, results: pathlib.Path, name: str):
        path = results / "study" / f"{name}.json"
        if not path.is_file():
            raise Missing(f"benchmarks/study.py --only {name}")
        self.table = json.loads(path.read_text())

    def get(self, figure: str, *labels: str) -> Spread:
        for cell in self.table["cells"]:
            if tuple(cell["labels"].values()) == labels:
                values = [line[figure] for line in cell["seeds"].values() if line.get(figure) is not None]
                if figure.endswith("_to_convergence") and len(values) < len(cell["seeds"]):
                    raise NotConverged(f"not all seeds of {', '.join(labels)} have converged")
                if values:
                    sd = statistics.stdev(values) if len(values) > 1 else 0.0
                    return Spread(statistics.fmean(values), sd, tuple(values))
        raise Missing(f"{figure} of {', '.join(labels)}")

    def catching_up(self, fast: str, slow: str) -> tuple[list[float], list[float]]:
        """Per seed the epoch at which one cell first validates as well as another at its best, and that one's epoch."""
        history = {cell["labels"]["p_hard"]: cell["history"] for cell in self.table["cells"]}
        first, best = [], []
        for s, line in history[slow].items():
            epoch, score = max(line, key=lambda point: point[1])
            first.append(next(e for e, value in history[fast][s] if value >= score))
            best.append(epoch)
        return first, best


def more(a: Spread, b: Spread) -> bool | None:
    """Whether a is above b in mean and by more than the seeds vary; None where they cannot be told apart.

    By more than twice the standard error of the difference of two means over seeds.
    """
    error = (a.sd**2 / max(len(a.seeds), 1) + b.sd**2 / max(len(b.seeds), 1)) ** 0.5
    difference = a.mean - b.mean
    return None if abs(difference) <= 2 * error else difference > 0


def relative(a: Spread, b: Spread) -> float:
    return a.mean / b.mean - 1


def verdict(holds: Sequence[bool | None]) -> str:
    """Seen where all hold, not seen where none does."""
    return SEEN if all(holds) else PARTLY if any(holds) else NOT_SEEN


def of_order(name: str) -> Callable[[Judge], Judge]:
    """Of a claim on the next song: it cannot be tested where the sessions of the table ``name`` have no order."""

    def decorated(judge: Judge) -> Judge:
        def claim(results: pathlib.Path) -> tuple[str, str]:
            found, said = judge(results)
            if Study(results, name).table.get("ordered", False):
                return found, said
            return f"{found}; {ORDERLESS}", UNTESTED

        return claim

    return decorated


# Each claim below returns (what was found, verdict).


def sampler(results):
    study = Study(results, "p_hard")
    shares = [study.get("hard_share", p) for p in P_HARD]
    accuracy = {p: study.get("pair_accuracy", p) for p in P_HARD}
    top = max(one.mean for one in accuracy.values())
    at = {p: (one.mean - accuracy["0"].mean) / (top - accuracy["0"].mean) for p, one in accuracy.items()}
    realised = ", ".join(f"{one.mean:.2f}" for one in shares)
    found = (
        f"realised shares {realised}; of the whole gain {at['0.1']:.0%} at p_hard 0.1, {at['0.3']:.0%} at 0.3"
    )
    close = all(abs(one.mean - float(p)) < 0.02 for p, one in zip(P_HARD, shares, strict=True))
    return found, verdict([close, at["0.3"] >= 0.9])


def accuracy(results):
    study = Study(results, "p_hard")
    a, b = study.get("pair_accuracy", "0.4"), study.get("pair_accuracy", "0")
    return f"{b} at p_hard 0, {a} at 0.4 ({relative(a, b):+.1%})", verdict([more(a, b)])


def online(results):
    path = results / "study" / "ab.json"
    if not path.is_file():
        raise Missing("benchmarks/study.py --only ab")
    return judge_online(json.loads(path.read_text()))


def judge_online(ab: dict[str, Any]) -> tuple[str, str]:
    """The models trained with p_hard 0.4 against the control, collaborative filtering from plays alone."""
    arms = [one for name, one in sorted(ab["arms"].items()) if name.startswith("p_hard_0.4")]
    words, holds = [], []
    figures = (("plays", "completed plays", 1), ("thumb_up_rate", "thumb-up rate", 1), ("gini", "Gini", -1))
    for name, title, sign in figures:
        changes = [one[f"relative_{name}"] for one in arms]
        ends = [(one[f"relative_{name}_low"], one[f"relative_{name}_high"]) for one in arms]
        words.append(f"{title} {statistics.fmean(changes):+.1f}%")
        holds.append(all(min(sign * low, sign * high) > 0 for low, high in ends))
    return f"{', '.join(words)}; mean of {len(arms)} models, each tested on the same listeners", verdict(
        holds
    )


def against_random(results):
    study = Study(results, "p_hard")
    found = {p: study.get("random_accuracy", p) for p in P_HARD}
    return (
        f"{found['0']} at p_hard 0, {found['0.4']} at 0.4, {found['1']} at 1",
        verdict([found["0"].mean > 0.99, found["0.4"].mean > 0.99]),
    )


def diversity(results):
    study = Study(results, "p_hard")
    gini = {p: study.get("gini@10", p) for p in P_HARD}
    least = min(gini, key=lambda p: gini[p].mean)
    found = f"Gini@10 {gini['0']} at 0, least {gini[least]} at {least}, {gini['1']} at 1"
    ends = [more(gini["0"], gini[least]), more(gini["1"], gini[least])]
    return found, verdict([0.2 <= float(least) <= 0.6, *ends])


def ranks(results):
    study = Study(results, "p_hard")
    falls = {}
    for figure in ("mrr_positive", "mrr_negative"):
        ends = study.get(figure, "0"), study.get(figure, "1")
        falls[figure] = relative(ends[1], ends[0]), more(*ends)
    found = (
        f"from p_hard 0 to 1 {falls['mrr_positive'][0]:+.0%} liked, {falls['mrr_negative'][0]:+.0%} disliked"
    )
    first, last = (study.get("mrr_positive", p).mean / study.get("mrr_negative", p).mean for p in ("0", "1"))
    found += f"; liked over disliked {first:.2f} to {last:.2f}"
    return found, verdict([falls["mrr_positive"][1], falls["mrr_negative"][1], last > first])


def epochs(results):
    study = Study(results, "p_hard")
    own = {p: study.get("epochs_to_convergence", p) for p in P_HARD}
    saved = {p: 1 - own[p].mean / own["0"].mean for p in P_HARD}
    found = f"for p_hard {', '.join(P_HARD)}: {', '.join(f'{one.mean:.1f}' for one in own.values())} epochs; "
    found += f"{saved['0.4']:+.0%} saved at 0.4, {saved['1']:+.0%} at 1"
    return found, verdict([saved["0.4"] >= 0.3, saved["1"] >= 0.6])


def headline(results):
    study, by_inputs = Study(results, "p_hard"), Study(results, "negatives")
    a, b = (study.get("pair_accuracy", p) for p in ("1", "0"))
    words, holds = [], [more(a, b)]
    for kind in ("+", "+ -", "+ - skip"):
        true, random = (by_inputs.get("epochs_to_convergence", kind, of) for of in ("true", "random"))
        saved = 1 - true.mean / random.mean
        words.append(f"{true.mean:.1f} against {random.mean:.1f} with inputs {kind} ({saved:.0%} fewer)")
        holds.append(saved >= 0.6)
    reached = [first / best for first, best in zip(*study.catching_up("1", "0"), strict=True)]
    holds.append(max(reached) <= 0.4)
    found = (
        f"epochs to each one's own plateau: {', '.join(words)}; {1 - statistics.fmean(reached):.0%} fewer to the best "
        f"validation AUC of random negatives; pair accuracy {a} against {b} ({relative(a, b):+.1%})"
    )
    return found, verdict(holds)


def on_real_logs(results):
    path = results / "real_p_hard.json"
    if not path.is_file():
        raise Missing("benchmarks/real_data.py")
    words, holds = [], []
    for name, found in json.loads(path.read_text()).items():
        if not isinstance(found, dict):
            continue  # of the file as a whole
        random, true = found["models"]["0"], found["models"]["1"]
        saved = 1 - true["epochs_to_convergence"] / random["epochs_to_convergence"]
        words.append(
            f"{name} {random['epochs_to_convergence']:.1f} to {true['epochs_to_convergence']:.1f} epochs "
            f"({saved:+.0%} saved), AUC {random['auc']:.3f} to {true['auc']:.3f} "
            f"({true['auc'] / random['auc'] - 1:+.1%}), MRR {true['mrr_positive'] / random['mrr_positive'] - 1:+.0%} "
            f"liked and {true['mrr_negative'] / random['mrr_negative'] - 1:+.0%} disliked"
        )
        holds.append(saved >= 0.6 and true["auc"] > random["auc"])
    return "; ".join(words), verdict(holds)


def bands(results):
    study = Study(results, "p_hard")
    words, holds = [], []
    for p in ("0", "0.4", "1"):
        rows = [study.get(f"pair_accuracy of share {w / 5:g} to {(w + 1) / 5:g}", p) for w in range(5)]
        words.append(f"p_hard {p}: {', '.join(f'{row.mean:.3f}' for row in rows)}")
        holds.append(more(rows[-1], rows[0]))
    return f"by fifths of positive share, {'; '.join(words)}", verdict(holds)


def inputs(results):
    study = Study(results, "negatives")
    kinds = ("+", "+ -", "+ - skip")
    accuracy = {kind: study.get("pair_accuracy", kind, "true") for kind in kinds}
    covered = {kind: study.get("user_coverage_5", kind, "true") for kind in kinds}
    words = [
        f"{kind}: accuracy {accuracy[kind]}, coverage of 5 events {covered[kind].mean:.3f}" for kind in kinds
    ]
    holds = [more(accuracy["+ - skip"], accuracy["+"]), covered["+ - skip"].mean > covered["+"].mean + 0.05]
    return "; ".join(words), verdict(holds)


def targets(results):
    study = Study(results, "negatives")
    words, holds = [], []
    for kind in ("+", "+ - skip"):
        true, random = (study.get("pair_accuracy", kind, target) for target in ("true", "random"))
        words.append(f"inputs {kind}: {random} random, {true} true ({relative(true, random):+.1%})")
        holds.append(more(true, random))
    both = [
        study.get("pair_accuracy", *labels).mean
        for labels in (("+", "random"), ("+ - skip", "random"), ("+", "true"))
    ]
    words.append(f"alone the target adds {both[2] - both[0]:+.3f}, the inputs add {both[1] - both[0]:+.3f}")
    return "; ".join(words), verdict([*holds, both[2] > both[1]])


def hardest(results):
    study = Study(results, "hardest")
    own, shared = ("1", "2", "4", "8", "16"), ("16", "32", "64", "128", "256", "512", "1024")
    curve = [(n, study.get("pair_accuracy", n)) for n in own]
    curve += [(f"{n} shared", study.get("pair_accuracy", f"{n} shared")) for n in shared]
    true = study.get("pair_accuracy", "true")
    best = max(curve, key=lambda pair: pair[1].mean)
    found = ", ".join(f"{n}: {one.mean:.3f}" for n, one in curve) + f"; true negatives {true}"
    holds = [more(best[1], curve[0][1]), more(best[1], curve[-1][1]), more(true, best[1])]
    return f"{found}; best at {best[0]}", verdict(holds)


def cosines(results):
    study = Study(results, "p_hard")
    pairs = {"skip, down": "thumb_down_skip", "skip, up": "skip_thumb_up", "skip, play": "skip_play"}
    words, values = [], {}
    for table in ("added", "gate"):
        values[table] = {name: study.get(f"cosine_{table}_{pair}", "1").mean for name, pair in pairs.items()}
        words.append(
            f"{table}: " + ", ".join(f"cos({name}) {value:+.2f}" for name, value in values[table].items())
        )
    holds = [one["skip, down"] > one["skip, up"] for one in values.values()]
    return f"p_hard 1, {'; '.join(words)}", verdict(holds)


def context(results):
    study = Study(results, "objectives")
    whole = study.get("pair_accuracy", "BCE, p_hard 0.5")
    station, artist = (study.get("pair_accuracy", f"BCE, no {name}") for name in ("station", "artist"))
    return f"{whole}; without station {station}, without artist {artist}", verdict(
        [more(whole, station), more(whole, artist)]
    )


def cloze(results):
    study = Study(results, "objectives")
    causal = study.get("pair_accuracy", "BCE, p_hard 0.5")
    hidden = {name: study.get("pair_accuracy", f"BCE, cloze, {name}") for name in ("bidirectional", "causal")}
    words = ", ".join(f"cloze {name} {one}" for name, one in hidden.items())
    return f"next event {causal}, {words}", verdict(
        [more(one, causal) is not False for one in hidden.values()]
    )


def softmax(results):
    study = Study(results, "contrastive")
    own = study.get("released_hit_rate@1", "SASRec", "off"), study.get("hit_rate@1", "SASRec", "off")
    return (
        f"HR@1 {own[0]} among the batch's targets and 1000 random items, {own[1]} among all 19,994",
        SEEN if own[0].mean > own[1].mean else NOT_SEEN,
    )


def term(encoder):
    @of_order("contrastive")
    def claim(results):
        study = Study(results, "contrastive")
        words, holds = [], []
        off = {k: study.get(f"released_hit_rate@{k}", encoder, "off") for k in (1, 20)}
        for name in ("predicted", "item"):
            on = {k: study.get(f"released_hit_rate@{k}", encoder, name) for k in (1, 20)}
            words.append(
                f"c = {name} {on[1]} ({relative(on[1], off[1]):+.1%}; at 20 {relative(on[20], off[20]):+.1%})"
            )
            holds.append(more(on[1], off[1]))
        return f"released HR@1 off {off[1]}, {', '.join(words)}", verdict(holds)

    return claim


@of_order("contrastive")
def architectures(results):
    study = Study(results, "contrastive")
    words, holds = [], []
    for encoder in ENCODERS:
        off, on = (study.get("released_hit_rate@1", encoder, name) for name in ("off", "predicted"))
        liked, without = (study.get("pair_accuracy", encoder, name) for name in ("predicted", "off"))
        words.append(
            f"{encoder} {off.mean:.4f} to {on.mean:.4f} ({relative(on, off):+.1%}), "
            f"pair accuracy {without.mean:.3f} to {liked.mean:.3f}"
        )
        holds.append(more(on, off))
    return f"released HR@1: {'; '.join(words)}", verdict(holds)


@of_order("contrastive")
def shrinks(results):
    study = Study(results, "contrastive")
    gains = {
        k: relative(*(study.get(f"released_hit_rate@{k}", "SASRec", name) for name in ("predicted", "off")))
        for k in (1, 5, 10, 20)
    }
    found = ", ".join(f"{gain:+.1%} at {k}" for k, gain in gains.items())
    return f"SASRec {found}", verdict([gains[1] > 0, gains[1] > max(gains[20], 0)])


@of_order("term")
def skip_share(results):
    study = Study(results, "term")
    steps = ("off", "weight 0.5, 25% of skips", "weight 0.5, 50% of skips", "weight 0.5")
    found = {name: study.get("released_hit_rate@1", name) for name in steps}
    words = ", ".join(f"{name} {one}" for name, one in found.items())
    return f"released HR@1: {words}", verdict([more(found["weight 0.5"], found["weight 0.5, 25% of skips"])])


def down_ranking(results):
    study = Study(results, "contrastive")
    words, holds = [], []
    for encoder in ENCODERS[:2]:
        off, on = (study.get("unseen_disliked_mrr@10", encoder, name) for name in ("off", "predicted"))
        words.append(f"{encoder} {off} to {on} ({relative(on, off):+.0%})")
        holds.append(more(off, on))
    return f"MRR@10 of unseen disliked songs: {'; '.join(words)}", verdict(holds)


@of_order("term")
def weights(results):
    study = Study(results, "term")
    names = ("off", *(f"weight {value}" for value in (0.1, 0.25, 0.5, 0.75, 1)))
    found = {name: study.get("released_hit_rate@1", name) for name in names}
    best = max(found, key=lambda name: found[name].mean)
    words = ", ".join(f"{name} {one.mean:.4f}" for name, one in found.items())
    inner = best not in ("off", "weight 1")
    holds = [inner, more(found[best], found["off"]), more(found[best], found["weight 1"])]
    return f"released HR@1: {words} (s.d. {found['off'].sd:.4f})", verdict(holds)


@of_order("term")
def pairing(results):
    study = Study(results, "term")
    words = []
    figures = ("released_hit_rate@1", "pair_accuracy")
    for name in (
        "off",
        "weight 0.5",
        "released form, weight 0.5",
        "skips as targets",
        "skips as targets, released form, weight 0.5",
    ):
        hit, pair = (study.get(figure, name) for figure in figures)
        words.append(f"{name} {hit.mean:.4f} and {pair.mean:.3f}")
    right, wrong = (study.get("pair_accuracy", name) for name in ("weight 0.5", "released form, weight 0.5"))
    return f"released HR@1 and pair accuracy: {'; '.join(words)}", verdict([more(right, wrong)])


def calibration(results):
    study = Study(results, "objectives")
    own, plain = study.get("ndcg@10", "gBCE, 16"), study.get("ndcg@10", "BCE, p_hard 0.5")
    return (
        f"MovieLens-1M is not here (set JAXNEG_ML1M and run tests/benchmarks/test_ml1m.py); on the simulated log "
        f"NDCG@10 {own} with gBCE and 16 negatives, {plain} with BCE and one",
        UNTESTED,
    )


def tron(results):
    study, plain = Study(results, "objectives"), Study(results, "p_hard")
    name = "TRON: 100 of 1000 shared, none hard"
    hit, pair = ((study.get(of, name), plain.get(of, "0")) for of in ("ndcg@10", "pair_accuracy"))
    return (
        f"NDCG@10 {hit[0]} against {hit[1]} with BCE and one random negative, pair accuracy {pair[0]} "
        f"against {pair[1]}; clicks need a live service",
        verdict([more(*hit)]),
    )


def responsiveness(results):
    study = Study(results, "objectives")
    words, values = [], {}
    for name in ("not to recommend", "BCE, p_hard 0.5"):
        by = {of: study.get(f"responsiveness_{of}", name) for of in ("attribute", "row")}
        values[name] = by
        words.append(f"{name}: same artist {by['attribute'].mean:+.1%}, near row {by['row'].mean:+.1%}")
    falls = [one["attribute"].mean <= -0.3 for one in values.values()]  # half of what was published
    return f"similar songs in the top 100 after a flip: {'; '.join(words)}", verdict(falls)


def not_built(results):
    return "not built: a model of its own, left for later", UNTESTED


class Claim(NamedTuple):
    number: str
    text: str
    paper: str
    published: str
    command: str
    judge: Judge


STUDY = "benchmarks/study.py --only "
CLAIMS = (
    Claim(
        "1",
        "accuracy has a plateau in p_hard; negatives drawn anew each epoch",
        "MuRS'24",
        "plateau after about 0.3",
        STUDY + "p_hard",
        sampler,
    ),
    Claim(
        "2",
        "pair accuracy rises with hard negatives",
        "UMAP'24, MuRS'24",
        "chance 0.5; online +2.4% at p_hard 0.4",
        STUDY + "p_hard",
        accuracy,
    ),
    Claim(
        "2b",
        "a week online against collaborative filtering without negatives",
        "MuRS'24",
        "completed plays +0.8%, thumb-up rate +2.4%, Gini lower",
        STUDY + "ab",
        online,
    ),
    Claim(
        "3",
        "random items are told apart almost always",
        "MuRS'24",
        "above 0.99",
        STUDY + "p_hard",
        against_random,
    ),
    Claim("4", "Gini has a minimum in p_hard", "MuRS'24", "at 0.2 to 0.6", STUDY + "p_hard", diversity),
    Claim(
        "5",
        "both MRRs fall with p_hard, that of disliked songs more",
        "MuRS'24",
        "signs and order",
        STUDY + "p_hard",
        ranks,
    ),
    Claim(
        "6",
        "fewer epochs to convergence",
        "MuRS'24, UMAP'24",
        "-30% at 0.4; about -60% true against random",
        STUDY + "p_hard",
        epochs,
    ),
    Claim(
        "6b",
        "the headline: at least 60% fewer epochs at equal or better accuracy",
        "UMAP'24",
        "-60% and +6%",
        STUDY + "p_hard",
        headline,
    ),
    Claim(
        "6c",
        "the same on real logs, true against random negatives",
        "UMAP'24",
        "-60% and +6%",
        "benchmarks/real_data.py",
        on_real_logs,
    ),
    Claim(
        "7",
        "accuracy rises slightly with the share of positives",
        "UMAP'24, MuRS'24",
        "near flat, slight rise",
        STUDY + "p_hard",
        bands,
    ),
    Claim(
        "8",
        "negatives and skips as inputs",
        "UMAP'24",
        "accuracy slightly, coverage considerably up",
        STUDY + "negatives",
        inputs,
    ),
    Claim(
        "9",
        "true negatives as targets, and most of the gain is theirs",
        "UMAP'24",
        "about +6%",
        STUDY + "negatives",
        targets,
    ),
    Claim(
        "10",
        "hardest of N random rises, then falls, below true negatives",
        "UMAP'24",
        "shape",
        STUDY + "hardest",
        hardest,
    ),
    Claim(
        "11",
        "skips are like thumbs-down in the model",
        "UMAP'24",
        "cos(skip, down) .82, cos(skip, up) .16",
        STUDY + "p_hard",
        cosines,
    ),
    Claim(
        "12",
        "station and track attributes as inputs help",
        "RecSys'23, MuRS'24",
        "no figure found",
        STUDY + "objectives",
        context,
    ),
    Claim(
        "13",
        "cloze training with BCE does as well as next-event training",
        "UMAP'24",
        "no figure",
        STUDY + "objectives",
        cloze,
    ),
    Claim(
        "14",
        "softmax over batch targets and 1000; HR@1 is as high as it is for want of candidates",
        "MuRS'23, RecSys'24",
        ".28 to .41 on MSSD",
        STUDY + "contrastive",
        softmax,
    ),
    Claim(
        "15",
        "skip InfoNCE, causal",
        "MuRS'23",
        "HR@1 .2821 to .3049 / .3073 (+8.1% / +8.9%)",
        STUDY + "contrastive",
        term("SASRec"),
    ),
    Claim(
        "16",
        "skip InfoNCE, bidirectional",
        "MuRS'23",
        "HR@1 .1945 to .2101 / .2339 (+8.0% / +20.3%)",
        STUDY + "contrastive",
        term("BERT4Rec"),
    ),
    Claim(
        "17",
        "four architectures gain",
        "RecSys'24",
        "HR@1 SASRec .377 to .410, BERT4Rec .204 to .355, GRU4Rec .210 to .235, Caser .223 to .251",
        STUDY + "contrastive",
        architectures,
    ),
    Claim(
        "18",
        "the gain shrinks with k",
        "MuRS'23, RecSys'24",
        "SASRec +9% at 1, +1% at 20",
        STUDY + "contrastive",
        shrinks,
    ),
    Claim(
        "19", "the gain grows with the share of skips", "RecSys'24", "direction", STUDY + "term", skip_share
    ),
    Claim(
        "20",
        "skipped songs rank lower",
        "RecSys'24",
        "SASRec -1%, -6%, 0%; BERT4Rec +13%, 0%, -15% (of a faulty metric)",
        STUDY + "contrastive",
        down_ranking,
    ),
    Claim(
        "21",
        "the term's weight has an optimum",
        "authors' later notes",
        "best at .75, +0.4 points of HR@1",
        STUDY + "term",
        weights,
    ),
    Claim(
        "21b",
        "what the pairing fault of the released code does",
        "reading of the released code",
        "a right pairing should do better",
        STUDY + "term",
        pairing,
    ),
    Claim(
        "22",
        "gBCE on MovieLens-1M",
        "gSASRec",
        "NDCG@10 .1726, SASRec .1259",
        "tests/benchmarks/test_ml1m.py",
        calibration,
    ),
    Claim(
        "23", "the top 100 of shared negatives", "TRON", "+18.14% clicks online", STUDY + "objectives", tron
    ),
    Claim(
        "24",
        "not-to-recommend answers a dislike",
        "Wang et al., RecSys'23",
        "similar items -60.8% / -64.1%",
        STUDY + "objectives",
        responsiveness,
    ),
    Claim("25", "two encoders, PNFRec", "Ivanova et al., RecSys'25", "ML-1M HR@10 .1716", "", not_built),
)


def write(results: pathlib.Path, out: pathlib.Path) -> dict[str, int]:
    """Writes claims.md from what stands under ``results``; returns how many claims have which verdict."""
    rows, count = [], collections.Counter()
    for claim in CLAIMS:
        try:
            found, said = claim.judge(results)
        except NotConverged as unknown:
            found, said = f"cannot be said: {unknown}", "open"
        except Missing as missing:
            found, said = f"not run yet: {missing}", "open"
        count[said] += 1
        command = f"`{claim.command}`" if claim.command else ""
        rows.append([claim.number, claim.text, claim.paper, claim.published, found, f"**{said}**", command])
    head = ["#", "claim", "paper", "published", "found", "verdict", "command"]
    table = pages.table(head, rows, numbers=False)
    before = sorted(
        path.name
        for path in [*results.glob("study/*.json"), results / "real_p_hard.json"]
        if path.is_file() and json.loads(path.read_text()).get("figures", 1) < FIGURES
    )
    note = f"As of before (0.1 figures: {', '.join(before)}). {BEFORE}\n\n" if before else ""
    counted = ", ".join(f"{n} {said}" for said, n in count.most_common())
    out.write_text(
        "# What became of the papers' claims\n\n"
        "Written by `.venv/bin/python benchmarks/claims.py` from the tables of `benchmarks/study.py`; verdicts are "
        "rules in that script. Listeners are simulated: what is served does not depend on what they like, so a "
        "direction counts and a size does not. Figures are means over 3 seeds ± standard deviation. Two means differ "
        "where they are more than two standard errors apart.\n\n"
        f"{note}{counted}.\n\n{table}\n"
    )
    return dict(count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    print(json.dumps({"benchmark": "claims", "claims": write(args.results, args.results / "claims.md")}))


if __name__ == "__main__":
    main()
