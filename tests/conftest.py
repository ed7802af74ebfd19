"""Eight CPU devices, strict ranks, warnings as errors, and shapes and types checked on every call of the package."""

import dataclasses
import functools
import gc
import os
import pathlib
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny programs run for milliseconds and compile for seconds, half of them where nothing is optimised or fused.
LITTLE = (
    "backend_optimization_level=0",
    "cpu_use_fusion_emitters=false",
    "cpu_parallel_codegen_split_count=1",
)
COMPILER = " ".join(f"--xla_{flag}" for flag in LITTLE) if os.environ["JAX_PLATFORMS"] == "cpu" else ""
# Each once, although xdist's processes find what their parent has set: programs are kept by these, too.
_flags = [
    *os.environ.get("XLA_FLAGS", "").split(),
    *COMPILER.split(),
    "--xla_force_host_platform_device_count=8",
]
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys(_flags))
os.environ["JAXNEG_TESTS_COMPILER"] = COMPILER  # for processes that are to have one device
# Compiled programs are kept between runs and shared by the processes of one: most of the suite's time is XLA's.
_kept = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_kept))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Started in the background of a shell this ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import beartype  # noqa: E402
import beartype.claw  # noqa: E402
import jaxtyping  # noqa: E402

# jaxtyping holds the shapes of all arrays of a call against one another, which takes a tenth of the time of what calls
# many small functions: in zones that name no shapes types alone are checked. Not in api: its annotations name what is
# imported for the eyes of type checkers, which beartype cannot find.
PACKAGE = pathlib.Path(__file__).parents[1] / "jaxneg"
TYPES = ("baselines", "callbacks", "config", "data", "plan", "simulation", "sweep")
SHAPES = sorted({path.stem for path in PACKAGE.iterdir()} - {*TYPES, "__pycache__"})
_hook = jaxtyping.install_import_hook([f"jaxneg.{name}" for name in SHAPES], "beartype.beartype")
beartype.claw.beartype_packages(
    [f"jaxneg.{name}" for name in TYPES],
    conf=beartype.BeartypeConf(claw_is_pep526=False, is_pep484_tower=True),
)

import coverage  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Libraries hold millions of objects that stay: a tenth of the time went into looking through them again and again.
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    measured = coverage.Coverage.current() if "slow" in item.keywords else None
    if measured is None or os.environ.get("JAXNEG_COVER") == "all":
        return (yield)
    measured.stop()  # Python traces at half speed: see CONTRIBUTING.md
    try:
        return (yield)
    finally:
        measured.start()


# Of two processes that take a file at a time, neither is to begin a long one when the other is done.
LONGEST = (
    "training/test_loop",
    "data/test_corpus",
    "embeddings/test_tables",
    "sweep/test_sweep",
    "training/test_faults",
    "cli/test_stops",
    "cli/test_streams",
    "training/test_threads",
    "training/test_precision",
    "data/test_prepare",
    "training/test_dispatch",
    "serve/test_export",
    "cli/test_bad_input",
    "models/test_encoders",
    "training/test_steps",
    "training/test_likes",
    "evaluation/test_report",
    "evaluation/test_compare",
    "examples/test_examples",
    "training/test_fold_in",
    "training/test_log_q",
    "serve/test_choice",
    "models/test_attention",
    "benchmarks/test_benchmarks",
    "benchmarks/test_accelerators",
    "training/test_packed",
    "data/test_readers",
    "simulation/test_ab_test",
    "training/test_accumulate",
    "training/test_compiled",
    "cli/test_cli",
    "simulation/test_simulator",
    "examples/test_notebook",
    "training/test_processes",
)


def _turn(item):
    name = item.path.relative_to(pathlib.Path(__file__).parent).with_suffix("").as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(config, items):
    items.sort(key=_turn)
    data = os.environ.get("JAXNEG_DATA", "../shared/data")
    for item in items:
        if "realdata" in item.keywords and not os.path.isdir(data):
            item.add_marker(pytest.mark.skip(reason=f"no real data at {data}: set JAXNEG_DATA"))
        if "gpu" in item.keywords and jax.default_backend() != "gpu":
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session", autouse=True)
def programs_made_once():
    """Runs whose configs differ in what a step does not read share one program, traced and compiled once; so do models,
    and so do validations their scores.

    ``program.build.__wrapped__`` is the function itself.
    """
    from jaxneg import models
    from jaxneg.config import DataConfig, EvalConfig, TrainConfig, parts
    from jaxneg.training import program, validation

    build, made = program.build, {}
    prepare, scores = validation.Validation.__init__, {}
    build_model = models.build
    network = functools.lru_cache(lambda encoder, config, **sizes: build_model(config, **sizes))

    @functools.wraps(models.build)
    def model_once(config, **sizes):
        return network(parts.ENCODERS[config.encoder], config, **sizes)

    @functools.wraps(build)
    def once(config, catalogue, mesh, total=1, form=None):
        read = {
            "train": TrainConfig(seed=config.train.seed, shards=config.train.shards),
            "eval": EvalConfig(),
            "data": dataclasses.replace(config.data, store=DataConfig().store, seed=0),
        }
        steps = total if config.optim.decay == "cosine" else 1
        key = (dataclasses.replace(config, **read), catalogue, mesh, steps, form)
        if key not in made:
            made[key] = build(config, catalogue, mesh, total, form)
        return made[key]

    @functools.wraps(prepare)
    def prepared(self, config, store, built):
        prepare(self, config, store, built)
        key = (id(built), self._ranked, config.eval.exclude_seen)
        _, self._score = scores.setdefault(key, (built, self._score))  # with the program, which keeps its id

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation.Validation, "__init__", prepared)
        patch.setattr(program, "build", once)
        patch.setattr(models, "build", model_once)
        yield


@pytest.fixture
def forgotten():
    """What a test registers is forgotten after it."""
    from jaxneg.config import parts
    from jaxneg.data import readers

    kinds = (*parts.KINDS.values(), readers.READERS)
    before = [dict(known) for known in kinds]
    yield
    for known, was in zip(kinds, before, strict=True):
        known.clear()
        known.update(was)


@pytest.fixture(scope="session")
def small_store(tmp_path_factory):
    """A store of a few hundred simulated sessions, with artists and stations."""
    from jaxneg.data import engine, prepare, readers
    from jaxneg.data.prepare_config import PrepareConfig
    from jaxneg.simulation import simulator

    directory = tmp_path_factory.mktemp("small")
    config = simulator.SimulateConfig(users=60, items=80, sessions=300, stations=4, artists=10)
    simulator.write(simulator.simulate(config), directory / "log.parquet")
    reader, con = readers.READERS["table"], engine.connect()
    events = reader.read(con, directory / "log.parquet", reader.Options(attributes=("artist",)))
    settings = PrepareConfig(session="given", split="time")
    prepare.prepare(events, directory / "store", settings, con, reader="table", source="simulated")
    return directory / "store"


CONFIG = """
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig


def get_config():
    return Config(
        data=DataConfig(store="store", length=8, batch_size=32),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(epochs=2, devices=1),
        eval=EvalConfig(batch_size=64, bootstrap=50),
    )
"""


@pytest.fixture(scope="session")
def worked(tmp_path_factory):
    """A directory in which the verbs made log.csv, a store, a run of config.py and an export."""
    from jaxneg import cli

    path = tmp_path_factory.mktemp("worked")
    (path / "config.py").write_text(CONFIG)
    listeners = "--users 60 --items 80 --sessions 300 --stations 4 --artists 10"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        cli.main(f"simulate --out log.csv {listeners}".split())
        cli.main("prepare table log.csv --out store --attributes artist".split())
        cli.main("train config.py --workdir run --train.log-every 7".split())
        cli.main("export run --out export".split())
    return path
