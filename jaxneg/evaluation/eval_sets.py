"""An evaluation set: held-out examples of a store, on which models and baselines are measured alike."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

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
        parts = [_of_arrays(found) for found in parting.gathered(_arrays(own))]
        return self._report(measured.joined(parts))

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


def _arrays(found: measured.Examples) -> dict[str, np.ndarray]:
    """What was measured as arrays by name."""
    values = {f"value.{name}": value_X for name, value_X in found.value_X.items()}
    shown = {f"shown.{k}": shown_WV for k, shown_WV in found.shown_WV.items()}
    rest = {name: getattr(found, name) for name in ("pair_X2", "user_X", "liked_rank", "disliked_rank")}
    return rest | values | shown


def _of_arrays(found: Mapping[str, np.ndarray]) -> measured.Examples:
    """The inverse."""
    parts: dict[str, dict[str, np.ndarray]] = {"value": {}, "shown": {}}
    for name, values in found.items():
        of, dot, rest = name.partition(".")
        if dot:
            parts[of][rest] = values
    return measured.Examples(
        pair_X2=found["pair_X2"],
        user_X=found["user_X"],
        value_X=parts["value"],
        shown_WV={int(k): shown_WV for k, shown_WV in parts["shown"].items()},
        liked_rank=found["liked_rank"],
        disliked_rank=found["disliked_rank"],
    )


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
