"""What the verbs return: frozen handles of what lies on the disk. They show themselves, in a notebook too."""

import functools
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from jaxneg import errors, figures, shown
from jaxneg.config import Config
from jaxneg.data import stores
from jaxneg.files import addresses
from jaxneg.training import records, target_words, targets

if TYPE_CHECKING:
    from jaxneg.batch.forms import Form
    from jaxneg.serve.scorer import Event, Recommendation, Scorer

# figures of a report's table, and then those at the first cut-off
SHOWN = ("pair_accuracy", "auc", "mrr_positive")
AT_K = ("ndcg", "hit_rate")


class _Place:
    """Something with a path, which stands where a path is asked for."""

    path: pathlib.Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return errors.spoken(shown.text(*self._table()))

    def _repr_html_(self) -> str:
        return errors.spoken(shown.table(*self._table()))

    def _table(self) -> tuple[str, list[tuple[object, ...]], tuple[object, ...]]:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Store(_Place):
    """A prepared store.

    Attributes:
      path: of its directory.
      figures: events, users, items, sessions and so on, by name.
      feedback: events of each kind, by split and kind.
      dropped: what was left out of the log, by reason.
    """

    path: pathlib.Path
    figures: Mapping[str, int]
    feedback: Mapping[str, Mapping[str, int]]
    dropped: Mapping[str, int]

    @classmethod
    def open(cls, path: "str | pathlib.Path | Store") -> "Store":
        """The store of a directory. Raises UserError if there is none."""
        metadata = stores.Store.open(path).metadata
        return cls(pathlib.Path(path), metadata.counts, metadata.feedback, metadata.dropped)

    def items(self) -> pa.Table:
        """The catalogue, an item a row, most often heard first: item, count and its attributes."""
        words = stores.Store.open(self.path).vocabulary()
        return pa.table({"item": words.ids, "count": words.count, **words.attributes})

    def _table(self) -> tuple[str, list[tuple[object, ...]], tuple[object, ...]]:
        kinds = list(dict.fromkeys(kind for counts in self.feedback.values() for kind in counts))
        rows: list[tuple[object, ...]] = [
            (split, *(counts.get(kind, 0) for kind in kinds)) for split, counts in self.feedback.items()
        ]
        have = ", ".join(
            f"{self.figures[name]:,} {name}" for name in ("events", "users", "items", "sessions")
        )
        return f"Store {self.path}: {have}", rows, ("events", *kinds)


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Rows of items as they are scored: the score of an item is the inner product with its row, plus its bias.

    Attributes:
      ids: of the items, most often heard first.
      rows: float32 [items, D].
      biases: float32 [items].
    """

    ids: tuple[str, ...]
    rows: np.ndarray
    biases: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: str) -> np.ndarray:
        """The row of an item. Raises KeyError on an item that is not in the catalogue."""
        return self.rows[self._places[item]]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {id_: place for place, id_ in enumerate(self.ids)}

    def __repr__(self) -> str:
        return f"Embeddings of {len(self.ids):,} items, {self.rows.shape[1]} wide"


@dataclass(frozen=True, repr=False)
class Run(_Place):
    """A run that training left, ended or not.

    Attributes:
      path: of its directory.
      config: of the experiment.
      result: contents of result.json; empty of a run that has not ended.
    """

    path: pathlib.Path
    config: Config
    result: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, float | None]:
        """The validation's figures at the best step; empty of a run that has not ended."""
        if not self.result:
            return {}
        best = (line for line in self.result["history"] if line["step"] == self.result["best_step"])
        return dict(next(best, {}))

    @property
    def history(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, oldest first: of training, and of validation with names that begin so."""
        from jaxneg.training import logs

        return logs.read(addresses.run(self.path, "run"))

    def item_embeddings(self) -> Embeddings:
        """Rows of all items of the best checkpoint. Raises UserError on a run that has not ended."""
        import jax.numpy as jnp

        from jaxneg.training import runs, scoring, steps

        trained = runs.load(addresses.run(self.path, "run"), self.config)
        weights = steps.evaluated(trained.state, jnp.asarray(trained.store.attribute_VA))
        row_VD, bias_V, *_ = scoring.catalogue_rows(trained.model, weights)
        ids = tuple(trained.store.vocabulary().ids.to_pylist())
        return Embeddings(ids, np.asarray(row_VD, np.float32)[1:], np.asarray(bias_V, np.float32)[1:])

    def recommend(
        self,
        history: "Sequence[str | Event]",
        k: int = 10,
        *,
        exclude_seen: bool = False,
        form: "str | Form" = "rank",
    ) -> "list[Recommendation]":
        """The k best next items for a history, oldest first, of ids that were played or of Event; as ``Scorer``."""
        return self._scorer.recommend(history, k, exclude_seen=exclude_seen, form=form)

    @functools.cached_property
    def _scorer(self) -> "Scorer":
        from jaxneg.serve import export, scorer
        from jaxneg.training import runs

        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / "export"
            export.export(runs.load(addresses.run(self.path, "run"), self.config), out)
            return scorer.Scorer.open(out)

    def _table(self) -> tuple[str, list[tuple[object, ...]], tuple[object, ...]]:
        if not self.result:
            return f"Run {self.path}, not ended: jaxneg.train continues it", [], ()
        rows, heads = records.progressed(
            self.result["history"], self.result["best_step"], self.result["monitor"]
        )
        epochs = self.result["steps"] / self.result["steps_per_epoch"]
        told = f"{self.result['stopped']} after {epochs:.4g} epochs and {self.result['seconds']:.1f} seconds"
        of = figures.validated(self.result)
        return f"Run {self.path}: {told}{'; validation of ' + of if of else ''}", rows, heads


@dataclass(frozen=True, repr=False)
class Runs(Sequence[records.Summary]):
    """Runs side by side, best first; those of a slice too.

    Attributes:
      summaries: path, state, settings and validations of each.
    """

    summaries: tuple[records.Summary, ...]

    @property
    def differing(self) -> tuple[str, ...]:
        """Names of the settings in which they differ, as "data.p_hard"."""
        return tuple(records.differing(self.summaries))

    def rows(self, figure: str = "") -> list[dict[str, Any]]:
        """A dict a run, for a frame: settings that differ, the figure (else the run's own) best and last, n, state."""
        heads, rows = records.table(self.summaries, figure, full=True)
        return [dict(zip(heads, row, strict=True)) for row in rows]

    def open(self, place: int) -> Run:
        """The run at a place. Raises UserError on a damaged one."""
        from jaxneg.training import runs

        path = self.summaries[place].path
        return Run(path, runs.read_config(path), runs.ended(path) or {})

    def __len__(self) -> int:
        return len(self.summaries)

    def __getitem__(self, place: Any) -> Any:
        found = self.summaries[place]
        return Runs(found) if isinstance(place, slice) else found

    def __repr__(self) -> str:
        return errors.spoken(shown.text(*self._table()))

    def _repr_html_(self) -> str:
        return errors.spoken(shown.table(*self._table()))

    def _table(self) -> tuple[str, list[list[Any]], list[str]]:
        heads, rows = records.table(self.summaries)
        monitors = {figures.title(one.monitor) for one in self.summaries if one.best}
        what = f", validation {monitors.pop()}" if len(monitors) == 1 else ""
        return f"{len(self)} run{'s' * (len(self) != 1)}{what}", rows, heads


@dataclass(frozen=True, repr=False)
class Report(_Place):
    """What a run does on held-out events, beside baselines and other runs.

    Attributes:
      path: of report.md, with report.json and plots beside it.
      values: contents of report.json.
    """

    path: pathlib.Path
    values: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, float | None]:
        """The model's figures by name; None where there was nothing to measure."""
        return _numbers(self.values)

    @property
    def baselines(self) -> dict[str, dict[str, float | None]]:
        """Figures of each baseline."""
        return {name: _numbers(values) for name, values in self.values["baselines"].items()}

    @property
    def runs(self) -> dict[str, dict[str, float | None]]:
        """Figures of each run that it was compared with."""
        return {name: _numbers(values) for name, values in self.values["runs"].items()}

    @property
    def time_to_target(self) -> tuple["TimeToTarget", ...]:
        """When the model was as good as each run that it was compared with."""
        return tuple(TimeToTarget(one) for one in self.values["time_to_target"])

    def _table(self) -> tuple[str, list[tuple[object, ...]], tuple[object, ...]]:
        own = self.figures
        names = [*SHOWN, *(next((f for f in own if f.startswith(f"{name}@")), "") for name in AT_K)]
        names = [name for name in names if name in own]
        found = {"model": own} | {f"run {name}": one for name, one in self.runs.items()} | self.baselines
        rows: list[tuple[object, ...]] = [
            (name, *(values.get(one) for one in names)) for name, values in found.items()
        ]
        return f"Report {self.path}, {self.values['split']}", rows, ("", *map(figures.title, names))


@dataclass(frozen=True, repr=False)
class TimeToTarget:
    """What training had cost when runs were as good as others ever were, by validation.

    Attributes:
      values: by name, as report.json has them: passages (one for each pair of seeds, with target, cost, other_cost and
        within), reached, ratio by unit with its interval over seeds, or why_not.
    """

    values: Mapping[str, Any]

    @property
    def reached(self) -> bool:
        """Whether each run reached its target."""
        return self.values["ratio"] is not None

    @property
    def ratio(self) -> dict[str, float | None]:
        """Costs over the other's by unit: epochs, steps, sequences, seconds of steps; empty where one never came."""
        return {unit: one["mean"] for unit, one in (self.values["ratio"] or {}).items()}

    def __repr__(self) -> str:
        return target_words.spoken(cast(targets.Comparison, self.values))

    def _repr_html_(self) -> str:
        return shown.table(
            repr(self), [target_words.row(cast(targets.Comparison, self.values))], target_words.HEADS
        )


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        name: value
        for name, value in values.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }


@dataclass(frozen=True, repr=False)
class Export(_Place):
    """A run as it is served.

    Attributes:
      path: of its directory.
      manifest: contents of manifest.json.
    """

    path: pathlib.Path
    manifest: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, float | None]:
        """The validation figure that chose the checkpoint."""
        return dict(self.manifest["validation"])

    @functools.cached_property
    def scorer(self) -> "Scorer":
        """The loaded export."""
        from jaxneg.serve import scorer

        return scorer.Scorer.open(self.path)

    def recommend(
        self, history: "Sequence[str | Event]", k: int = 10, *, exclude_seen: bool = False
    ) -> "list[Recommendation]":
        """The k best next items for a history, oldest first, of ids that were played or of Event; as ``Scorer``."""
        return self.scorer.recommend(history, k, exclude_seen=exclude_seen)

    def _table(self) -> tuple[str, list[tuple[object, ...]], tuple[object, ...]]:
        rows: list[tuple[object, ...]] = [
            ("items", self.manifest["items"]),
            ("length", self.manifest["length"]),
            ("platforms", ", ".join(self.manifest["platforms"])),
            *((f"validation {figures.title(name)}", value) for name, value in self.figures.items()),
        ]
        return f"Export {self.path}", rows, ()
