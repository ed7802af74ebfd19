"""What counts as a rejection of a song that its listener has liked too: all, net or latest, on real logs.

    .venv/bin/python benchmarks/hard_opinion.py            # two sets, 3 seeds: about 15 minutes on 2 cores
    .venv/bin/python benchmarks/hard_opinion.py --quick    # one short run

Trains the configs of configs/ (p_hard 1) with each --data.hard-opinion and measures the test split, as real_data.py
does. Writes hard_opinion.md and hard_opinion.json to --out and prints one JSON object as its last line.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile

import real_data

from jaxneg import config as configs, files, pages, progress
from jaxneg.data import opinions, stores
from jaxneg.evaluation import eval_sets
from jaxneg.training import loop, runs

OPINIONS = ("all", "net", "latest")
SETS = ("spotify_history", "kuairand_pure")
FIGURES = {"auc": "test AUC", "pair_accuracy": "pair accuracy", "ndcg@10": "NDCG@10"}


def one(name: str, store: pathlib.Path, opinion: str, seed: int, epochs: int, work: pathlib.Path) -> dict:
    """Figures of one trained model on the test split."""
    config = configs.load(real_data.ROOT / "configs" / f"{real_data.SETS[name]}_sasrec.py")
    options = [
        "--data.store",
        str(store),
        "--data.hard-opinion",
        opinion,
        "--eval.bootstrap",
        "10",
        *(f"--{part}.seed={seed}" for part in ("data", "train")),
    ]
    if epochs:
        options += ["--train.epochs", str(epochs)]
    config = configs.override(config, options)
    directory = work / "runs" / f"opinion-{real_data.SETS[name]}-{opinion}-seed{seed}-{epochs}"
    result = loop.train(config, directory)
    trained = runs.load(directory)
    found = eval_sets.EvalSet(trained.store, config).measure(runs.catalogue_score(trained))
    shares = {key: result[key] for key in ("hard_share", "hard_also_liked", "best_score", "steps", "seconds")}
    return {figure: found.figures[figure] for figure in FIGURES} | shares


def summary(runs: list[dict]) -> dict:
    """Mean and standard deviation over seeds of each figure."""
    figures = {}
    for key in runs[0]:
        values = [one[key] for one in runs]
        figures[key] = statistics.mean(values)
        if key in FIGURES:
            figures[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return figures


def markdown(found: dict) -> str:
    parts = [
        "# Hard negatives that their listener likes too",
        "`.venv/bin/python benchmarks/hard_opinion.py`: the configs of `configs/` (p_hard 1), mean over "
        f"{found['seeds']} seeds ± standard deviation. Also liked: share of the hard negatives drawn that the listener "
        "likes elsewhere in training. Hard: share of the negatives that are hard, less than 1 where a listener has "
        "none or the target is drawn.",
    ]
    head = ["set, `--data.hard-opinion`", "hard", "also liked", *FIGURES.values()]
    rows = []
    for name, arms in found["sets"].items():
        for opinion, line in arms["opinions"].items():
            rows.append(
                [f"{name}, {opinion}", f"{line['hard_share']:.3f}", f"{line['hard_also_liked']:.3f}"]
                + [f"{line[figure]:.4f} ± {line[f'{figure}_sd']:.4f}" for figure in FIGURES]
            )
    parts.append(pages.table(head, rows))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one set, one seed, one epoch")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="at most; 0 takes those of the config")
    parser.add_argument(
        "--work", type=pathlib.Path, default=real_data.ROOT / "runs" / "real_data", help="stores and runs"
    )
    parser.add_argument("--out", type=pathlib.Path, default=real_data.ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.seeds, args.epochs = [SETS[1]], 1, 1
        args.work = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
    found = {
        "benchmark": "hard_opinion",
        "seeds": args.seeds,
        "epochs": args.epochs or None,
        "cpus": os.cpu_count(),
        "sets": {},
    }
    for name in args.sets:
        store = real_data.prepared(name, args.work)
        liked = opinions.also_liked(stores.Store.open(store))
        arms = {}
        for opinion in OPINIONS:
            arms[opinion] = [
                one(name, store, opinion, seed, args.epochs, args.work) for seed in range(args.seeds)
            ]
            progress.say(f"{name}, {opinion}: done")
        found["sets"][name] = {
            "rejections_also_liked": liked,
            "opinions": {opinion: summary(runs) for opinion, runs in arms.items()},
            "runs": arms,
        }
    if not args.quick:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "hard_opinion.md").write_text(markdown(found))
        files.write_json(args.out / "hard_opinion.json", found)
    print(markdown(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
