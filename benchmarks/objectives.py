"""Objectives of the field in one protocol: the same encoder, negatives, steps and choice, beside the library's own.

    .venv/bin/python benchmarks/objectives.py            # two sets, 3 seeds: about half an hour on 2 cores
    .venv/bin/python benchmarks/objectives.py --quick    # a few listeners, two arms, one epoch

Every arm ranks targets by a softmax against 256 shared random items and one of its own, but for those named
otherwise; the encoder is SASRec of one layer and width 32. The checkpoint is chosen by validation AUC. Cells are kept
in --work, so that a run that was stopped goes on. Writes objectives.md, objectives.json and a plot to --out and
prints one JSON object as its last line.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile

import numpy as np
import real_data
from contenders import hstu, labels, terms

from jaxneg import config as configs, files, pages, progress
from jaxneg.batch import PAD
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.data import engine, held_out, prepare, prepare_config, readers
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.evaluation import eval_sets
from jaxneg.metrics import measures
from jaxneg.simulation import simulator
from jaxneg.training import loop, runs

CONTENDERS = (terms, hstu, labels)  # what they register is known once they are imported
BASE = Config(
    data=DataConfig(length=20, batch_size=128, negatives=1, shared_negatives=256),
    model=ModelConfig(width=32, layers=1, output_attributes=True),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=50),
    train=TrainConfig(epochs=6, patience=6, monitor="auc"),
)
SOFTMAX = "softmax"  # the arm that others are beside
HARD = ("--data.p-hard", "1")
ARMS = {
    SOFTMAX: ("--loss.name", "sampled_softmax"),
    "softmax, hard negatives": ("--loss.name", "sampled_softmax", *HARD),
    "BCE, p_hard 0.5": ("--loss.name", "bce", "--data.p-hard", "0.5", "--data.shared-negatives", "0"),
    "softmax + feedback": ("--loss.name", "sampled_softmax", "--loss.feedback", "1"),
    "feedback alone": ("--loss.name", "feedback", "--data.shared-negatives", "0", "--data.negatives", "0"),
    "not to recommend": ("--loss.name", "not_to_recommend"),
    "softmax + JRC": ("--loss.name", "with_jrc"),
    "softmax + RCR": ("--loss.name", "with_rcr"),
    "softmax + S-DPO, no reference": ("--loss.name", "with_s_dpo", *HARD),
    "softmax + graded targets": ("--loss.name", "with_graded"),
    "softmax, query asked for a like": (
        *("--loss.name", "asked_softmax"),
        *("--model.encoder", "conditioned", "--data.target", "any"),
    ),
    "softmax, any target": ("--loss.name", "sampled_softmax", "--data.target", "any"),
    "HSTU, softmax + feedback": (
        "--model.encoder",
        "hstu",
        "--loss.name",
        "sampled_softmax",
        "--loss.feedback",
        "1",
    ),
}
LISTENERS = simulator.SimulateConfig()
SETS = ("simulated", "kuairand_pure")
BANDS = ("head", "middle", "tail")
FIGURES = {
    "user_pair_accuracy": "pair accuracy, per user",
    "auc": "AUC",
    "ndcg@10": "NDCG@10",
    "mrr_positive": "MRR liked",
    "disliked@10": "disliked in the top 10",
    "liked_less_disliked@10": "liked less disliked",
    **{f"liked_less_disliked_{band}": f"the same, {band}" for band in BANDS},
    "gini@10": "Gini",
    "epochs_to_target": "epochs to softmax's best AUC; never if a seed never is",
}


def prepared(
    name: str, work: pathlib.Path, quick: bool, listeners: simulator.SimulateConfig = LISTENERS
) -> pathlib.Path:
    """The store of a set; ``listeners`` are who is simulated."""
    if name != "simulated":
        return real_data.prepared(name, work)
    store = work / "stores" / (name if listeners == LISTENERS else f"{name}_{listeners.seed}")
    if not (store / "metadata.json").exists():
        log = work / f"{store.name}.parquet"
        work.mkdir(parents=True, exist_ok=True)
        few = dataclasses.replace(listeners, users=150, sessions=1000)
        simulator.write(simulator.simulate(few if quick else listeners), log)
        reader, con = readers.READERS["table"], engine.connect()
        settings = prepare_config.with_defaults(PrepareConfig(session="given"), **reader.settings)
        events = reader.read(con, log, reader.Options(attributes=("artist",)))
        prepare.prepare(events, store, settings, con, reader="table", source="simulated")
    return store


def one(store: pathlib.Path, arm: str, seed: int, epochs: int, directory: pathlib.Path) -> dict:
    """Figures of one trained model on the test split, and its validations."""
    seeds = [f"--{part}.seed={seed}" for part in ("data", "train")]
    words = [
        "--data.store",
        str(store),
        "--eval.bootstrap",
        "10",
        "--train.epochs",
        str(epochs),
        *seeds,
        *ARMS[arm],
    ]
    result = loop.train(configs.override(BASE, words), directory)
    trained = runs.load(directory)
    eval_set = eval_sets.EvalSet(trained.store, trained.config)
    report = eval_set.measure(runs.catalogue_score(trained))
    found = {name: report.figures[name] for name in FIGURES if name in report.figures}
    found |= hits(report, eval_set.examples, np.asarray(trained.store.vocabulary().count))
    found["history"] = [[line["epoch"], line["auc"]] for line in result["history"]]
    return found


def hits(report: measures.Report, examples: held_out.EvalBatches, count_V: np.ndarray) -> dict[str, float]:
    """Share of liked and of disliked targets in the top 10, over all and by popularity.

    Head, middle and tail hold a third of the training events each, the most frequent items first.
    """
    before_V = np.cumsum(count_V) - count_V  # rows of a vocabulary are ordered by count
    band_V = np.append(-1, np.minimum(3 * before_V // max(1, int(count_V.sum())), 2))
    share = {}
    for kind, rank_X in (("liked", report.liked_rank), ("disliked", report.disliked_rank)):
        item_X = np.concatenate([_targets(batch, kind) for batch in examples])
        if len(item_X) != len(rank_X):
            raise ValueError(f"{len(item_X)} targets and {len(rank_X)} ranks")
        hit_X, band_X = rank_X <= 10, band_V[item_X]
        share[kind] = [float(hit_X.mean()), *(float(hit_X[band_X == band].mean()) for band in range(3))]
    less = [liked - disliked for liked, disliked in zip(share["liked"], share["disliked"], strict=True)]
    return {"disliked@10": share["disliked"][0], "liked_less_disliked@10": less[0]} | {
        f"liked_less_disliked_{band}": value for band, value in zip(BANDS, less[1:], strict=True)
    }


def _targets(batch, kind: str) -> np.ndarray:
    item_BC = np.asarray(getattr(batch, f"{kind}_BC"))[np.asarray(batch.real_B)]
    return item_BC[item_BC != PAD]


def summary(cells: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """Mean and standard deviation over seeds of each figure of each arm; None of epochs that a seed never took."""
    found = {}
    for arm, by_seed in cells.items():
        for seed, cell in by_seed.items():
            target = max(auc for _, auc in cells[SOFTMAX][seed]["history"])
            cell["epochs_to_target"] = next((e for e, auc in cell["history"] if auc >= target), None)
        found[arm] = {}
        for name in FIGURES:
            values = [cell[name] for cell in by_seed.values()]
            known = None not in values
            found[arm][name] = statistics.mean(values) if known else None
            found[arm][f"{name}_sd"] = statistics.stdev(values) if known and len(values) > 1 else None
    return found


def markdown(found: dict) -> str:
    parts = [
        "# Objectives of the field in one protocol",
        f"`.venv/bin/python benchmarks/objectives.py`: mean over seeds ± standard deviation, "
        f"{found['epochs']} epochs at most, the checkpoint chosen by validation AUC. Softmax is against 256 shared "
        "random items and one of the target's own. Liked less disliked is the share of liked targets in the top 10 "
        "less that of disliked ones; head, middle and tail hold a third of the training events each. JRC, RCR, S-DPO, "
        "graded targets, queries asked for an outcome and HSTU stand in `benchmarks/contenders/`, not in the library.",
    ]
    for name, of_set in found["sets"].items():
        rows = [
            [arm, *(_cell(line[figure], line[f"{figure}_sd"], figure) for figure in FIGURES)]
            for arm, line in of_set["arms"].items()
        ]
        parts += [
            f"## {name}, {of_set['seeds']} seed{'s' if of_set['seeds'] > 1 else ''}",
            pages.table(["objective", *FIGURES.values()], rows),
        ]
    parts.append("![Pair accuracy against NDCG@10](objectives.png)")
    return "\n\n".join(parts) + "\n"


def _cell(value: float | None, deviation: float | None, figure: str) -> str:
    if value is None:
        return "never"
    if figure == "epochs_to_target":
        return f"{value:.1f}"
    return f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def plot(sets: dict, path: pathlib.Path) -> None:
    """NDCG@10 by pair accuracy, a mark an arm; hollow where another arm has more of both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(sets), figsize=(6 * len(sets), 5.4), squeeze=False)
    for ax, (name, of_set) in zip(axes[0], sets.items(), strict=True):
        points = {arm: (line["user_pair_accuracy"], line["ndcg@10"]) for arm, line in of_set["arms"].items()}
        for n, (arm, (x, y)) in enumerate(points.items()):
            beaten = any(a > x and b > y for a, b in points.values())
            color, mark = f"C{n % 10}", "os^vDPX<>*hpd"[n % 13]
            ax.plot(x, y, mark, ms=8, color=color, mfc="none" if beaten else color, ls="", label=arm)
        ax.set(title=name, xlabel="pair accuracy, per user", ylabel="NDCG@10")
        ax.grid(alpha=0.3)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8, frameon=False
    )
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few listeners, two arms, one epoch")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--work", type=pathlib.Path, default=real_data.ROOT / "runs" / "objectives")
    parser.add_argument("--out", type=pathlib.Path, default=real_data.ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.arms, args.seeds, args.epochs = ["simulated"], [SOFTMAX, "softmax + JRC"], 1, 1
        args.work = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
    found = {"benchmark": "objectives", "epochs": args.epochs, "sets": {}}
    for name in args.sets:
        store, cells = prepared(name, args.work, args.quick), {arm: {} for arm in args.arms}
        for seed in range(args.seeds):
            for arm in args.arms:
                directory = args.work / name / f"{arm.replace(' ', '_').replace(',', '')}-seed{seed}"
                kept = directory.with_name(f"{directory.name}.json")
                if not kept.exists():
                    cell = one(store, arm, seed, args.epochs, directory)
                    files.write_json(kept, cell)
                    progress.say(
                        f"{name}, {arm}, seed {seed}: AUC {cell['auc']:.4f}, NDCG@10 {cell['ndcg@10']:.4f}"
                    )
                cells[arm][str(seed)] = json.loads(kept.read_text())
        found["sets"][name] = {"seeds": args.seeds, "arms": summary(cells)}
    if not args.quick:
        args.out.mkdir(parents=True, exist_ok=True)
        if (args.out / "objectives.json").exists():  # sets that were not asked for stay
            found["sets"] = json.loads((args.out / "objectives.json").read_text())["sets"] | found["sets"]
        files.write_text(args.out / "objectives.md", markdown(found))
        files.write_json(args.out / "objectives.json", found)
        plot(found["sets"], args.out / "objectives.png")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
