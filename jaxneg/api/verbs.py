"""The verbs: prepare, train, open_run, evaluate, export."""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxneg import callbacks as telling, errors, files, progress as bars
from jaxneg.api import frames
from jaxneg.api.results import Export, Report, Run, Runs, Store, TimeToTarget
from jaxneg.config import Config, fields, loading, rules
from jaxneg.errors import UserError
from jaxneg.files import addresses
from jaxneg.training import targets

Path = str | os.PathLike[str]
Some = Runs | Run | Path | Sequence[Run | Path]  # one run or several
NAME = "frame.parquet"  # of a frame, for the reader; messages call it the frame


def prepare(log: Any, out: Path, *, reader: str = "table", progress: bool = True, **options: Any) -> Store:
    """Reads a log of listening into a store; one that is there is replaced once the new one is whole.

    Args:
      log: a file or directory that the reader knows, or a frame of pandas, polars, arrow or of any library that speaks
        the arrow or the dataframe protocol; a frame is read as the reader ``table`` reads Parquet.
      out: the store to write.
      reader: name of the format, as in ``jaxneg prepare READER``.
      progress: show how far it is, on standard error.
      options: of the reader and of preparing, named as in ``jaxneg prepare READER --help``: user="listener",
        feedback="reaction", values="like=thumb_up,skip=skip", session="gap".

    Raises UserError where log and options do not make a store; nothing is written then.
    """
    from jaxneg.data import ingest, prepare_config, readers

    if reader not in readers.READERS:
        raise UserError(errors.unknown("reader", reader, readers.READERS))
    chosen = readers.READERS[reader]
    own, other = (
        {one.name for one in dataclasses.fields(k)} for k in (chosen.Options, prepare_config.PrepareConfig)
    )
    for name in options:
        if name not in own | other:
            near = difflib.get_close_matches(name, own | other, 1)
            hint = (
                f"; perhaps you meant {near[0]}"
                if near
                else f": use some of {', '.join(sorted(own | other))}"
            )
            raise UserError(f"prepare with reader {reader!r} has no option {name}{hint}")
    of_reader = fields.built(chosen.Options, {k: v for k, v in options.items() if k in own})
    settings = fields.built(prepare_config.PrepareConfig, {k: v for k, v in options.items() if k not in own})
    settings = prepare_config.with_defaults(settings, **chosen.settings)
    files.given(out, "out")
    target = pathlib.Path(out)
    with _source(log, reader) as (path, named), _steps("prepare", progress) as steps:
        ingest.ingest(reader, path, of_reader, target, settings, spoken=named, on_progress=steps)
    return Store.open(target)


@contextlib.contextmanager
def _source(log: Any, reader: str) -> Iterator[tuple[pathlib.Path, str]]:
    """Where a reader finds a log, and what it is called; messages of a frame's file speak of the frame."""
    if not frames.is_frame(log):
        if not isinstance(log, str | os.PathLike):
            kind = type(log).__name__
            raise UserError(f"log must be a path or a frame of pandas, polars or arrow, got {kind}")
        yield pathlib.Path(log), os.fspath(log)
        return
    if reader != "table":
        raise UserError(f"reader {reader!r} reads files: give a path, or a frame without reader")
    with tempfile.TemporaryDirectory(prefix="jaxneg") as directory:
        path = pathlib.Path(directory) / NAME
        frames.write(log, path)
        try:
            yield path, "a frame"
        except UserError as error:
            if str(path) not in str(error):
                raise
            raise UserError(str(error).replace(str(path), "the frame")) from error


def train(
    config: Config | Path,
    workdir: Path,
    *,
    store: Path | None = None,
    warm_start: Run | Path | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = True,
) -> Run:
    """Trains a model in a run directory, or continues there exactly where its latest checkpoint stands.

    Args:
      config: the experiment, or a Python file with ``get_config() -> Config``.
      workdir: of the run: made if new.
      store: to read, instead of ``config.data.store``.
      warm_start: a run that has ended, to start from on a later log, instead of ``config.train.warm_start``: its best
        weights and the moments of its optimiser, rows of items, stations and attributes by raw id.
      callbacks: who is told of the run: functions of a step and its figures, objects with methods of
        ``jaxneg.callbacks.Callback``, and "tensorboard", "wandb" or "mlflow".
      progress: show how far it is, on standard error.

    Raises UserError on settings that make no sense, on a store that is not there, on a directory of another experiment,
    on a run of another model to start from, and on a loss that is not finite.
    """
    from jaxneg.training import logs

    told = telling.Callbacks(callbacks)
    with told.around(), logs.also(told):
        run = _train(_started(_config(config, store), warm_start), workdir, progress)
        told.end(run.result)
    return run


def _train(config: Config, workdir: Path, progress: bool) -> Run:
    from jaxneg.training import loop

    with _steps("train", progress) as steps:
        say = bars.say if progress else lambda _: None
        files.given(workdir, "workdir")
        loop.train(config, pathlib.Path(workdir), steps, say=say)
    return open_run(workdir)


def _started(config: Config, run: Run | Path | None) -> Config:
    """The config of a run that starts from another."""
    if run is None:
        return config
    files.given(run, "warm_start")
    start = os.fspath(run)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, warm_start=start))


def _config(config: Config | Path, store: Path | None) -> Config:
    if isinstance(config, str | os.PathLike):
        config = loading.load(addresses.local(config, "config"))
    config = fields.settled(config, Config)
    if store is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, store=os.fspath(store)))
    return rules.check(config)


def open_run(workdir: Path) -> Run:
    """The run of a directory. Raises UserError if it is none."""
    from jaxneg.training import runs

    here = addresses.run(workdir, "workdir")
    return Run(pathlib.Path(workdir), runs.read_config(here), runs.ended(here) or {})


def runs(*places: Path) -> Runs:
    """Runs in directories and below, those of sweeps too, best first, with their settings, figures and state.

    Raises UserError where there is none.
    """
    from jaxneg.training import records

    return Runs(tuple(records.summaries([addresses.listed(place, "place") for place in places or (".",)])))


def evaluate(
    run: Run | Path,
    *,
    split: str = "test",
    compare: Sequence[Run | Path] = (),
    baselines: str = "usual",
    store: Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Report:
    """Measures a run's best checkpoint, and the baselines, on held-out events; writes report.md with plots there.

    Args:
      run: that has ended, or its directory.
      split: which held-out events, test or validation; tune on validation.
      compare: further runs on the same store, each measured as it would be alone.
      baselines: the usual ones, or all, with WRMF, BPR and a mean of several factorisations, in minutes.
      store: where the run's store has moved.
      progress: show how far it is, on standard error.
      options: fields of EvalConfig to measure otherwise: ks=(5, 10), bootstrap=200.

    Raises UserError on a run that has not ended and on one whose store is gone or another.
    """
    from jaxneg.evaluation import report

    for name, value, known in (
        ("split", split, ("test", "validation")),
        ("baselines", baselines, ("usual", "all")),
    ):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    with addresses.held(run, "run", "report") as path:
        values = _evaluate(path, report.Asked(split, _others(compare), baselines), store, options, progress)
    return Report(pathlib.Path(run) / "report.md", values)


def _others(compare: Sequence[Run | Path]) -> list[pathlib.Path]:
    several = [compare] if isinstance(compare, str | os.PathLike) else compare
    return [addresses.run(other, "compare") for other in several]


def _evaluate(
    path: pathlib.Path, asked_of: Any, store: Path | None, options: dict[str, Any], progress: bool
) -> Mapping[str, Any]:
    from jaxneg.evaluation import report
    from jaxneg.training import runs

    config = runs.read_config(path)
    asked = {one.name: getattr(config.eval, one.name) for one in dataclasses.fields(config.eval)} | options
    config = dataclasses.replace(config, eval=fields.built(type(config.eval), asked, "--eval."))
    with _steps("evaluate", progress) as steps:
        trained = runs.load(path, _config(config, store), shared=True)
        return report.evaluate_run(trained, path, asked_of, steps)


def time_to_target(run: Some, other: Some) -> TimeToTarget:
    """What training had cost when a run was as good as another ever was, by validation: epochs, steps, seconds.

    Args:
      run: that has ended, or its directory; or several that differ by their seeds alone.
      other: whose best validation figure is the target; several pair with those of ``run`` by seed.

    Raises UserError on a run that has not ended, and on several that differ by more than their seeds.
    """
    sides = [_side(runs_, name) for runs_, name in ((run, "run"), (other, "other"))]
    return TimeToTarget(targets.compare(sides[0], sides[1]))


def _side(given: Any, name: str) -> targets.Side:
    """Runs of one experiment."""
    several = [one.path for one in given] if isinstance(given, Runs) else given
    if isinstance(several, str | os.PathLike):
        several = [several]
    paths = [addresses.run(one, name) for one in several]
    if not paths:
        raise UserError(f"{name} names no run: give a directory that jaxneg.train left")
    traces = [targets.trace(path) for path in paths]
    for path, one in zip(paths, traces, strict=True):
        if changed := targets.differing(traces[0], one):
            raise UserError(
                f"{name}: {path} and {paths[0]} differ by more than their seeds ({'; '.join(changed)}): give runs of "
                "one experiment"
            )
    return targets.Side(f"run{'s' * (len(paths) > 1)} {', '.join(map(str, paths))}", traces)


def export(
    run: Run | Path,
    out: Path,
    *,
    formats: Sequence[str] = (),
    dtype: str = "float32",
    index: str = "faiss",
    store: Path | None = None,
) -> Export:
    """Writes a run's best checkpoint for serving: StableHLO, safetensors, item matrix, vocabulary; ONNX or an index
    where they are asked for.

    Args:
      run: that has ended, or its directory.
      out: directory to write; must not exist yet.
      formats: of "stablehlo", "onnx", "safetensors", "index", "triton" and "kserve"; none gives the first and third.
      dtype: of the item matrices, "float32", "bfloat16" or "int8".
      index: its library, "faiss", "voyager" or "usearch".
      store: where the run's store has moved.

    Raises UserError on a run that has not ended, on a directory that is there, and on words that are none of these;
    nothing is written then.
    """
    from jaxneg.serve import export as exports
    from jaxneg.training import runs

    files.given(out, "out")
    path, target = addresses.run(run, "run"), pathlib.Path(out)
    wanted = exports.Wanted(tuple(formats) or exports.DEFAULT.formats, dtype, index, path)
    manifest = exports.export(runs.load(path, _config(runs.read_config(path), store)), target, wanted)
    return Export(target, manifest)


def _steps(title: str, show: bool) -> contextlib.AbstractContextManager[bars.OnProgress]:
    """Progress for a person, or for nobody."""
    return bars.Steps(title) if show else contextlib.nullcontext(bars.silent)
