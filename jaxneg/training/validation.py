"""Figures of a model in training on the validation examples, the same on all processes."""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import figures, metrics
from jaxneg.batch import PAD, EvalBatch
from jaxneg.config import Config, UserError
from jaxneg.data import held_out, stores
from jaxneg.embeddings import sharding, tables, topk
from jaxneg.metrics import measures, released
from jaxneg.training import catalogue, program, scoring, steps

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
        self._lengths: list[int] = []  # that contexts are cut to, ascending; the longest where there is none
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
        size = self.config.eval.batch_size
        value_X: dict[str, np.ndarray] = {}
        weights = steps.evaluated(state, attribute_VA)
        for some, at_B in self._cut():
            feed()
            held, ranked = self._score(weights, self._placed(some))
            pair_BC, *_ = of_rank = [np.asarray(scores)[:size] for scores in held[1:4]]
            found = self._of_pairs("", some, of_rank)
            if held.likes:
                found |= self._of_pairs("like_", some, [np.asarray(one)[:size] for one in held.likes])
            if self._released:
                rank_B = released.rank(pair_BC[:, 2:], some.pair_B2[:, 2:])
                found[self.monitor] = metrics.hit_rate(rank_B, self._k)
            elif ranked is not None:
                found[self.monitor] = self._of_ranks(topk.on_host(ranked, (some.liked_BC,)).targets[0])
            for name, value_B in found.items():
                whole_X = value_X.setdefault(name, np.empty(len(self.batches) * size, value_B.dtype))
                whole_X[at_B] = value_B
        value_X = {name: whole_X[: self.batches.examples] for name, whole_X in value_X.items()}
        sums, count = metrics.by_unit(value_X["pair_accuracy"], self.batches.user_X)
        found = {name: metrics.mean(column).value for name, column in value_X.items()}
        found["user_pair_accuracy"] = metrics.mean(sums / count).value
        return {name: value for name, value in found.items() if math.isfinite(value)} | self.counts

    def _cut(self) -> Iterator[tuple[EvalBatch, np.ndarray]]:
        """Batches with the places of their examples, contexts of about one length together and cut to it.

        A figure is the same in whichever batch its example is: no real position minds how much padding follows.
        """
        size, longest = self.config.eval.batch_size, self.config.data.length
        together = max(catalogue.AHEAD // size, 1)
        for first in range(0, len(self.batches), together):
            ks = range(first, min(first + together, len(self.batches)))
            parts = [self._asked(k) for k in ks]
            whole = EvalBatch(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
            size_X = (whole.item_BL != PAD).sum(1)
            order = np.argsort(size_X, kind="stable") if self.built.model.cut else np.arange(len(size_X))
            if self.built.model.cut and not self._lengths:
                # Programs are for all validations, of which a run has that many at least.
                uses = self.config.train.patience or self.config.train.epochs
                worth = catalogue.PROGRAM // (self.config.model.width * uses)
                self._lengths = catalogue.chosen(size_X, longest, set(), worth)
            for at_B in np.split(order, len(ks)):
                fits = (length for length in self._lengths if length >= size_X[at_B].max(initial=0))
                length = next(fits, longest)
                some = EvalBatch(*(leaf[at_B] for leaf in whole))
                cut = {name: getattr(some, name)[:, :length] for name in EvalBatch._fields[:3]}
                yield some._replace(**cut), first * size + at_B

    def _asked(self, k: int) -> EvalBatch:
        """The k-th batch, with the candidates of the released code beside its pairs."""
        batch = self.batches[k]
        return batch._replace(pair_B2=np.concatenate([batch.pair_B2, self._candidates(k)], axis=1))

    def _placed(self, batch: EvalBatch) -> EvalBatch:
        """A batch on the devices, with rows of padding to share it out."""
        mesh = self.built.mesh
        fill = -len(batch.item_BL) % mesh.size
        filled = [np.pad(leaf, ((0, fill), *((0, 0),) * (leaf.ndim - 1))) for leaf in batch]
        return EvalBatch(*(sharding.put(leaf, mesh, "B") for leaf in filled))

    def _of_pairs(self, of: str, batch: EvalBatch, scores: list[np.ndarray]) -> dict[str, np.ndarray]:
        """What the scores of a head say of each example: of its pair, and of its liked and disliked items."""
        pair_BC, liked_BC, disliked_BC = scores
        of_pairs = metrics.pairs(liked_BC, batch.liked_BC, disliked_BC, batch.disliked_BC)
        correct_B = metrics.pair_correct(pair_BC[:, :2], batch.pair_B2[:, 0] > 0)
        return {f"{of}pair_accuracy": correct_B, f"{of}auc": of_pairs.auc_B}

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
