"""Real feedback logs: prepare, train over seeds and p_hard, evaluate on the untouched test split, beside baselines.

    .venv/bin/python benchmarks/real_data.py            # all sets, 3 seeds: about half an hour on 2 cores
    .venv/bin/python benchmarks/real_data.py --quick    # one set, one short run

Reads the sets under JAXNEG_DATA (default ../shared/data). Each set is split by the rule of its reader: the last 20% of
each user's events, or sessions where there are at least five, are the test, the 10% before validation; KuaiRand by
time, so that training sees nothing after the test begins. Settings are those of configs/, chosen on validation;
baselines choose theirs on validation too, and so is the best of them. Run again, it continues where it
stopped. Writes real_data.md and real_data.json to --out and prints one JSON object as its last line.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile

import numpy as np

from jaxneg import config as configs, files, metrics, pages, progress
from jaxneg.baselines import counting, least_squares
from jaxneg.data import engine, held_out, prepare, prepare_config, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.evaluation import eval_sets, tuning
from jaxneg.training import loop, runs

ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("JAXNEG_DATA", ROOT / ".." / "shared" / "data"))
# Set, as its directory is named -> reader; its config is configs/READER_sasrec.py.
SETS = {
    "kuairand_pure": "kuairand",
    "cm100k": "cm100k",
    "ml_latest_small_2016": "movielens",
    "spotify_history": "spotify",
}
BY_TIME = ("kuairand_pure",)  # others are split by the rule of their reader
# What is trained on each set: its config, and the papers' objective at three shares of hard negatives.
VARIANTS = {
    "config": (),
    "BCE, p_hard 1": ("--loss.feedback", "0", "--data.p-hard", "1"),
    "BCE, p_hard 0.5": ("--loss.feedback", "0", "--data.p-hard", "0.5"),
    "BCE, p_hard 0": ("--loss.feedback", "0", "--data.p-hard", "0"),
}
RANKED = {
    "ndcg@10": "NDCG@10",
    "mrr_positive": "MRR liked",
    "mrr_negative": "MRR disliked",
    "gini@10": "Gini@10",
}
FIGURES = ("pair_accuracy", "auc", "hit_rate@10", *RANKED)
EVENT_FIELDS = ("user_T", "item_T", "sign_T", "session_T")
ENDS = tuple(f"{of}_{end}" for of in ("pair_accuracy", "auc") for end in ("low", "high"))


def cell(arm: str, seed: int) -> str:
    """What the files of an arm of a seed are called."""
    return f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"


def prepared(name: str, work: pathlib.Path) -> pathlib.Path:
    """The store of a set, prepared as its reader suggests."""
    store = work / "stores" / SETS[name]
    if not (store / "metadata.json").exists():
        reader = readers.READERS[SETS[name]]
        own = PrepareConfig(split="time") if name in BY_TIME else PrepareConfig()
        settings = prepare_config.with_defaults(own, **reader.settings)
        con = engine.connect()
        with engine.reading(DATA / name):
            events = reader.read(con, DATA / name, reader.Options())
            prepare.prepare(events, store, settings, con, reader=SETS[name], source=name)
    return store


def experiment(name: str, store: pathlib.Path, variant: str, seed: int, quick: bool) -> configs.Config:
    config = configs.load(ROOT / "configs" / f"{SETS[name]}_sasrec.py")
    seeds = [f"--{part}.seed={seed}" for part in ("data", "train")]
    short = ["--train.epochs", "2"] if quick else []
    return configs.override(config, ["--data.store", str(store), *VARIANTS[variant], *seeds, *short])


def one_run(name: str, store: pathlib.Path, variant: str, seed: int, quick: bool, work: pathlib.Path):
    """(report, result) of one trained model on the test split."""
    slug = variant.replace(", ", "-").replace(" ", "")
    directory = work / "runs" / f"{SETS[name]}-{slug}-seed{seed}"
    config = experiment(name, store, variant, seed, quick)
    result = loop.train(config, directory)
    trained = runs.load(directory)
    found = eval_sets.EvalSet(trained.store, config).measure(runs.catalogue_score(trained))
    return found, result


def measured(name: str, store: pathlib.Path) -> dict[str, tuning.Measured]:
    """All baselines, and the factorisation without events that carry no opinion, which the model's loss cannot use."""
    config, opened = experiment(name, store, "config", 0, False), stores.Store.open(store)
    eval_set = eval_sets.EvalSet(opened, config)
    found = tuning.measure_baselines(eval_set)
    sign, log = np.asarray(opened.sign), counting.training_log(opened)
    signed = log._replace(**{field: getattr(log, field)[log.sign_T != 0] for field in EVENT_FIELDS})

    def stripped(score):
        def of(batch):
            opinion_BL = sign[batch.feedback_BL] != 0
            return score(
                batch._replace(item_BL=batch.item_BL * opinion_BL, feedback_BL=batch.feedback_BL * opinion_BL)
            )

        return of

    validation = list(held_out.EvalBatches(opened, config.data, config.eval, "validation"))

    def fit(log, sign, validate):
        fitted = least_squares.matrix_factorisation(log, sign, lambda score: validate(stripped(score)))
        start = fitted.again
        again = None if start is None else lambda seed: stripped(start(seed))
        return fitted._replace(score=stripped(fitted.score), again=again)

    its = tuning.measure_baseline(fit, signed, validation, eval_set, "signed events only")
    return found | {"matrix_factorisation, signed events only": its}


def summary(by_name: dict[str, tuning.Measured], runs: dict, later: float) -> dict:
    """Figures of a set: baselines, models by variant with mean and s.d. over seeds, and paired differences."""
    best = tuning.best_of(by_name)
    assert best is not None  # there are baselines
    reference = by_name[best].report
    models = {}
    for variant in dict.fromkeys(key[0] for key in runs):
        reports = [found for (of, _), (found, _) in sorted(runs.items()) if of == variant]
        results = [result for (of, _), (_, result) in sorted(runs.items()) if of == variant]
        line = {}
        for figure in FIGURES:
            values = [found.figures[figure] for found in reports]
            line[figure] = statistics.mean(values)
            line[f"{figure}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        line["epochs_to_convergence"] = [r["epochs_to_convergence"] for r in results]  # None where it has not
        line["validation_auc"] = statistics.mean(max(step["auc"] for step in r["history"]) for r in results)
        line["last_validation_auc"] = statistics.mean(r["history"][-1]["auc"] for r in results)
        line["hard_share"] = statistics.mean(r["hard_share"] for r in results)
        for of in ("pair_accuracy", "auc"):
            # Each example's value averaged over seeds, less the baseline's; the interval is over users.
            difference_X = np.mean([found.value_X[of] for found in reports], axis=0) - reference.value_X[of]
            line[f"difference_{of}"] = metrics.mean(difference_X).value
            line[f"difference_{of}_low"], line[f"difference_{of}_high"] = metrics.bootstrap(
                difference_X, reference.user_X, resamples=1000, seed=0
            )
        models[variant] = line
    return {
        **{
            name: reference.figures[name]
            for name in ("users", "examples", "pairs", "auc_pairs", "same_pairs")
        },
        "later_training_share": later,
        "baselines": {
            key: {figure: one.report.figures[figure] for figure in (*FIGURES, *ENDS)}
            | {"validation_auc": one.validation_auc, "seeds": one.seeds, "sees": one.sees}
            | {f"{of}_sd": one.sd.get(of, 0.0) for of in ("pair_accuracy", "auc")}
            for key, one in by_name.items()
        },
        "best_baseline": best,
        "models": models,
    }


def markdown(found: dict) -> str:
    """Tables of all sets: models first, then baselines, best first."""
    parts = [
        "# Real feedback logs: the model beside baselines",
        "`.venv/bin/python benchmarks/real_data.py`: the last 20% of each user's events, or sessions, are the test, "
        "the 10% before validation; of KuaiRand the last in time. Settings are those of `configs/`, chosen on "
        "validation, as are the baselines'.",
        "Models, and baselines with a random start: mean over seeds ± standard deviation. Differences are paired, to "
        "the best baseline by AUC on validation (bold), each example's value averaged over seeds first. Brackets "
        "hold 95% bootstrap intervals that resample users. Models see the last events of a listener (--data.length), "
        'the rows with "all history" all training events. Epochs to convergence are those of each seed; - has not '
        "converged.",
    ]
    head = [
        "",
        "pair accuracy",
        "AUC",
        "AUC less the best baseline's",
        *RANKED.values(),
        "epochs to convergence",
    ]
    for name, one in found.items():
        rows = []
        for variant, line in one["models"].items():
            ends = f"[{line['difference_auc_low']:+.4f}, {line['difference_auc_high']:+.4f}]"
            rows.append(
                [f"**SASRec, {variant}**"]
                + [f"{line[figure]:.4f} ± {line[f'{figure}_sd']:.4f}" for figure in ("pair_accuracy", "auc")]
                + [f"{line['difference_auc']:+.4f} {ends}"]
                + [f"{line[figure]:.4f}" for figure in RANKED]
                + [", ".join("-" if n is None else f"{n:.1f}" for n in line["epochs_to_convergence"])]
            )
        for key, line in sorted(one["baselines"].items(), key=lambda pair: -pair[1]["auc"]):
            title = key.replace("_", " ")
            title += ", all history" if line["sees"] == "history" else ""
            rows.append(
                [f"**{title}**" if key == one["best_baseline"] else title]
                + [
                    f"{line[of]:.4f}"
                    + (f" ± {line[f'{of}_sd']:.4f}" if line["seeds"] > 1 else "")
                    + f" [{line[f'{of}_low']:.4f}, {line[f'{of}_high']:.4f}]"
                    for of in ("pair_accuracy", "auc")
                ]
                + [""]
                + [f"{line[figure]:.4f}" for figure in RANKED]
                + [""]
            )
        parts.append(f"## {name}")
        parts.append(
            f"{one['examples']:,} examples of {one['users']:,} users, {one['pairs']:,} with a pair of a liked and a "
            f"disliked item; {one['auc_pairs']:,} pairs of AUC, and {one['same_pairs']:,} of an item with itself are "
            f"left out. {one['later_training_share']:.1%} of the training events come after the median test event."
        )
        parts.append(pages.table(head, rows))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one set, one seed, two epochs")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument(
        "--work", type=pathlib.Path, default=ROOT / "runs" / "real_data", help="stores and runs"
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.seeds, args.work = ["cm100k"], 1, pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
        args.variants = ["config"]
    found = {}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        stores_of = {name: prepared(name, args.work) for name in args.sets}
        jobs = {
            (name, variant, seed): pool.submit(
                one_run, name, stores_of[name], variant, seed, args.quick, args.work
            )
            for variant in args.variants
            for name in args.sets
            for seed in range(args.seeds)
        }
        for name in args.sets:
            by_name = measured(name, stores_of[name])
            runs = {key[1:]: job.result() for key, job in jobs.items() if key[0] == name}
            later = held_out.later_share(stores.Store.open(stores_of[name]))
            found[name] = summary(by_name, runs, later)
            progress.say(f"{name}: done")
    if not args.quick:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "real_data.md").write_text(markdown(found))
        files.write_json(args.out / "real_data.json", found)
    print(markdown(found))
    print(json.dumps({"seeds": args.seeds, "sets": found}))


if __name__ == "__main__":
    main()
