"""An evaluation set: held-out examples of a store, on which models and baselines are measured alike."""

import functools
from collections.abc import Iterator
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

        def watched() -> Iterator[EvalBatch]:
            for done, batch in enumerate(examples, start=1):
                yield batch
                self.on_progress(done, len(examples), stage=stage)

        return measures.evaluate(
            score, watched(), items=self.store.items, config=self.config.eval, cold=examples.cold
        )
