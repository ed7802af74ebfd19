"""What a run begins with: biases of items and factorisations, from what the training log says."""

from typing import TYPE_CHECKING

import numpy as np

from jaxneg.data import biases, held_out, stores
from jaxneg.metrics import measures
from jaxneg.training import fold_in
from jaxneg.training.jobs import Job

if TYPE_CHECKING:
    from jaxneg.baselines import counting

BATCHES = 16  # of validation that penalties are chosen on, at most


def of(job: Job) -> dict[str, np.ndarray | fold_in.First]:
    """What the first state is made of, by the names that ``Program.init`` has for it, in the order of the rows."""
    config, store, by_row = job.config, job.store, job.built.layout.by_row
    found = {"bias_V": biases.first(config, store, job.batches.targets)}
    if not config.like.folds:  # whose rows bring biases of their own
        found["like_bias_V"] = biases.likes(config, store)
    placed: dict[str, np.ndarray | fold_in.First] = {
        name: by_row(of_items) for name, of_items in found.items() if of_items is not None
    }
    if config.like.folds:
        table_VG, numbers = fitted(store, job.validation.batches)
        placed["folded"] = fold_in.First(by_row(table_VG), numbers)
    return placed


def fitted(store: stores.Store, validation: held_out.EvalBatches) -> fold_in.First:
    """Factorisations of a store's training log, with the penalties that validation chooses by AUC.

    The whole log is in memory of each host while they are fitted.
    """
    from jaxneg.baselines import counting, folding  # scipy's sparse matrices take long to import

    every = max(-(-len(validation) // BATCHES), 1)
    examples = [validation[k] for k in range(0, len(validation), every)]
    sign = np.asarray(store.sign)

    def validate(score: "counting.Score") -> float:
        return measures.separation(score, examples)["auc"]

    return fold_in.first(folding.fit(counting.training_log(store), sign, validate, examples), sign)
