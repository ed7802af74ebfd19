"""An evaluation set: held-out examples of a store, on which models and baselines are measured alike."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxneg import progress
from jaxneg.batch import EvalBatch
from jaxneg.config import Config
from jaxneg.data import held_out, stores
from jaxneg.metrics import examples as measured, measures, scores
from jaxneg.training import parting


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
        return self._report(self._measured(score, stage, range(len(self.examples))))

    def measure_in_parts(self, score: scores.Score, stage: str = "") -> measures.Report:
        """The same on all processes, of which each scores some of the examples; so all must call it."""
        size, unit = self.config.eval.batch_size, 1
        if self.config.eval.released:  # groups of examples share their candidates
            unit = math.lcm(size, self.config.eval.released_batch) // size
        own = self._measured(score, stage, parting.run(len(self.examples), unit))
        parts = map(parting.nested, parting.gathered(parting.flat(own._asdict())))
        return self._report(measured.joined([_examples(part) for part in parts]))

    def _measured(self, score: scores.Score, stage: str, some: range) -> measured.Examples:
        """Of some batches that follow each other."""
        watched = _Watched(score, lambda done: self.on_progress(done, len(some), stage=stage))
        config = self.config.eval
        return measured.measured(
            watched,
            _Run(self.examples, some),
            items=self.store.items,
            config=config,
            before=some.start * config.batch_size,
        )

    def _report(self, found: measured.Examples) -> measures.Report:
        return measures.report(found, self.config.eval, self.examples.cold)


def _examples(part: dict[str, Any]) -> measured.Examples:
    """What a process has measured; without examples it has no values."""
    shown_WV = {int(k): count_WV for k, count_WV in part.pop("shown_WV").items()}
    return measured.Examples(shown_WV=shown_WV, value_X=part.pop("value_X", {}), **part)


@dataclass(frozen=True)
class _Run:
    """Some batches of held-out examples."""

    examples: held_out.EvalBatches
    some: range

    def __len__(self) -> int:
        return len(self.some)

    def __iter__(self) -> Iterator[EvalBatch]:
        return (self.examples[k] for k in self.some)


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
