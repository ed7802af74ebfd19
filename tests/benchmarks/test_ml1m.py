"""The protocol of the MovieLens-1M comparison, and, where a copy is given, its figures."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.config import DataConfig, EvalConfig
from jaxneg.data import engine, held_out, readers

ROOT = pathlib.Path(__file__).parents[2]
FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "ml1m"


@pytest.fixture(scope="module")
def ml1m():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("ml1m", ROOT / "benchmarks" / "ml1m.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made_up(ml1m, tmp_path_factory):
    """(lines of ratings.dat by user in order of time, store) of 100 users."""
    directory = tmp_path_factory.mktemp("ml1m")
    ml1m.make_up(directory, users=100, films=40, ratings=9)
    lines = [line.split("::") for line in (directory / "ratings.dat").read_text().split()]
    by_user = {}
    for user, film, _, time in lines:
        by_user.setdefault(user, []).append((int(time), film))
    films = {user: [film for _, film in sorted(rated)] for user, rated in by_user.items()}
    return films, ml1m.prepared(directory, directory / "store")


def test_the_published_format_is_read():
    reader = readers.READERS["movielens"]
    log = reader.read(engine.connect(), FIXTURE, reader.Options())
    rows = log.order_by("order").to_pyarrow().to_pylist()
    names = ("user", "item", "time", "feedback", "attribute_genre")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("1", "11", 978300760000, "thumb_up", "Animation"),
        ("1", "7", 978302109000, "thumb_down", "Drama"),
        ("1", "30", 978301968000, "unknown", "Sci-Fi"),
        ("2", "7", 978299026000, "thumb_up", "Drama"),
        ("2", "11", 978298413000, "thumb_down", "Animation"),
    ]


@pytest.mark.parametrize("name", ["sasrec", "gsasrec"])
def test_configs_are_those_of_the_authors(name):
    config = configs.check(configs.load(ROOT / "configs" / f"ml1m_{name}.py"))
    negatives, loss = {"sasrec": (1, "bce"), "gsasrec": (256, "gbce")}[name]
    assert (config.data.negatives, config.loss.name, config.data.p_hard) == (negatives, loss, 0.0)
    assert (config.model.width, config.model.layers, config.model.heads, config.data.length) == (
        128,
        2,
        1,
        200,
    )
    assert config.train.monitor == "ndcg@10"


def test_every_rating_is_a_positive_and_the_last_two_are_held_out(made_up):
    films, store = made_up
    assert set(np.asarray(store.sign)[store.feedback_T]) == {1}
    assert store.metadata.counts["positives"] == store.metadata.counts["events"] - 2 * 100
    names = store.vocabulary().names
    log = {tuple(rated) for rated in films.values()}
    for split, back in (("validation", 2), ("test", 1)):
        [batch] = held_out.EvalBatches(store, DataConfig(length=20), EvalConfig(batch_size=128), split)
        examples = set()
        for item_L, liked_C, real in zip(batch.item_BL, batch.liked_BC, batch.real_B, strict=True):
            if real:
                examples.add((*names(item_L[item_L > 0]), *names(liked_C)))
        assert examples == {rated[: len(rated) - back + 1] for rated in log}
        assert not batch.disliked_BC.any()


def test_all_that_was_rated_before_the_test_is_lowered_however_long_ago(ml1m, made_up):
    films, store = made_up
    [batch] = held_out.EvalBatches(store, DataConfig(length=2), EvalConfig(batch_size=128), "test")
    score = ml1m.among_new(lambda batch: np.ones((128, store.items + 1)), store)
    lowered = {
        frozenset(store.vocabulary().names(np.flatnonzero(score_V < 0)))
        for score_V, real in zip(score(batch), batch.real_B, strict=True)
        if real
    }
    assert lowered == {frozenset(rated[:-1]) for rated in films.values()}


def test_a_walk_never_returns(made_up):
    """What is new to the user holds the target, else the figures mean nothing."""
    films, _ = made_up
    assert all(len(set(rated)) == len(rated) for rated in films.values())


@pytest.mark.slow
@pytest.mark.skipif(
    "JAXNEG_ML1M" not in os.environ, reason="no copy of MovieLens-1M: name its directory in JAXNEG_ML1M"
)
def test_movielens_1m_reaches_the_figures_of_the_authors(tmp_path):
    env = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "benchmarks/ml1m.py", env["JAXNEG_ML1M"], "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["gsasrec"]["ndcg@10"] >= 0.17
    assert found["sasrec"]["ndcg@10"] >= 0.126
