"""Whether StableHLO, ONNX and the Scorer answer as the model does: queries, scores and the best 100, per encoder.

    python benchmarks/parity.py > parity.json

Random histories of every length from none to the longest, of all items, feedback kinds and stations; and, for the
Scorer, of longer ones with items that the catalogue does not know. Models have random weights, wide enough that scores
differ. A difference is the largest one, as a share of the largest number where that is above 1. ``recall``: the share
of the best 100 that the same model holds whose item matrices are kept in bfloat16 and int8, as its export says.
"""

import argparse
import json
import pathlib
import tempfile

import faults  # beside this script
import jax
import numpy as np

from jaxneg import config as configs
from jaxneg.batch import FEEDBACK
from jaxneg.data import stores
from jaxneg.embeddings import sharding
from jaxneg.serve import contexts, export, manifest as manifests, onnx_models
from jaxneg.serve.scorer import Event, Scorer
from jaxneg.simulation import simulator
from jaxneg.training import program, runs

OPTIONS = "--data.length 20 --model.width 32 --model.layers 2 --model.heads 2 --model.row-scale 1"
ENCODERS = {
    "sasrec": "",
    "bert4rec": "--data.mask 0.2",
    "gru4rec": "",
    "caser": "",
    "ligr": "",
    "sasrec with a like head": "--like.weight 1 --like.rows folded",
}
SMALLER = ("bfloat16", "int8")
K = 100
LISTENERS = simulator.SimulateConfig(users=300, items=1_000, sessions=1_500, stations=6, artists=40)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one encoder, 50 histories")
    parser.add_argument("--count", type=int, default=1_000, help="histories")
    asked = parser.parse_args()
    names, count = (["gru4rec"], 50) if asked.quick else (list(ENCODERS), asked.count)
    with tempfile.TemporaryDirectory() as scratch:
        store = faults.store(pathlib.Path(scratch), LISTENERS)
        found = {name: one(name, store, pathlib.Path(scratch), count) for name in names}
    print(json.dumps({"benchmark": "parity", "histories": count, "jax": jax.__version__, "models": found}))


def one(name: str, store: pathlib.Path, scratch: pathlib.Path, count: int) -> dict:
    """The largest differences from the model, and how many of the best are the same."""
    options = f"{OPTIONS} --data.store {store} --model.encoder {name.split()[0]} {ENCODERS[name]}".split()
    config, opened = configs.override(configs.Config(), options), stores.Store.open(store)
    built = program.build(config, program.catalogue_of(opened), sharding.make_mesh(1))
    result = {"best_step": 0, "monitor": "auc", "best_score": 0.5}
    trained = runs.Trained(config, opened, built.model, built.init(), result, built.layout)
    out = scratch / name.replace(" ", "_")
    export.export(trained, out, export.Wanted(("stablehlo", "onnx")))
    model, items = Scorer.open(out), opened.items
    sizes, length = (items, opened.metadata.counts["stations"]), config.data.length
    history = contexts.drawn(np.random.default_rng(0), count, length, sizes)
    query_XE, item_VE = export.live(trained, history)
    score_XI = query_XE @ item_VE[1:].T
    told = dict(zip(("item", "feedback", "station"), history[:3], strict=True))
    asked = {"k": np.full((count, 1), K, np.int32)}
    if "forms" in model.manifest:
        asked["beta"] = np.zeros((count, 1), np.float32)
    (by_onnx_XE,) = onnx_models.call(onnx_models.session(out / manifests.ONNX[0]), told)
    row_Xk, top_Xk = onnx_models.call(onnx_models.session(out / manifests.ONNX[2]), told | asked)
    by_hlo_XE, by_hlo_XV = model.query(*history[:3]), model.scores(*history[:3])
    found = {
        "StableHLO queries": off(by_hlo_XE, query_XE),
        "StableHLO scores": off(by_hlo_XV[:, 1:], score_XI),
        "ONNX queries": off(by_onnx_XE, query_XE),
        "ONNX best 100, scores": off(top_Xk, -np.sort(-score_XI, axis=1)[:, :K]),
        "ONNX best 100, rows": off(np.take_along_axis(score_XI, row_Xk - 1, axis=1), top_Xk),
        "Scorer best 100": lists(model, trained, np.random.default_rng(1), count),
    }
    for dtype in SMALLER:
        small = export.export(trained, out.with_name(f"{out.name}_{dtype}"), export.Wanted(dtype=dtype))
        found[f"recall, {dtype}"] = small["ranking"]["recall"]
    return found


def lists(model: Scorer, trained: runs.Trained, rng: np.random.Generator, count: int) -> float:
    """Scores of its lists against those of the model, for histories up to twice as long, a tenth of them unknown."""
    length, ids = trained.config.data.length, model.items(trained.store.items)
    histories, context = [], np.zeros((3, count, length), np.int32)
    for x in range(count):
        row_T = rng.integers(1, 1 + len(ids), x % (2 * length + 1))
        known_T, code_T = rng.random(len(row_T)) >= 0.1, rng.integers(1, len(FEEDBACK), len(row_T))
        histories.append(
            [
                Event(ids[row - 1] if known else f"unknown {row}", FEEDBACK[code])
                for row, known, code in zip(row_T, known_T, code_T, strict=True)
            ]
        )
        kept = np.flatnonzero(known_T)[-length:]
        context[0, x, : len(kept)], context[1, x, : len(kept)] = row_T[kept], code_T[kept]
    query_XE, item_VE = export.live(trained, contexts.Contexts(*context, "random"))
    exact_Xk = -np.sort(-(query_XE @ item_VE[1:].T), axis=1)[:, :K]
    found = [
        off(np.array([one.score for one in best]), exact_k)
        for best, exact_k in zip(model.recommend_many(histories, K), exact_Xk, strict=True)
        if best.fallback is None
    ]
    return max(found)


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


if __name__ == "__main__":
    main()
