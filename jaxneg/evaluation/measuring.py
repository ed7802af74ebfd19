"""A trained run on an evaluation set: its figures, those of its last epoch, and what feedback means to it."""

import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxneg.batch import CODE
from jaxneg.config import KINDS, Config
from jaxneg.data import held_out, histories, stores
from jaxneg.evaluation import eval_sets, probes, tuning
from jaxneg.files import documents
from jaxneg.metrics import measures, scores
from jaxneg.training import processes, records, runs, steps, targets


class MeasuredRun(NamedTuple):
    """What was found of a run."""

    report: measures.Report
    config: Config
    result: records.Result  # contents of its result.json
    probed: documents.Object = types.MappingProxyType({})  # what ``probe`` found
    session_X: np.ndarray | None = (
        None  # what its examples are known by; None where they are those of the other runs
    )
    last: measures.Report | None = None  # of its last checkpoint, where that is another than the best


class Findings(NamedTuple):
    """All that a report is made of."""

    split: str  # "test" or "validation"
    run: MeasuredRun
    baselines: Mapping[str, tuning.Measured]  # by name, on the same examples
    # others by name, each on examples of its own
    runs: Mapping[str, MeasuredRun] = types.MappingProxyType({})
    coverage: documents.Object = types.MappingProxyType({})  # what ``input_coverage`` found
    later: float = float("nan")  # what ``held_out.later_share`` found
    notes: Sequence[str] = ()  # sentences for the head of the report
    # when the run was as good as each other, and what they are made of
    reached: Sequence[targets.Comparison] = ()
    sides: Sequence[targets.Side] = ()
    forms: documents.Object = types.MappingProxyType({})  # what report.json holds of serving forms


def measure_run(trained: runs.Trained, eval_set: eval_sets.EvalSet, stage: str) -> MeasuredRun:
    """Figures of a run's best checkpoint, and what it takes feedback for."""
    score = runs.catalogue_score(trained)
    return MeasuredRun(
        measured(trained, score, eval_set, stage),
        trained.config,
        trained.result,
        probe(trained, score, eval_set.examples),
        eval_set.examples.session_X,
    )


def measure_last(
    trained: runs.Trained, directory: pathlib.Path, eval_set: eval_sets.EvalSet
) -> measures.Report | None:
    """What the last checkpoint of a run does on the same examples; None where it is the best one or gone."""
    step = trained.result["steps"]
    if step == trained.result["best_step"] or not (directory / "checkpoints" / str(step)).is_dir():
        return None
    other = runs.load(directory, trained.config, shared=trained.shared, step=step)
    return measured(other, runs.catalogue_score(other), eval_set, "last epoch")


def measured(
    trained: runs.Trained, score: scores.Score, eval_set: eval_sets.EvalSet, stage: str
) -> measures.Report:
    """Figures of a score function of a run. Of many processes that have it whole each takes some of the examples; where
    they share its tables, all score each batch together, its examples and the tables' rows being parted."""
    if processes.many() and not trained.layout.mesh.is_multi_process:
        return eval_set.measure_in_parts(score, stage)
    return eval_set.measure(score, stage)


def probe(trained: runs.Trained, score: scores.Score, examples: held_out.EvalBatches) -> documents.Object:
    """What feedback means to a model: "feedback_cosines" and "responsiveness" of ``probes``, where it has them.

    Cosines come by table with the names of their rows as "kinds": those that the model took as inputs in training.
    Responsiveness takes up to ``probes.EXAMPLES`` examples out of batches in a random order.
    """
    shown = histories.shown_kinds(trained.config.data)
    counts = trained.store.metadata.feedback["train"]
    kinds = tuple(kind for kind in KINDS if shown[CODE[kind]] and counts.get(kind, 0) > 0)
    weights = steps.evaluated(trained.state, jnp.asarray(trained.store.attribute_VA))
    found: dict[str, object] = {}
    if cosines := probes.feedback_cosines(weights.params, kinds):
        found["feedback_cosines"] = {"kinds": list(kinds)} | {
            name: matrix_FF.tolist() for name, matrix_FF in cosines.items()
        }
    flip = probes.flips(trained.store, kinds)
    rows = runs.catalogue_rows(trained) if flip and cosines else None
    if rows is not None:  # it compares rows of any two items
        config = trained.config.eval
        order = np.random.default_rng(config.pair_seed).permutation(len(examples))
        catalogue = probes.Catalogue(np.asarray(rows[0], np.float32), np.asarray(trained.store.attribute_VA))
        found["responsiveness"] = probes.responsiveness(
            score, (examples[int(k)] for k in order), flip, catalogue, config
        )
    return found


def input_coverage(store: stores.Store, examples: held_out.EvalBatches) -> dict[str, dict[str, float]]:
    """Shares of users and of held-out examples with 1 and with ENOUGH usable events, by set of inputs."""
    users = probes.user_coverage(store)
    of_examples = probes.example_coverage(store, examples.begin_X, examples.cut_X, examples.cold)
    return {
        name: {
            f"{of}_{n}": share
            for of, shares in (("users", users[name]), ("examples", of_examples[name]))
            for n, share in shares.items()
        }
        for name in users
    }
