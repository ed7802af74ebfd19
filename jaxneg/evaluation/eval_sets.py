"""An evaluation set: held-out examples of a store, on which models and baselines are measured alike."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jaxneg import progress
from jaxneg.batch import EvalBatch
from jaxneg.config import Config
from jaxneg.data import held_out, stores
from jaxneg.metrics import measures, scores


@dataclass(frozen=True)
class EvalSet:
    """Held-out examples of a store, cut as a config says."""

    store: stores.Store
    config: Config
    split: str = "test"  # or "validation"
    on_progress: progress.OnProgress = progress.silent

    @functools.cached_property
    def examples(self) -> held_out.EvalBatches:
        return held_out.EvalBatches(self.store, self.config.data, self.config.eval, self.split)

    def measure(self, score: scores.Score, stage: str = "") -> measures.Report:
        """What ``measures.evaluate`` finds of a score function; progress is told in batches, as ``stage``."""
        examples = self.examples
        watched = _Watched(score, lambda done: self.on_progress(done, len(examples), stage=stage))
        return measures.evaluate(
            watched, examples, items=self.store.items, config=self.config.eval, cold=examples.cold
        )


@dataclass(frozen=True)
class _Watched:
    """A score function that tells how many batches have been measured."""

    score: scores.Score
    tell: Callable[[int], None]

    def __call__(self, batch: EvalBatch) -> scores.Scored:
        return scores.scored(self.score(batch))

    def each(self, batches: Iterable[EvalBatch]) -> Iterator[tuple[EvalBatch, scores.Scored]]:
        for done, found in enumerate(scores.each(self.score, batches), start=1):
            yield found
            self.tell(done)
