"""One model that ranks and judges: its serving forms on five real logs and on simulated listeners, over seeds.

    .venv/bin/python benchmarks/two_heads.py                       # all sets, 3 seeds: some two hours on 2 cores
    .venv/bin/python benchmarks/two_heads.py --sets cm100k --seeds 1
    .venv/bin/python benchmarks/two_heads.py --quick               # one epoch of one seed of few listeners

Reads the sets under JAXNEG_DATA (default ../shared/data), prepared as the heads of configs/*_two_heads.py say. Trains
that config (softmax, and a like head whose loss leaves the encoder alone, so that form rank is softmax) and, where
ARMS says so, a model that is trained to judge alone. Numbers of the forms are chosen on validation, and so is the best
baseline by AUC; the test is looked at with those. Beside them stand the like head before any training, which is
factorisations alone, and what judging gains over like rates by how many signed events are seen. Simulated listeners
are as many as the demo's, and others than those that the config's numbers were chosen on.
A cell is an arm of a seed: run again, those that are there are read. Prints one JSON object as its last line, and with
--out writes two_heads.md, two_heads.json, and plots: two_heads.png, two_heads_judge.png.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
from typing import Any, NamedTuple

import numpy as np
import objectives
import real_data

from jaxneg import config as configs, files, metrics, pages, progress
from jaxneg.baselines import counting, factorisations, folding
from jaxneg.data import engine, prepare, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.evaluation import eval_sets, tuning
from jaxneg.simulation import simulator
from jaxneg.training import curves, loop, runs

ROOT, DATA = real_data.ROOT, real_data.DATA
HISTORY = "kuairand_history"
VALUES = "like=thumb_up,long=play,short=skip,hate=thumb_down"
COLUMNS = {"user": "user", "item": "video", "time": "time_ms", "feedback": "feedback", "values": VALUES}
WINDOWS = {"valid_from": "1650812741436", "test_from": "1651330969569"}
# Set -> the name of its config.
SETS = {name: reader for name, reader in real_data.SETS.items()} | {
    HISTORY: HISTORY,
    "simulated": "simulated",
}
HEADS, JUDGE = "two heads", "BCE, p_hard 1"
# What is trained to judge alone, on the sets where all arms are compared.
ALONE = (
    *("--like.weight", "0", "--loss.name", "bce", "--data.negatives", "1", "--data.p-hard", "1"),
    *("--model.item-bias", "odds", "--train.monitor", "pair_accuracy"),
)
ARMS = {HISTORY: {HEADS: (), JUDGE: ALONE}, "simulated": {HEADS: (), JUDGE: ALONE}}
BASELINES = tuning.BASELINES["usual"] | {"several_ranks": factorisations.FACTORISATIONS["several_ranks"]}
# Figure in the table -> the value of each example.
FIGURES = {
    "pair accuracy": "pair_accuracy",
    "AUC": "auc",
    "NDCG@10": "ndcg@10",
    "disliked in the top 10": "disliked_hit_rate@10",
}
START = "like head at step 0"
RATE = "like_rate"  # what item quality alone tells
COVERAGE = "item_coverage@10"
QUARTERS = (0.25, 0.5, 0.75)
RESAMPLES = 1000
# As many as of the demo: the default's 2,000 examples do not tell 1% of NDCG@10. Settings are of seeds 0 to 8.
LISTENERS = dataclasses.replace(simulator.PRESETS["demo"], seed=9)


class Cell(NamedTuple):
    """What an arm of a seed, or a baseline, gave on the test: facts, and values of examples by form and figure."""

    facts: dict
    values: dict[str, np.ndarray]  # "form/figure", and "user"

    def of(self, form: str, title: str) -> np.ndarray:
        return self.values[f"{form}/{title}"]


def prepared(name: str, work: pathlib.Path, quick: bool, listeners: simulator.SimulateConfig) -> pathlib.Path:
    """The store of a set; ``listeners`` are who is simulated."""
    if name != HISTORY:
        return objectives.prepared(name, work, quick, listeners)
    store = work / "stores" / name
    if not (store / "metadata.json").exists():
        reader, con, source = readers.READERS["table"], engine.connect(), DATA / name / "events.parquet"
        options = reader.Options(**COLUMNS, attributes=("author_id", "tag", "music_id"))
        settings = PrepareConfig(session="user", split="time", **WINDOWS)
        with engine.reading(source):
            prepare.prepare(
                reader.read(con, source, options), store, settings, con, reader="table", source=name
            )
    return store


def kept(path: pathlib.Path, make) -> Cell:
    """A cell that is there already, else the one that ``make`` gives."""
    if not path.with_suffix(".npz").exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path.with_suffix(".json"), made.facts)
        np.savez_compressed(path.with_suffix(".npz"), **made.values)
    with np.load(path.with_suffix(".npz")) as values:
        return Cell(json.loads(path.with_suffix(".json").read_text()), dict(values))


def values_of(form: str, report) -> dict[str, np.ndarray]:
    found = {f"{form}/{title}": report.value_X[of].astype(np.float32) for title, of in FIGURES.items()}
    return found | {"user": report.user_X}


def config_of(name: str, store: pathlib.Path) -> configs.Config:
    config = configs.load(ROOT / "configs" / f"{SETS[name]}_two_heads.py")
    return configs.override(config, ["--data.store", str(store), "--eval.bootstrap", "10"])


def trained(name: str, arm: str, seed: int, store: pathlib.Path, work: pathlib.Path, quick: bool) -> Cell:
    """An arm of a seed in each form."""
    options = [*ARMS.get(name, {HEADS: ()})[arm], *(f"--{part}.seed={seed}" for part in ("data", "train"))]
    config = configs.override(config_of(name, store), options + ["--train.epochs", "1"] * quick)
    directory = work / "runs" / f"{store.name}-{real_data.cell(arm, seed)}"
    result = loop.train(config, directory)
    run = runs.load(directory)
    score, eval_set = runs.catalogue_score(run), eval_sets.EvalSet(run.store, config)
    chosen = curves.tuned(run, score)
    used = {"rank": curves.catalogue.RANK} | (
        {} if chosen is None else {form: point.form for form, point in chosen.points.items()}
    )
    reports = {form: eval_set.measure(score.in_form(one)) for form, one in used.items()}
    values: dict[str, np.ndarray] = {}
    for form, report in reports.items():
        values |= values_of(form, report)
    facts = {
        "best_epoch": result["best_step"] / result["steps_per_epoch"],
        "forms": {form: str(one) for form, one in used.items()},
        "coverage": {form: report.figures[COVERAGE] for form, report in reports.items()},
        "validation": {figure: result["history"][-1].get(figure) for figure in ("like_auc", "auc")},
        "like_auc": [[one["epoch"], one["like_auc"]] for one in result["history"] if "like_auc" in one],
        "curve": [] if chosen is None else points(score, chosen, eval_set.examples, config),
    }
    return Cell(facts, values)


def points(score, chosen: curves.Tuned, examples, config: configs.Config) -> list:
    """The curve from the form that ranks to the one that judges, on some of the test."""
    found = curves.curve(score, curves.sample(examples), config.eval, chosen.thresholds)
    return [[str(point.form), point.quantile, *point[2:]] for point in found]


def baseline(name: str, which: str, store: pathlib.Path) -> Cell:
    """A baseline, tuned for AUC on validation, or what the like head begins with."""
    config, opened = config_of(name, store), stores.Store.open(store)
    eval_set = eval_sets.EvalSet(opened, config)
    validation = curves.sample(eval_sets.EvalSet(opened, config, "validation").examples)

    def folded(log: counting.Log, sign: np.ndarray, validate: counting.Validate) -> counting.Fitted:
        one = folding.fit(log, sign, validate, validation)
        settings = {"l2": one.l2, "l2_bias": one.l2_bias}
        return counting.Fitted(lambda batch: folding.scores(one, sign, batch), settings, "context")

    log, fit = counting.training_log(opened), folded if which == START else BASELINES[which]
    one = tuning.measure_baseline(fit, log, validation, eval_set, which)
    facts = {"settings": one.settings, "validation_auc": one.validation_auc, "seeds": one.seeds}
    return Cell(
        facts | {"coverage": {"rank": one.report.figures[COVERAGE]}, "forms": {"rank": "rank"}},
        values_of("rank", one.report),
    )


def events(name: str, store: pathlib.Path) -> Cell:
    """Signed events that are seen of the listener of each example."""
    config, opened = config_of(name, store), stores.Store.open(store)
    sign = np.asarray(opened.sign)
    seen = [
        ((sign[batch.feedback_BL] != 0) & (batch.item_BL > 0)).sum(1)[batch.real_B]
        for batch in eval_sets.EvalSet(opened, config).examples
    ]
    return Cell({}, {"events": np.concatenate(seen)})


def by_events(gain_X: np.ndarray, events_X: np.ndarray, user_X: np.ndarray) -> list[dict[str, Any]]:
    """Mean of a gain in quarters of the examples by events seen, with its 95% interval over people."""
    there_X = np.isfinite(gain_X)
    edges = np.unique(np.quantile(events_X[there_X], QUARTERS))
    # A full window of events is most often that of a quarter's own.
    quarter_X = np.searchsorted(edges[edges < events_X.max()], events_X, side="right")
    found: list[dict[str, Any]] = []
    for quarter in np.unique(quarter_X[there_X]):
        own_X = there_X & (quarter_X == quarter)
        found.append(
            {
                "events": [int(events_X[own_X].min()), int(events_X[own_X].max())],
                "people": len(np.unique(user_X[own_X])),
                "gain": less(gain_X[own_X], np.zeros(own_X.sum()), user_X[own_X]),
            }
        )
    return found


def row(cells: list[Cell], form: str) -> dict[str, float]:
    """Figures of an arm in a form, means over seeds, with the deviation of the seeds."""
    found: dict[str, float] = {}
    for title in FIGURES:
        means = [metrics.mean(cell.of(form, title)).value for cell in cells]
        found[title] = statistics.mean(means)
        found[f"{title} sd"] = statistics.stdev(means) if len(means) > 1 else 0.0
    return found | {"coverage": statistics.mean(cell.facts["coverage"][form] for cell in cells)}


def over_seeds(cells: list[Cell], form: str, title: str) -> np.ndarray:
    """Value of each example, averaged over seeds."""
    return np.mean([cell.of(form, title) for cell in cells], axis=0)


def less(value_X: np.ndarray, other_X: np.ndarray, user_X: np.ndarray) -> list[float]:
    """A mean less another on the same examples, and its 95% interval over people."""
    difference_X = value_X - other_X
    ends = metrics.bootstrap(difference_X, user_X, resamples=RESAMPLES, seed=0)
    return [metrics.mean(difference_X).value, *ends]


def of_set(arms: dict[str, list[Cell]], baselines: dict[str, Cell], start: Cell, seen: Cell) -> dict:
    """All that is said of a set; ``start`` and ``seen`` are START and its ``events``."""
    rows = {
        f"{arm}, {form}": row(cells, form) for arm, cells in arms.items() for form in cells[0].facts["forms"]
    }
    rows |= {which: row([cell], "rank") for which, cell in [(START, start), *baselines.items()]}
    best = {title: max(one[title] for one in rows.values()) for title in ("pair accuracy", "NDCG@10")}
    for one in rows.values():
        one |= {f"{title}, share of best": one[title] / best[title] for title in best}
    heads, user_X = arms[HEADS], arms[HEADS][0].values["user"]
    known = {which: cell.facts["validation_auc"] for which, cell in baselines.items()}
    rival = max(known, key=lambda which: known[which] if np.isfinite(known[which]) else -1.0)
    judge_X = over_seeds(heads, "judge", "AUC")
    return {
        "examples": len(user_X),
        "users": len(np.unique(user_X)),
        "seeds": len(heads),
        "rows": rows,
        "best_baseline": rival,
        "judge_less_baseline": less(judge_X, baselines[rival].of("rank", "AUC"), user_X),
        "judge_less_start": less(judge_X, start.of("rank", "AUC"), user_X),
        "judge_less_rate": by_events(
            judge_X - baselines[RATE].of("rank", "AUC"), seen.values["events"], user_X
        ),
        "less_rank": {
            form: {
                title: less(over_seeds(heads, form, title), over_seeds(heads, "rank", title), user_X)
                for title in FIGURES
            }
            for form in heads[0].facts["forms"]
            if form != "rank"
        },
        "facts": {arm: [cell.facts for cell in cells] for arm, cells in arms.items()},
        "settings": {which: cell.facts["settings"] for which, cell in baselines.items()},
        "start": start.facts["settings"],
    }


def page(sets: dict[str, dict]) -> str:
    parts = [
        "# One model that ranks and judges",
        "Made by `benchmarks/two_heads.py`: the test split; beta, threshold and the best baseline by AUC (bold) are "
        "chosen on validation. Models are means over seeds ± their standard deviation. Form rank is the softmax "
        "model, as the like head leaves the encoder alone. Simulated listeners are not those that settings were chosen "
        "on. Brackets hold 95% intervals that resample people. The like "
        "head at step 0 is factorisations of the signs, solved for from the events seen; what training adds to it is "
        "what is less it.",
        "![Pair accuracy against NDCG@10](two_heads.png)",
        "![What judging gains](two_heads_judge.png)",
    ]
    shares = ["pair accuracy, share of best", "NDCG@10, share of best"]
    for name, one in sets.items():
        several = {which for which in one["rows"] if ", " in which}
        table = pages.table(
            ["", *FIGURES, "coverage", *shares],
            [
                [
                    f"**{which}**" if which == one["best_baseline"] else which,
                    *(
                        f"{values[title]:.4f}"
                        + (f" ± {values[f'{title} sd']:.4f}" if which in several else "")
                        for title in FIGURES
                    ),
                    f"{values['coverage']:.4f}",
                    *(f"{values[title]:.1%}" for title in shares),
                ]
                for which, values in one["rows"].items()
            ],
        )
        apart = pages.table(
            ["less form rank", *FIGURES],
            [
                [form, *("{:+.4f} [{:+.4f}, {:+.4f}]".format(*of[title]) for title in FIGURES)]
                for form, of in one["less_rank"].items()
            ],
        )
        numbers = "; ".join(", ".join(list(facts["forms"].values())[2:]) for facts in one["facts"][HEADS])
        judged, begun = (
            "{:+.4f} [{:+.4f}, {:+.4f}]".format(*one[f"judge_less_{other}"])
            for other in ("baseline", "start")
        )
        seen = pages.table(
            ["signed events seen", "people", f"AUC of judge less {RATE}"],
            [
                [
                    "{}-{}".format(*part["events"]),
                    f"{part['people']:,}",
                    "{:+.4f} [{:+.4f}, {:+.4f}]".format(*part["gain"]),
                ]
                for part in one["judge_less_rate"]
            ],
        )
        parts += [
            f"## {name}",
            f"{one['examples']:,} examples of {one['users']:,} people, {one['seeds']} seed(s). AUC of form judge less "
            f"that of {one['best_baseline']}: {judged}; less the like head at step 0: {begun}.",
            table,
            apart,
            seen,
            f"Numbers by seed: {numbers}.",
        ]
    return "\n\n".join(parts) + "\n"


def plot(sets: dict[str, dict], out: pathlib.Path) -> None:
    """Curves from ranking to judging, and where judging gains."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = -(-len(sets) // 3)
    figure, panels = pyplot.subplots(rows, 3, figsize=(12, 3.6 * rows), squeeze=False)
    for panel in panels.flat[len(sets) :]:
        panel.axis("off")
    for panel, (name, one) in zip(panels.flat, sets.items(), strict=False):
        curve = over_curves([facts["curve"] for facts in one["facts"][HEADS]])
        for form, style in (("sum", "o-"), ("demote", "s:")):
            points = [at for which, at in curve if which[0].startswith(form)]
            if form == "sum":  # from one end to the other
                ends = {which[0]: at for which, at in curve}
                points = [ends["rank"], *points, ends["judge"]]
            else:  # those that no other of the form beats in both
                points = sorted(at for at in points if not any(a > at[0] and b > at[1] for a, b in points))
            panel.plot(*zip(*points, strict=True), style, ms=4, lw=1.2, label=f"two heads, {form}")
        for n, which in enumerate([START, f"{JUDGE}, rank", *BASELINES]):
            if which in one["rows"]:
                at = (one["rows"][which][figure] for figure in ("pair accuracy", "NDCG@10"))
                panel.plot(*at, "*Dv^<>P+x"[n], color=f"C{2 + n % 8}", ms=7, ls="", label=which)
        panel.set(title=name, xlabel="pair accuracy", ylabel="NDCG@10")
        panel.grid(alpha=0.3)
    handles = {label: handle for p in panels.flat for handle, label in zip(*p.get_legend_handles_labels())}  # noqa: B905
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(out / "two_heads.png", dpi=110)

    figure, (trained, seen) = pyplot.subplots(1, 2, figsize=(12, 4.2))
    for n, (name, one) in enumerate(sets.items()):
        lines = [np.array(facts["like_auc"]) for facts in one["facts"][HEADS]]
        gain = np.mean([line[:, 1] - line[0, 1] for line in lines], axis=0)
        trained.plot(lines[0][:, 0] / lines[0][-1, 0], gain, ".-", color=f"C{n}", lw=1.2, label=name)
        parts = one["judge_less_rate"]
        middle = np.array([part["gain"] for part in parts])
        at = np.array([np.mean(part["events"]) for part in parts]) * (1 + 0.02 * n)
        ends = np.abs(middle[:, 1:] - middle[:, :1]).T
        seen.errorbar(at, middle[:, 0], ends, fmt=".-", color=f"C{n}", lw=1.2, capsize=2, label=name)
    trained.set(xlabel="share of training", ylabel="validation AUC of the like head, less that at step 0")
    seen.set(
        xlabel="signed events seen of a listener", ylabel=f"test AUC of judge, less {RATE}", xscale="log"
    )
    for panel in (trained, seen):
        panel.axhline(0, color="grey", lw=0.8)
        panel.grid(alpha=0.3)
    trained.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "two_heads_judge.png", dpi=110)


def over_curves(seeds: list[list]) -> list[tuple[tuple[str, float | None], tuple[float, float]]]:
    """Points of a curve, named by form, beta and quantile, each the mean over seeds of both figures."""
    found: dict[tuple[str, float | None], list] = {}
    for point in (point for curve in seeds for point in curve):
        # Thresholds of a quantile differ between seeds.
        found.setdefault((point[0].partition(", threshold")[0], point[1]), []).append(point[2:4])
    return [(name, tuple(np.mean(points, axis=0))) for name, points in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--listeners", type=int, default=LISTENERS.seed, help="seed of the simulated")
    parser.add_argument(
        "--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "two_heads"
    )
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.seeds = ["simulated"], 1
        args.work = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
    listeners, sets = dataclasses.replace(LISTENERS, seed=args.listeners), dict[str, dict]()
    for name in args.sets:
        store = prepared(name, args.work, args.quick, listeners)
        cells = args.work / "cells" / store.name
        asked = ARMS.get(name, {HEADS: ()})
        found: dict[str, list[Cell]] = {arm: [] for arm in asked}
        for seed in range(args.seeds):
            for arm in asked:
                path = cells / real_data.cell(arm, seed)
                one = kept(path, lambda: trained(name, arm, seed, store, args.work, args.quick))  # noqa: B023
                found[arm].append(one)
                progress.say(f"two_heads: {name}, seed {seed}, {arm}")
        baselines = {
            which: kept(cells / which, lambda: baseline(name, which, store))  # noqa: B023
            for which in ((RATE, "popularity") if args.quick else BASELINES)
        }
        start = kept(cells / "start", lambda: baseline(name, START, store))  # noqa: B023
        sets[name] = of_set(found, baselines, start, kept(cells / "events", lambda: events(name, store)))  # noqa: B023
        progress.say(f"two_heads: {name} is done")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_json(args.out / "two_heads.json", sets)
        files.write_text(args.out / "two_heads.md", page(sets))
        plot(sets, args.out)
    print(json.dumps({"benchmark": "two_heads", "sets": sets}))


if __name__ == "__main__":
    main()
