"""A rule for each claim of the papers, from the directory of results to (what was found, verdict)."""

import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from judging.cells import (
    BCE,
    CLOZE,
    ENCODERS,
    HARDEST,
    HIT,
    KINDS,
    OFF,
    P_HARD,
    PAPER,
    TRON,
    WEIGHTS,
    Cell,
    arm,
    at,
    encoder,
    hardest_of,
    objective,
    popularity,
    shown,
    taken_apart,
)
from judging.figures import (
    NOT_RUN,
    UNTESTED,
    Difference,
    Missing,
    NotConverged,
    by_seed,
    by_seeds,
    get,
    less,
    over_seeds,
    paired,
    ratio,
    read,
    table,
    tested,
    verdict,
)

SESSION_GAIN = 0.081  # of HR@1, what Seshadri and Knees publish for the causal model
Judge = Callable[[pathlib.Path], tuple[str, str]]


def untestable(results: pathlib.Path, sweep: str) -> str | None:
    """Why a claim on the next song cannot be tested on this log; None where it can.

    The order of songs must tell: the listener's last successor of a song, or its artist, follows at least twice as
    often as in shuffled sessions. And SASRec without the term must be surely above popularity in the station by what
    the term is said to add, or else it has nothing to add to.
    """
    order = paired(results)["order"].get(sweep)
    if order is None:
        raise Missing(f"benchmarks/study.py --only {sweep}")
    if all(order[of] < 2 * order[f"{of} shuffled"] for of in ("successor", "artist")):
        return "the order of songs in these sessions tells nothing of the next one"
    off = arm("next_positive", "off", sweep)
    trained_out(results, off)
    room = less(results, HIT, off, popularity(sweep))
    if room.low < SESSION_GAIN * get(results, HIT, off).mean:
        alone = paired(results)["baselines"][sweep][HIT]
        return (
            f"without the term released HR@1 is {get(results, HIT, off)}, of popularity in the station {alone:.4f}: "
            f"{room} apart, so that what is to be added to has not been learnt"
        )
    return None


def of_order(sweep: str) -> Callable[[Judge], Judge]:
    """Of a claim on the next song: it cannot be tested where the log of a sweep does not carry it."""

    def decorated(judge: Judge) -> Judge:
        def claim(results: pathlib.Path) -> tuple[str, str]:
            why = untestable(results, sweep)
            if why is None:
                return judge(results)
            try:
                return f"{judge(results)[0]}; {why}", UNTESTED
            except Missing:  # with no room the rest need not be run
                return why, UNTESTED

        return claim

    return decorated


def trained_out(results: pathlib.Path, cell: Cell) -> None:
    """Raises NotConverged where a run stopped at its limit."""
    limit = table(results, cell.sweep)["limit"]
    if max(get(results, "epochs", cell).seeds) >= limit:
        raise NotConverged(f"{', '.join(cell.labels)} stopped at its limit of {limit} epochs")


def sampler(results):
    shares = [get(results, "hard_share", at(p)) for p in P_HARD]
    accuracy = {p: get(results, "pair_accuracy", at(p)).mean for p in P_HARD}
    part = (accuracy["0.3"] - accuracy["0"]) / (max(accuracy.values()) - accuracy["0"])
    gain = less(results, "pair_accuracy", at("0.3"), at("0"))
    words = ", ".join(f"{p}: {one:.4f}" for p, one in accuracy.items())
    found = (
        f"realised shares {', '.join(f'{one.mean:.2f}' for one in shares)}; pair accuracy {words}; at 0.3 "
    )
    found += f"{gain}, {part:.0%} of the whole gain"
    close = all(abs(one.mean - float(p)) < 0.02 for p, one in zip(P_HARD, shares, strict=True))
    return found, verdict([close, gain.above() and part >= 0.9])


def accuracy(results):
    a, b = get(results, "pair_accuracy", at("0.4")), get(results, "pair_accuracy", at("0"))
    gain = less(results, "pair_accuracy", at("0.4"), at("0"))
    return f"{b} at p_hard 0, {a} at 0.4: {gain.over(b.mean)}", verdict([gain.above()])


def online(results):
    return judge_online(read(results, "study/ab", "benchmarks/study.py --only ab"))


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
    found = {p: get(results, "random_accuracy", at(p)) for p in ("0", "0.4", "1")}
    ends = [over_seeds(found[p].seeds).low > 0.99 for p in ("0", "0.4")]
    return ", ".join(f"{one} at {p}" for p, one in found.items()), verdict(ends)


def diversity(results):
    gini = {p: get(results, "gini@10", at(p)) for p in P_HARD}
    least = min(P_HARD[1:-1], key=lambda p: gini[p].mean)
    ends = {p: by_seeds(results, "gini@10", at(p), at(least)) for p in (P_HARD[0], P_HARD[-1])}
    words = ", ".join(f"{one} at {p}" for p, one in gini.items())
    more = ", ".join(f"{one} at {p}" for p, one in ends.items())
    return f"Gini@10 {words}; above that at {least}: {more}", verdict([one.above() for one in ends.values()])


def ranks(results):
    words, holds = [], []
    for figure, name in (("mrr_positive", "liked"), ("mrr_negative", "disliked")):
        change = less(results, figure, at("1"), at("0"))
        words.append(f"{change.over(get(results, figure, at('0')).mean)} {name}")
        holds.append(change.high < 0)
    over = []
    for p in ("0", "1"):
        liked, disliked = (by_seed(results, f"mrr_{of}", at(p)) for of in ("positive", "negative"))
        over.append({s: math.log(liked[s] / disliked[s]) for s in liked})
    apart = over_seeds([over[1][s] - over[0][s] for s in over[0]])
    first, last = (math.exp(statistics.fmean(one.values())) for one in over)
    words.append(f"liked over disliked {first:.2f} to {last:.2f}")
    return f"from p_hard 0 to 1 {', '.join(words)}", verdict([*holds, apart.above()])


def epochs(results):
    own = {p: get(results, "epochs_to_convergence", at(p)) for p in P_HARD}
    took = {p: ratio(results, "epochs_to_convergence", at(p), at("0")) for p in ("0.4", "1")}
    found = f"to each one's own plateau {', '.join(f'{one.mean:.1f} at {p}' for p, one in own.items())}; "
    found += ", ".join(f"{times(one)} at {p}" for p, one in took.items()) + " of the epochs at 0"
    return found, verdict([saves(took["0.4"], 0.3), saves(took["1"], 0.6)])


def times(one: Difference) -> str:
    return f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]"


def saves(one: Difference | None, share: float) -> bool:
    """Whether a ratio of epochs saves that share on average, and surely something."""
    return one is not None and one.mean <= 1 - share and one.high < 1


def to_target(leads: Sequence[Any], labels: Sequence[str]) -> Difference | None:
    """Epochs until a cell is as good as another at its best, over that one's; None where a seed never is."""
    [one] = [lead for lead in leads if lead["labels"] == list(labels)]
    of = None if one["ratio"] is None else one["ratio"]["epochs"]
    return None if of is None or of["low"] is None else Difference(of["mean"], of["low"], of["high"])


def headline(results):
    gain = less(results, "pair_accuracy", at("1"), at("0"))
    words, holds = [], [gain.above()]
    for kind in reversed(KINDS):
        cell = shown(kind, "true")
        one = to_target(table(results, cell.sweep)["time_to_target"], cell.labels)
        words.append(f"{'never by all seeds' if one is None else times(one)} with inputs {kind}")
        holds.append(saves(one, 0.6))
    base = get(results, "pair_accuracy", at("0"))
    found = f"epochs to the best validation of random negatives, over theirs: {', '.join(words)}; "
    return f"{found}pair accuracy {base} and {gain.over(base.mean)}", verdict(holds)


def on_real_logs(results):
    words, holds = [], []
    for name, of in read(results, "time_to_target", "benchmarks/time_to_target.py")["sets"].items():
        if name == "simulated":
            continue
        leads = of["auc"]["time_to_target"]
        one = to_target(leads, ["1"])
        [lead] = [lead for lead in leads if lead["labels"] == ["1"]]
        gain = over_seeds([passage["best"] - passage["target"] for passage in lead["passages"]])
        base = statistics.fmean(passage["target"] for passage in lead["passages"])
        took = "never by all seeds" if one is None else f"{times(one)} of the epochs"
        words.append(f"{name} {took}, validation AUC {gain.over(base)}")
        holds += [saves(one, 0.6), gain.above()]
    return f"p_hard 1 to the best validation AUC of 0: {'; '.join(words)}; over seeds", verdict(holds)


def bands(results):
    words, holds = [], []
    for p in ("0", "0.4", "1"):
        names = [f"pair_accuracy of share {w / 5:g} to {(w + 1) / 5:g}" for w in range(5)]
        rows = [by_seed(results, name, at(p)) for name in names]
        rise = over_seeds([rows[-1][s] - rows[0][s] for s in rows[0] if s in rows[-1]])
        words.append(
            f"p_hard {p}: {', '.join(f'{statistics.fmean(row.values()):.3f}' for row in rows)}, rise {rise}"
        )
        holds.append(rise.above())
    return f"by fifths of positive share, {'; '.join(words)}", verdict(holds)


def inputs(results):
    cells = {kind: shown(kind, "true") for kind in KINDS}
    covered = {kind: get(results, "user_coverage_5", cell).mean for kind, cell in cells.items()}
    words = [
        f"{kind}: accuracy {get(results, 'pair_accuracy', cell)}, coverage of 5 events {covered[kind]:.3f}"
        for kind, cell in cells.items()
    ]
    gain = less(results, "pair_accuracy", cells["+ - skip"], cells["+"])
    holds = [gain.above(), covered["+ - skip"] > covered["+"] + 0.05]
    return f"{'; '.join(words)}; all kinds less + alone {gain}", verdict(holds)


def targets(results):
    words, holds = [], []
    for kind in ("+", "+ - skip"):
        base = get(results, "pair_accuracy", shown(kind, "random"))
        gain = less(results, "pair_accuracy", shown(kind, "true"), shown(kind, "random"))
        words.append(f"inputs {kind}: {base} random, true {gain.over(base.mean)}")
        holds.append(gain.above())
    most = less(results, "pair_accuracy", shown("+", "true"), shown("+ - skip", "random"))
    words.append(f"the target alone less the inputs alone {most}")
    return "; ".join(words), verdict([*holds, most.above()])


def hardest(results):
    curve = {"1": get(results, "pair_accuracy", at("0"))}
    curve |= {n: get(results, "pair_accuracy", hardest_of(n)) for n in HARDEST}
    best = max(HARDEST, key=lambda n: curve[n].mean)
    rise = less(results, "pair_accuracy", hardest_of(best), at("0"))
    below = less(results, "pair_accuracy", at("1"), hardest_of(best))
    holds, words = [rise.above(), below.above()], f"best at {best}: {rise} against 1"
    if best != HARDEST[-1]:
        fall = less(results, "pair_accuracy", hardest_of(best), hardest_of(HARDEST[-1]))
        holds.append(fall.above())
        words += f", {fall} against {HARDEST[-1]}"
    else:
        holds.append(False)
    found = ", ".join(f"{n}: {one.mean:.4f}" for n, one in curve.items())
    return f"{found}; {words}; true negatives less that {below}", verdict(holds)


def cosines(results):
    pairs_ = {"skip, down": "thumb_down_skip", "skip, up": "skip_thumb_up", "skip, play": "skip_play"}
    words, holds = [], []
    for of in ("added", "gate"):
        values = {name: by_seed(results, f"cosine_{of}_{pair}", at("1")) for name, pair in pairs_.items()}
        words.append(
            f"{of}: "
            + ", ".join(f"cos({name}) {statistics.fmean(v.values()):+.2f}" for name, v in values.items())
        )
        down, up = values["skip, down"], values["skip, up"]
        holds.append(over_seeds([down[s] - up[s] for s in down]).above())
    return f"p_hard 1, {'; '.join(words)}", verdict(holds)


def context(results):
    whole = get(results, "pair_accuracy", objective(BCE))
    gains = {
        name: less(results, "pair_accuracy", objective(BCE), objective(f"BCE, no {name}"))
        for name in ("station", "artist")
    }
    words = ", ".join(f"the {name} adds {gain}" for name, gain in gains.items())
    return f"{whole}; {words}", verdict([gain.above() for gain in gains.values()])


def cloze(results):
    causal = get(results, "pair_accuracy", objective(BCE))
    hidden = {
        name: less(results, "pair_accuracy", objective(f"BCE, cloze, {name}"), objective(BCE))
        for name in CLOZE
    }
    words = ", ".join(f"cloze {name} {one}" for name, one in hidden.items())
    return f"next event {causal}, {words}", verdict([one.above() is not False for one in hidden.values()])


def softmax(results):
    own, whole = (by_seed(results, of, OFF) for of in (HIT, "hit_rate@1"))
    more = over_seeds([own[s] - whole[s] for s in own])
    return (
        f"HR@1 {get(results, HIT, OFF)} among the batch's targets and 1000 random items, "
        f"{get(results, 'hit_rate@1', OFF)} among all, {more} apart",
        verdict([more.above()]),
    )


def gained(results, one: Cell, off: Cell) -> tuple[Difference, str]:
    """What the term adds to the released HR@1, at best and at 20 and after the last epoch in words."""
    trained_out(results, off)
    gain, base = less(results, HIT, one, off), get(results, HIT, off)
    far = less(results, "released_hit_rate@20", one, off)
    last = less(results, f"last_{HIT}", one, off)
    words = f"{gain.over(base.mean)}, at 20 {far.over(get(results, 'released_hit_rate@20', off).mean)}"
    words += f", after the last epoch {last.over(get(results, f'last_{HIT}', off).mean)}"
    return gain, words


@of_order("contrastive")
def causal(results):
    base = get(results, HIT, OFF)
    words, holds = [], []
    for name, cell, published in (
        ("predicted", PAPER, SESSION_GAIN),
        ("item", taken_apart("c = item"), 0.089),
    ):
        try:
            gain, said = gained(results, cell, OFF)
        except Missing:
            if cell is PAPER:
                raise
            words.append(f"c = {name}: {NOT_RUN}")
            continue
        words.append(f"c = {name} {said}")
        holds.append(gain.reaches(published * base.mean))
    return f"released HR@1 off {base}; {'; '.join(words)}", tested(holds)


@of_order("spotify")
def on_real_songs(results):
    words, holds = [], []
    for target in ("next_positive", "any"):
        off = arm(target, "off", "spotify")
        try:
            base = get(results, HIT, off)
        except Missing:
            if target == "next_positive":
                raise
            words.append(f"target {target}: {NOT_RUN}")
            continue
        gain, said = gained(results, arm(target, "paper", "spotify"), off)
        try:
            released = less(results, HIT, arm(target, "released", "spotify"), off).over(base.mean)
        except Missing:
            released = NOT_RUN
        words.append(f"target {target}: off {base}, paper {said}; released form {released}")
        holds.append(gain.reaches(SESSION_GAIN * base.mean))
    return f"released HR@1: {'; '.join(words)}", tested(holds)


@of_order("contrastive")
def bidirectional(results):
    off = encoder("BERT4Rec", "off")
    gain, said = gained(results, encoder("BERT4Rec", "paper"), off)
    base = get(results, HIT, off)
    return f"released HR@1 off {base}; c = predicted {said}", tested([gain.reaches(0.08 * base.mean)])


@of_order("contrastive")
def architectures(results):
    words, holds = [], []
    for name, published in ENCODERS.items():
        off = encoder(name, "off")
        gain, said = gained(results, encoder(name, "paper"), off)
        base = get(results, HIT, off)
        words.append(f"{name} {base.mean:.4f} {said}")
        holds.append(gain.reaches(published * base.mean))
    return f"released HR@1: {'; '.join(words)}", tested(holds)


@of_order("contrastive")
def shrinks(results):
    names = {k: f"released_hit_rate@{k}" for k in (1, 5, 10, 20)}
    gains = {k: ratio(results, name, PAPER, OFF) for k, name in names.items()}
    logs = {
        k: {s: math.log(x / by_seed(results, name, OFF)[s]) for s, x in by_seed(results, name, PAPER).items()}
        for k, name in names.items()
    }
    apart = over_seeds([logs[1][s] - logs[20][s] for s in logs[1]])
    base = get(results, HIT, OFF)
    first = less(results, HIT, PAPER, OFF).reaches(SESSION_GAIN * base.mean)
    found = ", ".join(f"{one.mean - 1:+.1%} at {k}" for k, one in gains.items())
    holds = [first, apart.above()] if first else [first]
    return f"SASRec {found}", tested(holds)


@of_order("contrastive")
def skip_share(results):
    base = get(results, HIT, OFF)
    grows = {kept: less(results, HIT, PAPER, taken_apart(f"{kept}% of skips")) for kept in (25, 50)}
    words = [f"all skips less {kept}% of them {one.over(base.mean)}" for kept, one in grows.items()]
    # Three quarters of the skips should add three quarters of what all do.
    return f"released HR@1 off {base}; {'; '.join(words)}", tested(
        [grows[25].reaches(0.75 * SESSION_GAIN * base.mean)]
    )


def down_ranking(results):
    words, holds = [], []
    for name in ("SASRec", "BERT4Rec"):
        off = get(results, "unseen_disliked_mrr@10", encoder(name, "off"))
        fall = less(results, "unseen_disliked_mrr@10", encoder(name, "off"), encoder(name, "paper"))
        words.append(f"{name} {off}, lower by {fall.over(off.mean)}")
        holds.append(fall.above())
    return f"MRR@10 of unseen disliked songs: {'; '.join(words)}", verdict(holds)


@of_order("contrastive")
def weights(results):
    found = {name: get(results, HIT, cell) for name, cell in WEIGHTS.items()}
    inner = [name for name in WEIGHTS if name not in ("off", "1")]
    best = max(inner, key=lambda name: found[name].mean)
    gain, fall = (less(results, HIT, WEIGHTS[best], WEIGHTS[of]) for of in ("off", "1"))
    words = ", ".join(f"{name} {one.mean:.4f}" for name, one in found.items())
    return f"released HR@1: {words}; {best} less off {gain}, less 1 {fall}", tested(
        [gain.reaches(0.004), fall.reaches(0.004)]
    )


@of_order("contrastive")
def pairing(results):
    words, holds = [], []
    for target in ("next_positive", "any"):
        off = get(results, HIT, arm(target, "off"))
        gains = [less(results, HIT, arm(target, form), arm(target, "off")) for form in ("paper", "released")]
        better = less(results, HIT, arm(target, "paper"), arm(target, "released"))
        liked = less(results, "pair_accuracy", arm(target, "paper"), arm(target, "released"))
        words.append(
            f"target {target}: off {off}, paper {gains[0].over(off.mean)}, released {gains[1].over(off.mean)}, paper "
            f"less released {better.over(off.mean)}, in pair accuracy {liked}"
        )
        holds.append(better.reaches(SESSION_GAIN * off.mean))
    return f"released HR@1: {'; '.join(words)}", tested(holds)


def calibration(results):
    return "MovieLens-1M is not here: set JAXNEG_ML1M and run tests/benchmarks/test_ml1m.py", UNTESTED


def tron(results):
    hit, pair = (less(results, of, objective(TRON), at("0")) for of in ("ndcg@10", "pair_accuracy"))
    return (
        f"against BCE with one random negative NDCG@10 {hit}, pair accuracy {pair}; clicks need a live service",
        verdict([hit.above()]),
    )


def responsiveness(results):
    words, falls = [], []
    for name in ("not to recommend", BCE):
        by = {of: get(results, f"responsiveness_{of}", objective(name)) for of in ("attribute", "row")}
        words.append(f"{name}: same artist {by['attribute'].mean:+.1%}, near row {by['row'].mean:+.1%}")
        # Half of what was published.
        falls.append(over_seeds(by["attribute"].seeds).high <= -0.3)
    return f"similar songs in the top 100 after a flip: {'; '.join(words)}", verdict(falls)


def not_built(results):
    return "not built: a model of its own, left for later", UNTESTED
