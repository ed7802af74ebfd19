"""What holds the encoder back beside a chain: the next liked item by the last few, counted, and one change at a time.

    .venv/bin/python benchmarks/ablation.py                        # two real sets, 3 seeds: some three hours on 2 cores
    .venv/bin/python benchmarks/ablation.py --sets ml_latest_small_2016 --seeds 1
    .venv/bin/python benchmarks/ablation.py --quick                # one epoch of two arms

Ranks all items but those seen, in films by ratings and short videos by what was watched (JAXNEG_DATA, default
../shared/data). The chain is written here, needs no training, and has its lags, decay and smoothing chosen by
validation NDCG@10, as the epoch of each model is. BASE is the fastest recipe of benchmarks/time_to_quality.py; every
other arm changes one thing of it. Beside the figures stands the difference to BASE on the test, with its interval over
people. A cell is an arm of a seed: run again, those that are there are read. Prints one JSON object as its last line,
and with --out writes ablation.md and ablation.json.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import two_heads

from jaxneg import config as configs, files, metrics, pages, progress
from jaxneg.baselines import counting
from jaxneg.batch import EvalBatch
from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.data import stores
from jaxneg.evaluation import eval_sets
from jaxneg.training import loop, runs

LENGTHS = {"ml_latest_small_2016": 100, "kuairand_history": 50}
BASE, CHAIN, LAST = "recipe", "chain", "chain, last item alone"
ARMS = {
    BASE: (),
    "rows start at .1": ("--model.row-scale", "0.1"),
    "tables untied": ("--model.no-tied",),
    "dropout .4": ("--model.dropout", "0.4"),
    "no dropout": ("--model.dropout", "0"),
    "cosine schedule": ("--optim.decay", "cosine"),
    "rate 1e-3": ("--optim.learning-rate", "1e-3"),
    "256 negatives": ("--loss.name", "sampled_softmax", "--data.shared-negatives", "256"),
    "one negative, BCE": ("--loss.name", "bce", "--data.negatives", "1"),
    "half the length": ("--data.length", "half"),
    "no positions": ("--model.no-position",),
    "feedback no input": ("--model.feedback", "none"),
    "weights averaged": ("--optim.average", "0.99"),
}
LAGS, DECAYS, SMOOTHING = (1, 2, 3, 5, 8), (0.5, 0.8, 1.0), (1.0, 10.0, 100.0)
FIGURES = {"ndcg@10": "NDCG@10", "hit_rate@10": "HR@10", "mrr_positive": "MRR"}
JUDGED = "ndcg@10"
RESAMPLES = 1000


class Cell(NamedTuple):
    """Figures on validation and test, and the judged one of each example of the test."""

    facts: dict
    value_X: np.ndarray
    user_X: np.ndarray


def base(store: pathlib.Path, length: int) -> Config:
    return Config(
        data=DataConfig(store=str(store), length=length, batch_size=32, negatives=0, p_hard=0.0),
        model=ModelConfig(station=False, attributes=False),
        loss=LossConfig(name="softmax"),
        optim=OptimConfig(learning_rate=3e-3),
        train=TrainConfig(epochs=60, patience=6, monitor=JUDGED),
        eval=EvalConfig(exclude_seen=True, bootstrap=10),
    )


def chains(log: counting.Log, lags: int) -> list[sp.csr_array]:
    """For each lag from 1, how often b was liked that many events after a in a session, [V, V]."""
    found = []
    for lag in range(1, lags + 1):
        together = (log.session_T[lag:] == log.session_T[:-lag]) & (log.sign_T[lag:] > 0)
        pair = log.item_T[:-lag][together], log.item_T[lag:][together]
        shape = (log.items + 1, log.items + 1)
        found.append(sp.csr_array((np.ones(len(pair[0]), np.float32), pair), shape=shape))
    return found


def chain(log: counting.Log, tables: list[sp.csr_array], lags: int, decay: float, smoothing: float):
    """The sum over the last ``lags`` items a of  decay^(lag - 1) (followed_ab + m popular_b) / (followed_a + m)."""
    popular_V = np.bincount(log.item_T[log.sign_T > 0], minlength=log.items + 1).astype(np.float32)
    popular_V /= max(popular_V.sum(), 1)
    scaled = [1.0 / (np.asarray(table.sum(axis=1)).ravel() + smoothing) for table in tables[:lags]]

    def score(batch: EvalBatch) -> np.ndarray:
        item_BL = np.asarray(batch.item_BL)
        size_B = (item_BL > 0).sum(1)
        score_BV = np.zeros((len(item_BL), log.items + 1), np.float32)
        for lag in range(1, lags + 1):
            item_B = np.where(size_B >= lag, item_BL[np.arange(len(item_BL)), size_B - lag], 0)
            weight_B = decay ** (lag - 1) * scaled[lag - 1][item_B]
            score_BV += weight_B[:, None] * (tables[lag - 1][item_B].toarray() + smoothing * popular_V)
        return score_BV

    return score


def counted(store: pathlib.Path, config: Config, lags: tuple[int, ...]) -> Cell:
    """A chain, its numbers chosen on validation."""
    opened = stores.Store.open(store)
    log = counting.training_log(opened)
    tables, validation = chains(log, max(lags)), eval_sets.EvalSet(opened, config, "validation")
    tried = {
        grid: validation.measure(chain(log, tables, *grid)).figures[JUDGED]
        for grid in itertools.product(lags, DECAYS if max(lags) > 1 else (1.0,), SMOOTHING)
    }
    best = max(tried, key=tried.__getitem__)
    report = eval_sets.EvalSet(opened, config).measure(chain(log, tables, *best))
    return _cell(report, {"validation": tried[best], "settings": best})


def trained(
    store: pathlib.Path, config: Config, words: tuple[str, ...], seed: int, work: pathlib.Path
) -> Cell:
    words = tuple(str(config.data.length // 2) if word == "half" else word for word in words)
    config = configs.override(config, [*words, *(f"--{part}.seed={seed}" for part in ("data", "train"))])
    result = loop.train(config, work)
    run = runs.load(work)
    report = eval_sets.EvalSet(run.store, config).measure(runs.catalogue_score(run))
    best = max(line[JUDGED] for line in result["history"])
    return _cell(report, {"validation": best, "epoch": result["best_step"] / result["steps_per_epoch"]})


def _cell(report, facts: dict) -> Cell:
    figures = {name: report.figures[name] for name in FIGURES}
    return Cell(facts | figures, report.value_X[JUDGED], report.user_X)


def kept(path: pathlib.Path, make) -> Cell:
    """A cell that is there already, else the one that ``make`` gives."""
    if not path.with_suffix(".json").exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_suffix(".npz"), value=made.value_X, user=made.user_X)
        files.write_json(path.with_suffix(".json"), made.facts)
    with np.load(path.with_suffix(".npz")) as values:
        return Cell(json.loads(path.with_suffix(".json").read_text()), values["value"], values["user"])


def cells(name: str, args) -> Iterator[tuple[str, list[Cell]]]:
    """Each arm with its cells."""
    store, own = two_heads.prepared(name, args.work, False), args.work / "cells" / name
    config = base(store, LENGTHS[name])
    if args.quick:
        config = configs.override(config, ["--train.epochs", "1"])
    yield LAST, [kept(own / "last", lambda: counted(store, config, (1,)))]
    yield CHAIN, [kept(own / "chain", lambda: counted(store, config, LAGS))]
    for arm in args.arms:
        found = []
        for seed in range(args.seeds):
            slug = f"{arm.replace(',', '').replace(' ', '_')}-{seed}"
            run = args.work / "runs" / name / slug
            found.append(kept(own / slug, lambda: trained(store, config, ARMS[arm], seed, run)))  # noqa: B023
        progress.say(f"ablation: {name}, {arm}: {statistics.mean(one.facts[JUDGED] for one in found):.4f}")
        yield arm, found


def of_set(arms: dict[str, list[Cell]]) -> dict:
    """Figures of each arm, means over seeds, and what it has less BASE."""
    found = {}
    base_X = np.mean([one.value_X for one in arms[BASE]], axis=0)
    for arm, own in arms.items():
        line = {figure: [one.facts[figure] for one in own] for figure in ("validation", *FIGURES)}
        means = {figure: statistics.mean(values) for figure, values in line.items()}
        spread = {f"{figure}_sd": statistics.stdev(v) if len(v) > 1 else None for figure, v in line.items()}
        difference_X = np.mean([one.value_X for one in own], axis=0) - base_X
        ends = metrics.bootstrap(difference_X, own[0].user_X, resamples=RESAMPLES, seed=0)
        less = [metrics.mean(difference_X).value, *ends]
        found[arm] = means | spread | {"seeds": len(own), "less_recipe": less}
        found[arm]["settings"] = own[0].facts.get("settings")
    return found


def page(sets: dict[str, dict]) -> str:
    parts = [
        "# The encoder beside a chain",
        "Made by `benchmarks/ablation.py`: the next liked item out of all not seen. Epochs, and a chain's lags, decay "
        "and smoothing, are chosen by validation NDCG@10; the rest is the test. Means over seeds ± standard deviation; "
        "brackets hold 95% intervals that resample people.",
    ]
    for name, arms in sets.items():
        rows = [
            [
                arm,
                str(line["seeds"]),
                *(_figure(line, figure) for figure in ("validation", *FIGURES)),
                "{:+.4f} [{:+.4f}, {:+.4f}]".format(*line["less_recipe"]),
            ]
            for arm, line in arms.items()
        ]
        head = ["", "seeds", "validation NDCG@10", *FIGURES.values(), f"NDCG@10 less {BASE}"]
        lags, decay, smoothing = arms[CHAIN]["settings"]
        parts += [
            f"## {name}",
            pages.table(head, rows),
            f"The chain: {lags} lags, decay {decay:g}, m {smoothing:g}.",
        ]
    return "\n\n".join(parts) + "\n"


def _figure(line: dict, figure: str) -> str:
    spread = line[f"{figure}_sd"]
    return f"{line[figure]:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "ablation")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="one epoch of two arms of one set")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.arms, args.seeds = list(LENGTHS)[:1], [BASE, "tables untied"], 1
        args.work = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
    sets = {name: of_set(dict(cells(name, args))) for name in args.sets}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_json(args.out / "ablation.json", sets)
        files.write_text(args.out / "ablation.md", page(sets))
    print(json.dumps({"benchmark": "ablation", "sets": sets}))


if __name__ == "__main__":
    main()
