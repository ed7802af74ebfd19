"""SASRec and gSASRec on MovieLens-1M: the last film of each user, ranked among all that are new to the user.

    .venv/bin/python benchmarks/ml1m.py ml-1m      # the directory as published, or JAXNEG_ML1M: best on a GPU
    .venv/bin/python benchmarks/ml1m.py --quick    # a made-up log of the same format and small models: a minute

Every rating is a positive. The authors of gSASRec report NDCG@10 of 0.1259 for SASRec and 0.1726 for gSASRec. Prints
one JSON line; a run that was stopped continues in --work.
"""

import argparse
import json
import os
import pathlib
import tempfile

import numpy as np

from jaxneg import config as configs
from jaxneg.baselines import counting
from jaxneg.data import engine, held_out, prepare, prepare_config, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.metrics import measures, scores
from jaxneg.training import loop, runs

ROOT = pathlib.Path(__file__).parent.parent
MODELS = ("sasrec", "gsasrec")
FIGURES = ("ndcg@10", "hit_rate@1", "hit_rate@10")
QUICK = {
    "--data.length": 30,
    "--data.batch-size": 32,
    "--model.width": 32,
    "--model.layers": 1,
    "--model.dropout": 0.1,
    "--optim.learning-rate": 0.01,
    "--train.epochs": 30,
    "--train.patience": 0,
    "--train.devices": 1,
    "--train.evaluate-every": 65,
    "--eval.bootstrap": 50,
}


def make_up(
    directory: pathlib.Path, *, users: int = 400, films: int = 200, ratings: int = 25, seed: int = 0
) -> None:
    """Writes ratings.dat and movies.dat as MovieLens-1M does, of users who walk through the films.

    After film i comes i + 1, i + 2 or i + 3, alike likely, and never one again: a model that has learned this scores
    three films alike, for an NDCG@10 of (1 + 0.631 + 0.5) / 3 = 0.71. Every film is as popular as another.
    """
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 4, size=(users, ratings))
    film = (rng.integers(films, size=(users, 1)) + np.cumsum(steps, axis=1)) % films + 1
    stars, began = rng.integers(1, 6, size=film.shape), rng.integers(956_703_932, 1_046_454_590, size=users)
    with (directory / "ratings.dat").open("w") as file:
        for user in range(users):
            # As published, a user's lines are in no order of time.
            for n in rng.permutation(ratings):
                file.write(f"{user + 1}::{film[user, n]}::{stars[user, n]}::{began[user] + 60 * n}\n")
    lines = "".join(f"{n}::Fantômes {n} (1913)::Drama|Crime\n" for n in range(1, films + 1))
    (directory / "movies.dat").write_bytes(lines.encode("latin-1"))


def prepared(source: pathlib.Path, out: pathlib.Path) -> stores.Store:
    """The store of the log, every rating a positive, the last two of each user held out."""
    if not (out / "metadata.json").exists():
        reader, con = readers.READERS["movielens"], engine.connect()
        settings = PrepareConfig(
            split="leave-last", positive=("thumb_up", "thumb_down", "unknown"), min_item_count=5
        )
        settings = prepare_config.with_defaults(settings, **reader.settings)
        with engine.reading(source):
            events = reader.read(con, source, reader.Options())
            prepare.prepare(events, out, settings, con, reader="movielens", source=source.name)
    return stores.Store.open(out)


def among_new(score: scores.Score, store: stores.Store) -> scores.Score:
    """The scores, lowest for all that the user has rated before the test, however long ago."""
    session = np.asarray(store.user_indptr[:-1])  # a user is one session
    begin, end = np.asarray(store.session_indptr)[session], np.asarray(store.session_valid_end)[session]

    def of(batch):
        score_BV = np.array(score(batch), np.float32)
        for b, user in enumerate(batch.user_B):
            score_BV[b, store.item_T[begin[user] : end[user]]] = np.finfo(np.float32).min
        return score_BV

    return of


def experiment(name: str, store: stores.Store, quick: bool) -> configs.Config:
    config = configs.load(ROOT / "configs" / f"ml1m_{name}.py")
    options = {"--data.store": store.path}
    if quick:  # fewer negatives than there are films
        options |= QUICK | {"--data.negatives": min(config.data.negatives, 16)}
    return configs.override(config, [str(part) for option in options.items() for part in option])


def measure(source: pathlib.Path, work: pathlib.Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Test figures of both models, and of popularity."""
    store = prepared(source, work / "store")
    found, config_of = {}, {name: experiment(name, store, quick) for name in MODELS}
    for name, config in config_of.items():
        result = loop.train(config, work / name)
        score = runs.catalogue_score(runs.load(work / name))
        found[name] = _figures(score, store, config) | {"seconds": round(result["seconds"], 1)}
    count_V = np.bincount(counting.training_log(store).item_T, minlength=store.items + 1).astype(np.float32)
    popular = lambda batch: np.tile(count_V, (len(batch.user_B), 1))  # noqa: E731
    found["popularity"] = _figures(popular, store, config_of["sasrec"])
    return found


def _figures(score: scores.Score, store: stores.Store, config: configs.Config) -> dict[str, float]:
    examples = held_out.EvalBatches(store, config.data, config.eval, "test")
    found = measures.evaluate(among_new(score, store), examples, items=store.items, config=config.eval)
    return {name: round(found.figures[name], 4) for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", type=pathlib.Path, default=os.environ.get("JAXNEG_ML1M"))
    parser.add_argument("--quick", action="store_true", help="a made-up log, small models")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "ml1m", help="store and runs")
    args = parser.parse_args()
    if args.quick:
        with tempfile.TemporaryDirectory() as directory:
            source = pathlib.Path(directory)
            make_up(source)
            found = measure(source, source / "work", quick=True)
    elif args.source is None:
        parser.error("give the directory of MovieLens-1M, set JAXNEG_ML1M, or use --quick")
    else:
        found = measure(pathlib.Path(args.source), args.work, quick=False)
    print(json.dumps({"benchmark": "ml1m", "quick": args.quick, **found}))


if __name__ == "__main__":
    main()
