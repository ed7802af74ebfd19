"""The command line: prepare, inspect, simulate, plan, train, evaluate, sweep, export, recommend, demo."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NoReturn

import tyro

import jaxneg
from jaxneg import config as configs, errors, files, progress, signals
from jaxneg.config import Config, fields
from jaxneg.errors import UserError

# Heavy modules are imported by the verb that needs them, so that --help answers at once.

SUMMARY = """jaxneg trains next-song recommenders that learn from what people reject.

usage: jaxneg VERB ...

From a log to recommendations:

  prepare READER SOURCE --out STORE   read a log of listening into a store
  inspect STORE                       what is in a store
  plan CONFIG --topology v5e:16x16    what training takes on TPUs that are not here: memory, time, does it fit
  train CONFIG --workdir RUN          train a model on a store, or continue a run
  evaluate RUN                        measure it on held-out events, beside baselines
  sweep CONFIG --workdir SWEEP        train and measure a grid of options over seeds, side by side
  export RUN --out DIR                write it for serving: StableHLO, safetensors, npy
  recommend DIR --items A B C         try an export from the shell

Without a log of your own:

  demo --out DIR                      all of the above on simulated listeners, in minutes
  simulate --out FILE                 a log of simulated listeners
  simulate --ab EXPORT ... --out DIR  an online test of models on them

jaxneg VERB --help explains a verb and its options; jaxneg --version says which jaxneg this is.
Exit codes: 0 done, 2 something to mend in the call, the data or the disk, 1 a fault of jaxneg itself,
130 interrupted, 143 stopped by SIGTERM (after either training has saved: start it again to continue; a second one ends
it at once), 75 a step is stuck, one of many processes is lost, or another took this one's directory as it stood still
(start all again to continue; JAX itself may end them with 134 instead).
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a verb and exits with its code."""
    args = list(sys.argv[1:] if args is None else args)
    signals.open_streams()
    signals.install(*args[:1])
    try:
        _run(args)
        sys.stdout.flush()
    except UserError as error:
        _mend(errors.with_remedy(error), everywhere=not error.by_all)
    except KeyboardInterrupt:  # of a library that has put its own handler in place
        signals.end(signal.SIGINT)
    except signals.Stopped as error:
        progress.say(f"jaxneg: {error}")
        _leave(error.code)
    except BrokenPipeError:
        # Nobody reads what is left in the buffer, and Python would complain of that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _leave(141)
    except Exception as error:
        if (trouble := errors.trouble(error)) is not None:
            _mend(trouble)
        processes = _cluster()
        if processes is None:
            raise
        if (gone := processes.lost(error)) is not None:
            progress.say(f"jaxneg: another process is lost ({gone}): start all again to continue")
            _leave(processes.LOST)
        traceback.print_exception(error)
        _leave(1)


def _mend(text: str, everywhere: bool = False) -> NoReturn:
    """Says in one line what the user has to mend; once, where all of many processes met it."""
    processes = _cluster()
    if not everywhere or processes is None or processes.first():
        progress.say(f"jaxneg: {' '.join(text.splitlines())}")
    _leave(2)


def _cluster() -> Any:
    """The module of many processes, where this is one of them: the others may wait for what this one will not do."""
    processes = sys.modules.get("jaxneg.training.processes")
    return processes if processes is not None and processes.many() else None


def _leave(code: int) -> NoReturn:
    if (processes := _cluster()) is not None:
        processes.leave(code)
    sys.exit(code)


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(SUMMARY)
        return
    if args[0] == "--version":
        print(jaxneg.__version__)
        return
    if args[0] not in VERBS:
        raise UserError(f"no verb {args[0]!r}: use one of {', '.join(VERBS)}")
    VERBS[args[0]](args[1:])


def _prepare(args: list[str]) -> None:
    from jaxneg.data import engine, opinions, prepare, readers, stores

    if not args or args[0] in ("-h", "--help"):
        print("usage: jaxneg prepare READER SOURCE --out STORE [OPTIONS]\n")
        print(
            "Reads a log of listening into a store that training reads. "
            "SOURCE is a file, or the directory as published."
        )
        print("\nReaders:\n")
        for name, reader in readers.READERS.items():
            print(f"  {name:10} {reader.help}")
        print("\njaxneg prepare READER --help lists the options of that reader.")
        return
    if args[0] not in readers.READERS:
        raise UserError(f"no reader {args[0]!r}: use one of {', '.join(readers.READERS)}")
    name, reader = args[0], readers.READERS[args[0]]
    defaults = prepare.with_defaults(prepare.PrepareConfig(), **reader.settings)
    command = _command(
        source=(_positional("SOURCE"), "File, or directory as published.", ...),
        out=(_path("STORE"), "Store to write; one that is there is replaced once the new one is whole.", ...),
        reader=(tyro.conf.OmitArgPrefixes[reader.Options], "", reader.Options()),
        prepare=(tyro.conf.OmitArgPrefixes[prepare.PrepareConfig], "", defaults),
    )
    asked = configs.parse(
        command, args[1:], prog=f"jaxneg prepare {name}", help=f"Prepares a store from {reader.help}."
    )
    if not asked.source.exists():
        raise UserError(f"no such file or directory: {asked.source}")
    place = stores.StoreWriter(asked.out)
    with progress.Steps("prepare") as steps, engine.reading(asked.source), files.unfinished(place.path):
        # What memory cannot hold goes where the store is written, and away with its other scratch files.
        con = engine.connect(
            asked.prepare.memory_limit,
            temp_dir=place.scratch / "spill",
            engine=asked.prepare.engine,
        )
        metadata = prepare.prepare(
            reader.read(con, asked.source, asked.reader),
            asked.out,
            asked.prepare,
            con,
            reader=name,
            source=str(asked.source),
            progress=lambda stage, done, total: steps(done, total, stage=stage),
        )
    counts = metadata.counts
    for name, count in metadata.dropped.items():
        if name.startswith("left out: ") and count:
            progress.say(f"jaxneg: {count:,} row{'s' * (count > 1)} {name}")
    liked = opinions.also_liked(stores.Store.open(asked.out))
    if math.isfinite(liked):
        progress.say(
            f"{asked.out}: {liked:.1%} of the rejections in training are of songs that their listener likes too; "
            "--data.hard-opinion says what counts of them"
        )
    progress.say(
        f"{asked.out}: {counts['events']:,} events of {counts['users']:,} users on {counts['items']:,} items "
        f"in {counts['sessions']:,} sessions; jaxneg inspect {asked.out} tells more"
    )


def _inspect(args: list[str]) -> None:
    from jaxneg.data import describe, stores

    command = _command(
        store=(_positional("STORE"), "Store that jaxneg prepare wrote.", ...),
        json=(Flag, "Print one JSON object instead of tables.", False),
        verify=(Flag, "Read all of it first, and compare the checksums and numbers of every file.", False),
    )
    asked = configs.parse(command, args, prog="jaxneg inspect", help="Shows what is in a store.")
    store = stores.Store.open(asked.store)
    if asked.verify:
        with progress.Steps("inspect") as steps:
            files = store.verify(
                lambda done, total, file: steps(done >> 20, total >> 20, stage=f"MB of {file}")
            )
        progress.say(f"{asked.store}: all {files} files are as they were written")
    described = describe.describe(store)
    if asked.json:
        print(json.dumps(described))
    else:
        describe.render(described)


def _simulate(args: list[str]) -> None:
    if any(arg.partition("=")[0] == "--ab" for arg in args):
        return _ab(args)
    from jaxneg.simulation import simulator

    command = _command(
        out=(
            _path("FILE"),
            "Log to write, .parquet or .csv; FILE.truth.npz beside it holds what the listeners like.",
            ...,
        ),
        simulation=(tyro.conf.OmitArgPrefixes[simulator.SimulateConfig], "", simulator.SimulateConfig()),
    )
    asked = configs.parse(
        command,
        args,
        prog="jaxneg simulate",
        help="Writes a log of simulated listeners, for jaxneg prepare table. "
        "Or tests exported models on them: jaxneg simulate --ab --help.",
    )
    done = 0
    with progress.Steps("simulate") as steps:

        def advance(sessions: int) -> None:
            nonlocal done
            done += sessions
            steps(done, asked.simulation.sessions)

        simulator.write(simulator.simulate(asked.simulation), asked.out, advance)
    progress.say(f"{asked.out}: next, jaxneg prepare table {asked.out} --out STORE")


def _ab(args: list[str]) -> None:
    from jaxneg.simulation import ab_test

    command = _command(
        ab=(
            _some("EXPORT", paths=True),
            "Directories that jaxneg export wrote, of models trained on the log's store.",
            ...,
        ),
        truth=(_path("FILE.truth.npz"), "What jaxneg simulate left beside its log.", ...),
        store=(_path("STORE"), "Store of that log; the control is fitted to its training events.", ...),
        out=(_path("DIR"), "Directory to write ab.md and ab.json to; must not exist yet.", ...),
        config=(tyro.conf.OmitArgPrefixes[ab_test.ABConfig], "", ab_test.ABConfig()),
    )
    asked = configs.parse(
        command,
        ["--help"] if {"-h", "--help"} & set(args) else args,
        prog="jaxneg simulate",
        help="Tests models as online: each chooses songs for the simulated listeners in the week after their log, "
        "beside a control without negative feedback, random choice and an oracle.",
    )
    with progress.Steps("simulate --ab") as steps:
        exports = [pathlib.Path(export) for export in asked.ab]
        ab_test.ab(exports, asked.truth, asked.store, asked.out, asked.config, steps)
    progress.show_markdown((asked.out / "ab.md").read_text(encoding="utf-8"))
    progress.say(f"{asked.out / 'ab.md'}: this report, and ab.json beside it")


def _plan(args: list[str]) -> None:
    asked, config = _with_config(
        args, configs.load, "jaxneg plan",
        "Compiles the training step for a TPU slice that is not here and says whether it fits, what it sends and how "
        "long it should take: estimates, nothing runs. Every field of CONFIG is an option.",
        config=(_positional("CONFIG"), "Python file with get_config() -> Config.", ...),
        topology=(
            tyro.conf.UseAppendAction[Annotated[tuple[str, ...], configs.option("NAME", "one is needed")]],
            "Slice, as v5e:16x16; give it again for more.",
            (),
        ),
        per_chip=(fields.Natural, "Sequences a step on each chip; 0 takes --data.batch-size for the whole slice.", 0),
        items=(
            fields.Natural,
            "Songs of the catalogue; 0 takes songs, stations, attributes and sequences of --data.store.",
            0,
        ),
        stations=(fields.Natural, "Stations, with --items.", 1),
        attributes=(
            Annotated[tuple[fields.Positive, ...], configs.option("SIZE [SIZE ...]", "none")],
            "Values of each attribute of a track, with --items.",
            (),
        ),
        sequences=(fields.Natural, "Training sequences of an epoch; 0 takes those of the store.", 0),
        tries=(fields.Natural, "Other settings to compile, at most, where it does not fit.", 4),
        json=(Flag, "Print one JSON object.", False),
    )  # fmt: skip
    if not asked.topology:
        raise UserError("give a slice to plan for, as --topology v5e:16x16")
    from jaxneg.plan import estimate, tpu
    from jaxneg.training import program

    where = [tpu.tpu(name) for name in asked.topology]
    if asked.items:
        catalogue = program.Catalogue(asked.items, asked.stations, asked.attributes)
        epoch = estimate.Epoch(asked.sequences)
    else:
        catalogue, epoch = estimate.of_store(config)
        epoch = epoch._replace(sequences=asked.sequences or epoch.sequences)
    plans = [
        estimate.plan(
            estimate.per_chip(config, each, asked.per_chip), catalogue, each,
            epoch=epoch, tries=asked.tries, say=progress.say,
        )
        for each in where
    ]  # fmt: skip
    if asked.json:
        print(json.dumps({"plans": plans}))
    else:
        estimate.render(plans)


def _train(args: list[str]) -> None:
    asked, config = _with_config(
        args, configs.load, "jaxneg train",
        "Trains a model on a store, or continues a run. "
        "Every field of CONFIG is an option; its values are the defaults.",
        config=(_positional("CONFIG"), "Python file with get_config() -> Config.", ...),
        workdir=(_path("RUN"), "Run directory: made if new, continued exactly if not.", ...),
        cluster=(
            Literal["auto", "off"],
            "Whether to join the processes of a cluster that JAX knows (SLURM, Open MPI, TPU, Kubernetes), "
            "or that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name.",
            "auto",
        ),
        coordinator=(
            Annotated[str, configs.option("HOST:PORT", "none")], "Process 0 of many, where none is found.", ""
        ),
        processes=(Annotated[int, fields.Bounds(0, 1 << 20)], "How many processes there are.", 0),
        process=(Annotated[int, fields.Bounds(-1, 1 << 20)], "Which of them this is, from 0.", -1),
    )  # fmt: skip
    from jaxneg import figures
    from jaxneg.data import pipeline, stores
    from jaxneg.training import convergence, loop, processes, runs

    processes.start(asked.coordinator, asked.processes, asked.process, detect=asked.cluster == "auto")
    # What orbax raises it logs as well, traceback and all; its event loop and Python tell of what was then left undone.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if (warning := runs.warn_slow_gpu()) and processes.first():
        progress.say(f"jaxneg: {warning}")
    if processes.first():
        # Of a store that is not there training says it, once for all processes.
        with contextlib.suppress(UserError):
            store = stores.Store.open(config.data.store)
            if warning := pipeline.warn_beyond_memory(store, config.data):
                progress.say(f"jaxneg: {warning}")
    try:
        before = None
        with contextlib.suppress(UserError):  # training says it
            before = runs.ended(asked.workdir)
        with progress.Steps("train") as steps, processes.Terminate() as stop:
            result = loop.train(config, asked.workdir, steps if processes.first() else lambda *_: None, stop)
    except processes.Stopped as stopped:
        if processes.first():
            progress.say(f"{asked.workdir}: {stopped} and saved; the same command continues")
        _leave(stopped.code)
    if not processes.first():
        return
    if liked := result.get("hard_also_liked"):  # older results lack it
        progress.say(
            f"{asked.workdir}: {liked:.1%} of the hard negatives are songs that their listener likes elsewhere in "
            "training; --data.hard-opinion says what counts of them"
        )
    if before is not None and before["steps"] == result["steps"]:
        progress.say(
            f"{asked.workdir} was finished before: nothing was trained; more --train.epochs continue it"
        )
    ended, best = (result[step] / result["steps_per_epoch"] for step in ("steps", "best_step"))
    of = figures.validated(result)
    progress.say(
        f"{asked.workdir}: {result['stopped']} after {ended:.4g} epochs; "
        f"validation {figures.title(result['monitor'])} {result['best_score']:.4f} at epoch {best:.4g}, "
        f"{result['last_score']:.4f} at the last ({of}); {convergence.spoken(result)}; "
        f"next, jaxneg evaluate {asked.workdir}"
    )


def _evaluate(args: list[str]) -> None:
    asked, config = _of_run(
        args, "jaxneg evaluate",
        "Measures a run's best checkpoint, and the baselines, on held-out events; "
        "writes report.md, report.json and plots.",
        split=(Literal["test", "validation"], "Which held-out events; tune on validation.", "test"),
        compare=(
            _some("OTHER", "none", paths=True), "Further runs on the store, each measured as it would be alone.", ()
        ),
        baselines=(
            Literal["usual", "all"], "The usual ones, or also WRMF and BPR with their forms, in minutes.", "usual"
        ),
        json=(Flag, "Print one JSON object.", False),
    )  # fmt: skip
    from jaxneg.evaluation import report
    from jaxneg.training import runs

    with progress.Steps("evaluate") as steps:
        trained, others = (
            runs.load(asked.run, config, shared=True),
            [pathlib.Path(other) for other in asked.compare],
        )
        found = report.evaluate_run(
            trained, asked.run, asked.split, steps, compare=others, which=asked.baselines
        )
    if asked.json:
        print(json.dumps(found))
    else:
        progress.show_markdown((asked.run / "report.md").read_text(encoding="utf-8"))
        progress.say(
            f"{asked.run / 'report.md'}: this report, with plots beside it; "
            f"next, jaxneg export {asked.run} --out DIR"
        )


def _sweep(args: list[str]) -> None:
    asked, config = _with_config(
        args, configs.load, "jaxneg sweep",
        "Trains and measures a grid of options, each with several seeds, and writes one table with plots; "
        "or continues it. The grid is that of get_sweep() in CONFIG and of --set; other options hold for all cells.",
        config=(_positional("CONFIG"), "Python file with get_config() -> Config, and get_sweep() -> Sweep.", ...),
        workdir=(_path("SWEEP"), "Directory of the sweep: made if new, continued if not.", ...),
        jobs=(Annotated[int, fields.Bounds(0, 4096)], "Cells at the same time; 0 takes one per core, or per GPU.", 0),
        seeds=(fields.Natural, "Seeds of each cell; 0 takes those of get_sweep(), else 3.", 0),
        set=(
            tyro.conf.UseAppendAction[Annotated[tuple[str, ...], configs.option("NAME=V1,V2,...", "none")]],
            "An axis of the grid, as data.p-hard=0,0.4; give it again for more axes.",
            (),
        ),
        split=(Literal["test", "validation"], "Which held-out events; tune on validation.", "test"),
        baselines=(Flag, "Measure the baselines on the same events.", False),
    )  # fmt: skip
    from jaxneg.sweep import grids, runner

    spec = grids.with_axes(grids.load(asked.config), asked.set)
    spec = dataclasses.replace(spec, seeds=asked.seeds or spec.seeds)
    grids.refuse_swept(configs.load(asked.config), config, spec)
    with progress.Steps("sweep") as steps:
        table = runner.sweep(
            config, spec, asked.workdir, jobs=asked.jobs, split=asked.split, baselines=asked.baselines,
            on_progress=steps, say=progress.say,
        )  # fmt: skip
    count = sum(cell["n"] for cell in table["cells"])
    progress.say(
        f"{asked.workdir / 'table.md'}: {count} runs in {len(table['cells'])} rows, with plots beside it"
    )
    if failed := runner.failures(table):
        raise UserError(
            f"{len(failed)} failed ({'; '.join(failed)}): the same command tries them again, and no others"
        )


def _export(args: list[str]) -> None:
    asked, config = _of_run(
        args, "jaxneg export",
        "Writes a run's best checkpoint for serving: StableHLO for CPU, CUDA and TPU, safetensors, "
        "item matrix, vocabulary.",
        out=(_path("DIR"), "Directory to write; must not exist yet.", ...),
    )  # fmt: skip
    from jaxneg.serve import export
    from jaxneg.training import runs

    manifest = export.export(runs.load(asked.run, config), asked.out)
    progress.say(
        f"{asked.out}: {manifest['items']:,} items; next, jaxneg recommend {asked.out} --items ID ID"
    )


def _of_run(args: list[str], prog: str, help: str, **fields: tuple[Any, str, Any]) -> tuple[Any, Config]:
    """The parsed command of a verb over a run, and the run's config with the command's options."""

    def read(path: pathlib.Path) -> Config:
        from jaxneg.training import runs

        return runs.read_config(path)

    help += " Options not given are as in training; --data.store names a store that has moved."
    return _with_config(
        args, read, prog, help, run=(_positional("RUN"), "Run directory of jaxneg train.", ...), **fields
    )


def _with_config(
    args: list[str],
    read: Callable[[pathlib.Path], Config],
    prog: str,
    help: str,
    **fields: tuple[Any, str, Any],
) -> tuple[Any, Config]:
    """The parsed command of a verb whose first field is the path of a config; the config with its options.

    The path may stand before or after the options; where it stands first, --help shows its values.
    """
    command = _command(Config, **fields)

    def parse(base: Config) -> Any:
        return configs.parse(command, args, default=command(**_fields(base)), prog=prog, help=help)

    if args and not args[0].startswith("-"):
        asked = parse(read(files.local(args[0], next(iter(fields)).upper())))
    else:
        asked = parse(read(getattr(parse(Config()), next(iter(fields)))))
    return asked, configs.check(Config(**_fields(asked)))


def _recommend(args: list[str]) -> None:
    command = _command(
        export=(_positional("DIR"), "Directory that jaxneg export wrote.", ...),
        items=(_some("ID"), "Item ids of the history, oldest first.", ...),
        feedback=(
            _some("KIND", "play for each"),
            "Feedback to each: thumb_up, play, skip, thumb_down or unknown.",
            (),
        ),
        station=(Annotated[str, tyro.conf.arg(metavar="ID")], "Station that is playing.", ""),
        k=(fields.Positive, "How many to recommend.", 10),
        exclude_seen=(Flag, "Leave out items of the history.", False),
        json=(Flag, "Print one JSON object.", False),
    )
    asked = configs.parse(
        command, args, prog="jaxneg recommend", help="Recommends next items for a history, from an export."
    )
    if asked.feedback and len(asked.feedback) != len(asked.items):
        raise UserError(
            f"--feedback has {len(asked.feedback)} values for {len(asked.items)} --items: give one for each"
        )
    from jaxneg.serve import scorer

    model = scorer.Scorer.open(asked.export)
    feedback = asked.feedback or ("play",) * len(asked.items)
    history = [scorer.Event(i, f, asked.station or None) for i, f in zip(asked.items, feedback, strict=True)]
    best = model.recommend(history, asked.k, exclude_seen=asked.exclude_seen)
    if unknown := [item for item in asked.items if not model.knows(item)]:
        progress.say(f"jaxneg: left out of the history, not in the catalogue: {', '.join(unknown)}")
    if asked.station and not model.knows_station(asked.station):
        progress.say(f"jaxneg: station {asked.station} was not there in training: ranking without a station")
    if asked.json:
        print(json.dumps({"recommendations": [found._asdict() for found in best], "unknown": unknown}))
    else:
        for rank, found in enumerate(best, start=1):
            print(f"{rank:4}  {found.score:8.3f}  {found.item}")


def _demo(args: list[str]) -> None:
    command = _command(out=(_path("DIR"), "Directory for everything the demo makes.", pathlib.Path("demo")))
    asked = configs.parse(
        command, args, prog="jaxneg demo",
        help="Simulates listeners, prepares, trains with hard and random negatives, evaluates and exports.",
    )  # fmt: skip
    from jaxneg.cli import demo

    demo.demo(asked.out)


Flag = tyro.conf.FlagCreatePairsOff[bool]


def _positional(metavar: str) -> Any:
    return tyro.conf.Positional[_path(metavar)]


def _path(metavar: str) -> Any:
    return Annotated[pathlib.Path, tyro.conf.arg(metavar=metavar)]


def _some(metavar: str, otherwise: str | None = None, paths: bool = False) -> Any:
    """Any number of words, or of paths; ``otherwise`` is what --help says of none."""
    several = f"{metavar} [{metavar} ...]"
    how = tyro.conf.arg(metavar=several) if otherwise is None else configs.option(several, otherwise)
    return Annotated[tuple[fields.Where if paths else str, ...], how]


def _command(base: type = object, /, **fields: tuple[Any, str, Any]) -> Any:
    """A dataclass of options: name -> (type, help, default), where default ... is required."""
    return dataclasses.make_dataclass(
        "Command",
        [
            (
                name,
                Annotated[kind, tyro.conf.arg(help=help)] if help else kind,
                dataclasses.field(default=tyro.MISSING if default is ... else default),
            )
            for name, (kind, help, default) in fields.items()
        ],
        bases=() if base is object else (base,),
        frozen=True,
        kw_only=True,
    )


def _fields(config: Config) -> dict[str, Any]:
    return {part.name: getattr(config, part.name) for part in dataclasses.fields(Config)}


VERBS: dict[str, Callable[[list[str]], None]] = {
    "prepare": _prepare,
    "inspect": _inspect,
    "simulate": _simulate,
    "plan": _plan,
    "train": _train,
    "evaluate": _evaluate,
    "sweep": _sweep,
    "export": _export,
    "recommend": _recommend,
    "demo": _demo,
}
