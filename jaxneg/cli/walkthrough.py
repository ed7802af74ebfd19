"""The whole way on simulated listeners: log, store, training with hard and with random negatives, report, export."""

import dataclasses
import pathlib
import shlex
import time

from jaxneg import files, progress
from jaxneg.cli import endings
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig, rules
from jaxneg.data import engine, prepare, prepare_config, readers
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.errors import UserError
from jaxneg.evaluation import report
from jaxneg.files import documents, locks
from jaxneg.serve import export, scorer
from jaxneg.simulation import simulator
from jaxneg.training import loop, runs

MARK = "made-by-jaxneg-demo"
PAGE = {"hard": "export", "random": "export_random"}  # models that its page has side by side
CONFIG = Config(
    data=DataConfig(length=20, p_hard=0.5, negatives=4, batch_size=128),
    model=ModelConfig(width=64, layers=1, output_attributes=True),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=100, average=0.99),
    # The average of the weights is at its best after three epochs, where they themselves take six.
    train=TrainConfig(epochs=4, patience=0, monitor="auc", evaluate_every=127),
)


def demo(out: pathlib.Path) -> documents.Object:
    """Makes everything under a directory, replacing what an earlier demo made there; returns the report's figures."""
    out = files.local(out, "--out")
    if not files.vacant(out) and not (out / MARK).is_file():
        raise UserError(f"--out {out} exists and is not of an earlier demo: choose a new directory")
    with locks.held(locks.inside(out), f"--out {out}"):
        (out / MARK).touch()
        for path in out.iterdir():
            if path.name != MARK and not files.LOCK.fullmatch(path.name):
                files.remove(path)
        return _demo(out)


def _demo(out: pathlib.Path) -> documents.Object:
    began = time.perf_counter()

    log, store = out / "log.parquet", out / "store"
    progress.say("1/5 simulate: listeners with tastes, moods and habits; songs with qualities")
    simulator.write(simulator.simulate(simulator.PRESETS["demo"]), log)

    progress.say("2/5 prepare: sessions, vocabulary, and a split by time")
    reader = readers.READERS["table"]
    con = engine.connect(temp_dir=out / "spill")
    settings = prepare_config.with_defaults(PrepareConfig(session="given"), **reader.settings)
    events = reader.read(con, log, reader.Options(attributes=("artist",)))
    prepare.prepare(events, store, settings, con, reader="table", source=str(log))

    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, store=str(store)))
    random = dataclasses.replace(config, data=dataclasses.replace(config.data, p_hard=0.0))
    for name, each, text in (
        ("hard", config, "half of the negatives real"),
        ("random", random, "all negatives random"),
    ):
        progress.say(f"3/5 train {out / name}: {text}")
        with progress.Steps("train") as steps:
            loop.train(rules.check(each), out / name, steps)

    progress.say("4/5 evaluate: the model beside baselines, and beside its twin with random negatives")
    with progress.Steps("evaluate") as steps:
        trained = runs.load(out / "hard")
        found = report.evaluate_run(trained, out / "hard", report.Asked(compare=(out / "random",)), steps)

    progress.say("5/5 export: StableHLO, safetensors, item matrix, vocabulary")
    export.export(trained, out / "export")
    export.export(runs.load(out / "random"), out / "export_random")
    model = scorer.Scorer.open(out / "export")
    history = [scorer.Event(item, "play") for item in model.items(3)]
    best = ", ".join(one.item for one in model.recommend(history, 3))
    progress.say(f"after three plays ({', '.join(event.item for event in history)}) it recommends {best}")

    progress.say(f"\ndone in {time.perf_counter() - began:.0f} seconds")
    for title, path in (("report", "hard/report.html"), ("exported model", "export"), ("store", "store")):
        progress.say(f"  {title:15} {out / path}")
    progress.say(f"\n{endings.evaluated(out / 'hard', {**found, 'time_to_target': []})}")
    hard, random = (shlex.quote(f"{name}={out / path}") for name, path in PAGE.items())
    progress.say(f"a page to mark songs on, and see both models' lists change: jaxneg serve {hard} {random}")
    progress.say(endings.then("your own log: jaxneg prepare table LOG --help"))
    for one in found["time_to_target"]:
        progress.say(f"\n{one['spoken']}")
    return found
