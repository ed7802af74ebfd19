"""Figures of a model in training on the validation examples, the same on all processes."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import metrics, program, scoring, sharding, step as steps
from jaxneg.batch import EvalBatch
from jaxneg.config import Config
from jaxneg.data import evaluation, store as stores

NDCG = "ndcg@10"  # the figure to monitor where nothing was rejected


class Validation:
    """Pair accuracy and AUC on the validation examples, from scores of the held-out items alone.

    The whole catalogue is ranked only where NDCG@10 of the liked items is what decides.
    """

    def __init__(self, config: Config, store: stores.Store, built: program.Program):
        self.batches = evaluation.EvalBatches(store, config.data, config.eval, "validation")
        self.config, self.built = config, built
        self.ranked = config.train.monitor == NDCG
        # All devices score their rows, and every process gets all scores: the figures are the same everywhere.
        everywhere = jax.sharding.NamedSharding(built.mesh, sharding.spec(""))
        self._score = functools.partial(jax.jit, out_shardings=everywhere)(self._scores)

    def __call__(
        self, state: steps.State, attribute_VA: jax.Array, feed: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Figures by name; those that nothing can be said of are left out. Calls ``feed`` before each batch."""
        correct, auc, ndcg = metrics.Mean(), metrics.Mean(), metrics.Mean()
        mesh = self.built.mesh
        for batch in self.batches:
            feed()
            size = len(batch.item_BL)
            fill = -size % mesh.size
            filled = [np.pad(leaf, ((0, fill), *((0, 0),) * (leaf.ndim - 1))) for leaf in batch]
            placed = EvalBatch(*(sharding.put(leaf, mesh, "B") for leaf in filled))
            found = self._score(*steps.evaluated(state), attribute_VA, placed)
            pair_B2, liked_BC, disliked_BC, *ranked = (np.asarray(scores)[:size] for scores in found)
            correct += metrics.pair_accuracy(pair_B2, batch.pair_B2[:, 0] > 0)
            auc += metrics.pairwise_auc(liked_BC, batch.liked_BC > 0, disliked_BC, batch.disliked_BC > 0)
            for rank_BC in self._ranks(ranked, batch):
                ndcg += metrics.mean(metrics.over_targets(metrics.ndcg(rank_BC, 10)))
        figures = {"pair_accuracy": correct.value, "auc": auc.value, NDCG: ndcg.value}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _scores(self, params, item_tables, attribute_VA, batch: EvalBatch):
        """Scores of the held-out items; where ranks are needed, these or the scores of the whole catalogue."""
        model, layout = self.built.model, self.built.layout
        found = scoring.held_out(model, layout, params, item_tables, attribute_VA, batch)
        scores = [found.pair_B2, found.liked_BC, found.disliked_BC]
        if not self.ranked:
            return scores
        if layout is None:
            row_VD, bias_V = scoring.catalogue_rows(model, params, item_tables, attribute_VA)
            return [*scores, found.h_BD @ row_VD.T + bias_V[None]]
        seen_BL = batch.item_BL if self.config.eval.exclude_seen else jnp.zeros_like(batch.item_BL)
        liked = [(batch.liked_BC, found.liked_BC)]
        (rank_BC,), _ = scoring.rank_catalogue(
            model, layout, params, item_tables, attribute_VA, found.h_BD, liked, seen_BL
        )
        return [*scores, rank_BC]

    def _ranks(self, ranked: list[np.ndarray], batch: EvalBatch) -> list[np.ndarray]:
        """Ranks of the liked items, NaN where there is none; nothing where they are not needed."""
        if self.built.layout is not None:
            return [np.where(batch.liked_BC > 0, rank_BC, np.nan) for rank_BC in ranked]
        seen_BL = batch.item_BL if self.config.eval.exclude_seen else None
        return [metrics.rank(score_BV, (batch.liked_BC,), seen_BL=seen_BL).targets[0] for score_BV in ranked]
