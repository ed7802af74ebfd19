"""Figures of a model in training on the validation examples, the same on all processes."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import figures, metrics
from jaxneg.batch import EvalBatch
from jaxneg.config import Config, UserError
from jaxneg.data import held_out, stores
from jaxneg.embeddings import sharding, tables, topk
from jaxneg.metrics import measures, released
from jaxneg.training import program, scoring, steps

FEW = 500  # pairs below which a validation is noisy

# Of the held-out items, and, where ranks are needed, where the liked ones stand.
Scores = tuple[scoring.HeldOut, topk.Ranked | None]


class Validation:
    """Pair accuracy and AUC on the validation examples, from scores of the held-out items alone, and what decides.

    The whole catalogue is ranked only where a figure of ranks decides. Raises UserError where what decides cannot be
    measured on these examples.
    """

    def __init__(self, config: Config, store: stores.Store, built: program.Program):
        self.batches = held_out.EvalBatches(store, config.data, config.eval, "validation")
        self.config, self.built, self.items = config, built, store.items
        self.monitor = config.train.monitor
        check(config, self.batches)
        self._name, _, k = self.monitor.partition("@")
        self._k = int(k or 0)
        self._released = self._name == "released_hit_rate"
        self._ranked = not self._released and self._name not in figures.OF_PAIRS
        self.counts = {
            "pairs": int(self.batches.paired_X.sum()),
            "examples": self.batches.examples,
            "users": self.batches.users,
        }
        # All devices score their rows, and every process gets all scores: the figures are the same everywhere.
        everywhere = jax.sharding.NamedSharding(built.mesh, sharding.spec(""))
        self._score = sharding.jit(self._scores, out_shardings=everywhere)

    def __call__(
        self, state: steps.State, attribute_VA: jax.Array, feed: Callable[[], None] = lambda: None
    ) -> dict[str, float | int]:
        """Figures by name, with the numbers of pairs and users behind them; those of nothing are left out.

        Calls ``feed`` before each batch.
        """
        columns: dict[str, list[np.ndarray]] = {"pair_accuracy": [], "auc": [], self.monitor: []}
        columns |= {"like_pair_accuracy": [], "like_auc": []} if self.config.like.weight else {}
        mesh = self.built.mesh
        for k, batch in enumerate(self.batches):
            feed()
            size = len(batch.item_BL)
            fill = -size % mesh.size
            asked = batch._replace(pair_B2=np.concatenate([batch.pair_B2, self._candidates(k)], axis=1))
            filled = [np.pad(leaf, ((0, fill), *((0, 0),) * (leaf.ndim - 1))) for leaf in asked]
            placed = EvalBatch(*(sharding.put(leaf, mesh, "B") for leaf in filled))
            held, ranked = self._score(steps.evaluated(state, attribute_VA), placed)
            pair_BC, *_ = of_rank = [np.asarray(scores)[:size] for scores in held[1:4]]
            self._add_pairs(columns, "", batch, of_rank)
            if held.likes:
                self._add_pairs(columns, "like_", batch, [np.asarray(one)[:size] for one in held.likes])
            if self._released:
                rank_B = released.rank(pair_BC[:, 2:], asked.pair_B2[:, 2:])
                columns[self.monitor].append(metrics.hit_rate(rank_B, self._k))
            elif ranked is not None:
                columns[self.monitor].append(
                    self._of_ranks(topk.on_host(ranked, (batch.liked_BC,)).targets[0])
                )
        value_X = {
            name: np.concatenate(column)[: self.batches.examples]
            for name, column in columns.items()
            if column
        }
        sums, count = metrics.by_unit(value_X["pair_accuracy"], self.batches.user_X)
        found = {name: metrics.mean(column).value for name, column in value_X.items()}
        found["user_pair_accuracy"] = metrics.mean(sums / count).value
        return {name: value for name, value in found.items() if math.isfinite(value)} | self.counts

    def _add_pairs(
        self, columns: dict[str, list[np.ndarray]], of: str, batch: EvalBatch, scores: list[np.ndarray]
    ) -> None:
        """Adds what the scores of a head say of a batch: of its pairs, and of its liked and disliked items."""
        pair_BC, liked_BC, disliked_BC = scores
        correct_B = metrics.pair_correct(pair_BC[:, :2], batch.pair_B2[:, 0] > 0)
        columns[f"{of}pair_accuracy"].append(correct_B)
        of_pairs = metrics.pairs(liked_BC, batch.liked_BC, disliked_BC, batch.disliked_BC)
        columns[f"{of}auc"].append(of_pairs.auc_B)

    def _candidates(self, k: int) -> np.ndarray:
        """Target and candidates of the k-th batch where figures of the released code decide; else no columns."""
        size, examples = self.config.eval.batch_size, self.batches.examples
        first, last = k * size, min((k + 1) * size, examples)
        if not self._released:
            return np.zeros((size, 0), np.int32)
        item_BC = released.matrix(self.batches.first_liked_X, first, last, self.items, self.config.eval)
        return np.pad(item_BC, ((0, size - len(item_BC)), (0, 0)))

    def _of_ranks(self, rank_BC: np.ndarray) -> np.ndarray:
        """What decides, per example, from ranks of the liked items."""
        if self._name == "next_hit_rate":
            return metrics.hit_rate(rank_BC[:, 0], self._k)
        if self._name == "mrr_positive":
            return metrics.over_targets(metrics.mrr(rank_BC))
        of = {"ndcg": metrics.ndcg, "hit_rate": metrics.hit_rate}[self._name]
        return metrics.over_targets(of(rank_BC, self._k))

    def _scores(self, weights: tables.Weights, batch: EvalBatch) -> Scores:
        """Scores of the held-out items; where ranks are needed, where the liked ones stand."""
        model, layout = self.built.model, self.built.layout
        found = scoring.held_out(model, layout, weights, batch)
        if not self._ranked:
            return found, None
        seen_BL = batch.item_BL if self.config.eval.exclude_seen else jnp.zeros_like(batch.item_BL[:, :1])
        examples = topk.Examples(found.h_BD, batch.liked_BC, seen_BL)
        rows = functools.partial(scoring.catalogue_rows, model)
        return found, topk.ranked(layout, rows, weights, examples)

    def warnings(self) -> list[str]:
        """A line where the examples are too few to tell one checkpoint from another."""
        if self.counts["pairs"] >= FEW:
            return []
        return [
            f"validation has {figures.counted(self.counts['users'], self.counts['pairs'])}, fewer than {FEW}: its "
            "figures are noisy, and with them which checkpoint is best; prepare with a longer validation window"
        ]


def check(config: Config, batches: held_out.EvalBatches) -> None:
    """Raises UserError where --train.monitor cannot be measured on validation examples, and says why."""
    monitor, ks, released_items = config.train.monitor, config.eval.ks, config.eval.released
    name, _, k = monitor.partition("@")
    if name == "released_hit_rate" and not released_items:
        raise UserError(f"--train.monitor {monitor} is among random items: give --eval.released 1000")
    known = figures.monitors(ks, released_items > 0)
    if monitor not in known:
        cuts = " ".join(map(str, ks))
        how = f"add {k} to --eval.ks, or choose" if k.isdigit() else "choose"
        raise UserError(
            f"--train.monitor {monitor} is not measured with --eval.ks {cuts}: {how} among {', '.join(known)}"
        )
    liked, disliked = int(batches.liked_S.sum()), int((~batches.liked_S).sum())
    ranked = f"ndcg@{measures.CUT if measures.CUT in ks else ks[0]}"
    where = f"--train.monitor {monitor} cannot be measured"
    mend = "prepare with a longer validation window"
    if liked == 0:
        raise UserError(
            f"{where}: none of the {disliked:,} signed events of validation is a liking; {mend}, or with "
            "feedback kinds that count as positive"
        )
    if name not in figures.OF_PAIRS:
        return
    if disliked == 0:
        raise UserError(
            f"{where}: all {liked:,} signed events of validation are likings, and it compares them with rejections; "
            f"use --train.monitor {ranked}, {mend}, or with feedback kinds that count as negative"
        )
    if not batches.compared_X.any():
        raise UserError(
            f"{where}: none of the {batches.examples:,} validation examples has a liked and another disliked item; "
            f"use --train.monitor {ranked}, or {mend}"
        )
    if name != "auc" and not batches.paired_X.any():
        raise UserError(
            f"{where}: no validation example has a liked and another disliked item of one station; "
            f"use --train.monitor auc, or {mend}"
        )
