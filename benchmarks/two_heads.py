"""One model that ranks and judges: its serving forms on real people, beside what is trained for one of the two alone.

    .venv/bin/python benchmarks/two_heads.py            # 3 seeds: about an hour on 2 cores
    .venv/bin/python benchmarks/two_heads.py --seeds 1  # a third of it
    .venv/bin/python benchmarks/two_heads.py --quick    # one epoch of one seed

Reads kuairand_history under JAXNEG_DATA (default ../shared/data), prepared as the head of
configs/kuairand_history_sasrec.py says: training until 25 April, validation until 1 May, then the test. Trains that
config (softmax, and a like
head whose loss leaves the encoder alone, so that form rank is softmax) and, as the arm that is trained to judge alone,
binary cross-entropy on real negatives. Numbers of the forms are chosen on validation, and the test is looked at with
those. A cell is an arm of a seed: run again, those that are there are read. Prints one JSON object as its last line,
and with --out writes two_heads.md and two_heads.json.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile

import numpy as np

from jaxneg import config as configs, files, metrics, pages, progress
from jaxneg.baselines import counting
from jaxneg.data import engine, prepare, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.evaluation import eval_sets, tuning
from jaxneg.training import curves, loop, runs

ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("JAXNEG_DATA", ROOT / ".." / "shared" / "data"))
NAME = "kuairand_history"
VALUES = "like=thumb_up,long=play,short=skip,hate=thumb_down"
COLUMNS = {"user": "user", "item": "video", "time": "time_ms", "feedback": "feedback", "values": VALUES}
WINDOWS = {"valid_from": "1650812741436", "test_from": "1651330969569"}
ARMS = {
    "two heads": (),
    "BCE, p_hard 1": (
        *("--like.weight", "0", "--loss.name", "bce", "--data.negatives", "1", "--data.p-hard", "1"),
        *("--model.item-bias", "odds", "--train.monitor", "pair_accuracy"),
    ),
}
JUDGES = ("like_rate", "personal_rate", "matrix_factorisation")
# Figure in the table -> the value of each example, or a figure of the whole.
FIGURES = {
    "pair accuracy": "pair_accuracy",
    "AUC": "auc",
    "NDCG@10": "ndcg@10",
    "disliked in the top 10": "disliked_hit_rate@10",
}
COVERAGE = "item_coverage@10"


def prepared(work: pathlib.Path) -> pathlib.Path:
    """The store."""
    store = work / "store"
    if not (store / "metadata.json").exists():
        reader, con, source = readers.READERS["table"], engine.connect(), DATA / NAME / "events.parquet"
        options = reader.Options(**COLUMNS, attributes=("author_id", "tag", "music_id"))
        settings = PrepareConfig(session="user", split="time", **WINDOWS)
        with engine.reading(source):
            prepare.prepare(
                reader.read(con, source, options), store, settings, con, reader="table", source=NAME
            )
    return store


def cell(arm: str, seed: int, store: pathlib.Path, work: pathlib.Path, quick: bool) -> dict:
    """Figures of an arm of a seed in each form, and how the forms differ from form rank, with intervals over people."""
    path = work / "cells" / f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}{'-quick' * quick}.json"
    if path.exists():
        return json.loads(path.read_text())
    config = configs.load(ROOT / "configs" / f"{NAME}_sasrec.py")
    options = ["--data.store", str(store), "--eval.bootstrap", "500", *ARMS[arm]]
    options += [f"--{part}.seed={seed}" for part in ("data", "train")]
    config = configs.override(config, options + ["--train.epochs", "1"] * quick)
    directory = work / "runs" / path.stem
    result = loop.train(config, directory)
    trained = runs.load(directory)
    score, eval_set = runs.catalogue_score(trained), eval_sets.EvalSet(trained.store, config)
    chosen = curves.tuned(trained, score)
    forms = {"rank": curves.catalogue.RANK} | (
        {} if chosen is None else {name: point.form for name, point in chosen.points.items()}
    )
    reports = {name: eval_set.measure(score.in_form(form)) for name, form in forms.items()}
    found = {
        "best_epoch": result["best_step"] / result["steps_per_epoch"],
        "forms": {
            name: {
                "form": str(forms[name]),
                **{title: metrics.mean(one.value_X[of]).value for title, of in FIGURES.items()},
                "coverage": one.figures[COVERAGE],
                "less rank": {title: difference(one, reports["rank"], of) for title, of in FIGURES.items()},
                "of judge": None if "judge" not in reports else share(one, reports["judge"]),
            }
            for name, one in reports.items()
        },
        "curve": []
        if chosen is None
        else [
            [str(point.form), point.quantile, *point[2:]]
            for point in curves.curve(score, curves.sample(eval_set.examples), config.eval, chosen.thresholds)
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, found)
    return found


def difference(one, other, of: str) -> list[float]:
    """A figure less another report's on the same examples, and its 95% interval over people."""
    value_X = one.value_X[of] - other.value_X[of]
    return [metrics.mean(value_X).value, *metrics.bootstrap(value_X, one.user_X, resamples=500, seed=0)]


def share(one, judge) -> list[float]:
    """Pair accuracy as a share of the judge's, and its 95% interval over people, resampled together."""
    known = ~np.isnan(one.value_X["pair_accuracy"])
    a, b = (report.value_X["pair_accuracy"][known] for report in (one, judge))
    user, at = np.unique(one.user_X[known], return_inverse=True)
    sums = np.stack([np.bincount(at, weights) for weights in (a, b)])
    rng = np.random.default_rng(0)
    drawn = [sums[:, rng.integers(0, len(user), len(user))].sum(1) for _ in range(500)]
    ratios = [x / y for x, y in drawn]
    return [float(a.sum() / b.sum()), *map(float, np.quantile(ratios, (0.025, 0.975)))]


def judges(store: pathlib.Path, work: pathlib.Path, quick: bool) -> dict:
    """Figures of the baselines that judge, tuned for AUC on validation."""
    path = work / "cells" / f"baselines{'-quick' * quick}.json"
    if path.exists():
        return json.loads(path.read_text())
    config = configs.load(ROOT / "configs" / f"{NAME}_sasrec.py")
    config = configs.override(config, ["--data.store", str(store), "--eval.bootstrap", "500"])
    trained_on = stores.Store.open(store)
    eval_set, found = eval_sets.EvalSet(trained_on, config), {}
    validation = eval_sets.EvalSet(trained_on, config, "validation").examples
    batches, log = curves.sample(validation), counting.training_log(trained_on)
    for name in JUDGES[:1] if quick else JUDGES:
        one = tuning.measure_baseline(counting.BASELINES[name], log, batches, eval_set, name)
        found[name] = {title: metrics.mean(one.report.value_X[of]).value for title, of in FIGURES.items()}
        found[name] |= {"coverage": one.report.figures[COVERAGE]}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, found)
    return found


def summary(cells: dict[str, list[dict]], baselines: dict) -> dict:
    """Mean over seeds of each figure by arm and form, and of how much of the best a form keeps."""
    rows = {
        f"{arm}, {name}": {
            title: statistics.mean(one["forms"][name][title] for one in of_seeds)
            for title in (*FIGURES, "coverage")
        }
        for arm, of_seeds in cells.items()
        for name in of_seeds[0]["forms"]
    } | baselines
    best = {title: max(row[title] for row in rows.values()) for title in ("pair accuracy", "NDCG@10")}
    for row in rows.values():
        row |= {f"{title}, share of best": row[title] / best[title] for title in best}
    return rows


def page(result: dict) -> str:
    rows, heads = result["rows"], [*FIGURES, "coverage"]
    shares = ["pair accuracy, share of best", "NDCG@10, share of best"]
    table = pages.table(
        ["", *heads, *shares],
        [
            [name, *(f"{row[title]:.4f}" for title in heads), *(f"{row[title]:.1%}" for title in shares)]
            for name, row in rows.items()
        ],
    )
    first = result["cells"]["two heads"][0]["forms"]
    apart = pages.table(
        ["", *FIGURES],
        [
            [
                one["form"],
                *("{:+.4f} [{:+.4f}, {:+.4f}]".format(*one["less rank"][title]) for title in FIGURES),
            ]
            for name, one in first.items()
            if name != "rank"
        ],
    )
    return (
        f"# One model that ranks and judges\n\n`{NAME}`, the test split, {result['seeds']} seed(s), of which these are "
        "means; beta and threshold chosen on validation. Made by `benchmarks/two_heads.py`. Form rank is the softmax "
        f"model, as the like head leaves the encoder alone.\n\n{table}\n\nEach form less form rank, with 95% intervals "
        f"over people, first seed:\n\n{apart}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "two_heads"
    )
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seeds = 1 if args.quick else args.seeds
    store = prepared(args.work)
    baselines, cells = judges(store, args.work, args.quick), {arm: [] for arm in ARMS}
    for seed in range(seeds):
        for arm in ARMS:
            cells[arm].append(cell(arm, seed, store, args.work, args.quick))
            progress.say(f"two_heads: seed {seed}, {arm}")
    result = {"seeds": seeds, "rows": summary(cells, baselines), "cells": cells}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_json(args.out / "two_heads.json", result)
        files.write_text(args.out / "two_heads.md", page(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
