"""A run that starts from another: what it takes over, row by row by raw id, against plain loops over both."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg import cli
from jaxneg.batch import FEEDBACK
from jaxneg.config import (
    Config,
    DataConfig,
    EvalConfig,
    LikeConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    UserError,
)
from jaxneg.data import engine, prepare, raw_ids, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.embeddings import carrying, layouts, moments, optim, sharding, tables
from jaxneg.evaluation import report
from jaxneg.training import loop, processes, program, records, runs, scoring, steps
from tests import verbs
from tests.training import test_loop
from tests.training.test_loop import assert_same_state, final_state, of, without_clock

pytestmark = pytest.mark.slow

CONFIG = Config(
    data=DataConfig(length=8, batch_size=32),
    model=ModelConfig(width=8, layers=1, output_attributes=True),
    like=LikeConfig(weight=1.0),
    optim=OptimConfig(learning_rate=0.01, warmup_steps=5, weight_decay=0.1),
    train=TrainConfig(epochs=2, patience=0, log_every=50, devices=2),
    eval=EvalConfig(batch_size=64),
)
LATE = ("one song of tomorrow", "another one", "one by nobody known")
FIGURES = ("pair_accuracy", "auc", "like_pair_accuracy", "like_auc")


@pytest.fixture(scope="module")
def tomorrow(small_store, tmp_path_factory):
    """The log of ``small_store`` without one song, with three new ones, and all others in another order."""
    log = pq.read_table(small_store.parent / "log.parquet")
    words = stores.Store.open(small_store).vocabulary()
    ids, artist = words.ids.to_pylist(), words.attributes["artist"].to_pylist()
    rows = [row for row in log.to_pylist() if row["item"] != ids[4]]
    songs = [*zip(LATE, (artist[0], artist[3], "an artist of tomorrow"), strict=True), (ids[-2], artist[-2])]
    for n in range(80):  # the rarest song is heard as often as any
        item, by = songs[n % 4]
        new = {"user": f"new {n // 20}", "session": f"new {n // 10}", "station": "a station of tomorrow"}
        new |= {"item": item, "artist": by, "feedback": ("play", "skip")[n % 3 == 2]}
        rows.append(rows[0] | new | {"time": rows[0]["time"] + n})
    directory = tmp_path_factory.mktemp("tomorrow")
    pq.write_table(pa.Table.from_pylist(rows, log.schema), directory / "log.parquet")
    reader, con = readers.READERS["table"], engine.connect()
    events = reader.read(con, directory / "log.parquet", reader.Options(attributes=("artist",)))
    settings = PrepareConfig(session="given", split="time")
    prepare.prepare(events, directory / "store", settings, con, reader="table", source="simulated")
    return directory / "store"


@pytest.fixture(scope="module")
def yesterday(small_store, tmp_path_factory):
    """A run whose store is gone."""
    directory = tmp_path_factory.mktemp("yesterday")
    shutil.copytree(small_store, directory / "store")
    loop.train(of(CONFIG, directory / "store"), directory / "run")
    shutil.rmtree(directory / "store")
    return directory / "run"


def started(run, store, directory, **parts):
    """A run on a store that starts from another, and its state before the first step, in the order of its items."""
    config = of(CONFIG, store, **{"train": {}} | parts)
    config = of(config, store, train={"warm_start": str(run), "epochs": 1})
    result = loop.train(config, directory)
    return result, runs.load(directory, step=0)


@pytest.fixture(scope="module")
def warm(yesterday, tomorrow, tmp_path_factory):
    return started(yesterday, tomorrow, tmp_path_factory.mktemp("warm") / "run")


def best(run, store):
    """A run's best checkpoint, by an oracle that is given its store again."""
    return runs.load(run, of(runs.read_config(run), store))


def rows_of(store):
    """Rows of the catalogue by raw id: of items, stations and artists."""
    names = {"items": "item", "stations": "id", "attribute_0": "value"}
    return {
        file: dict(zip(*map(pa.Array.to_pylist, _columns(store / f"{file}.parquet", name)), strict=True))
        for file, name in names.items()
    }


def _columns(path, name):
    table = pq.read_table(path)
    return table[name].combine_chunks(), table["row"].combine_chunks()


def scored(trained, store, histories):
    """Scores of all items by raw id for histories of (item, feedback, station), in both heads."""
    known = rows_of(store)
    L = trained.config.data.length
    item_BL, feedback_BL, station_BL = (np.zeros((len(histories), L), np.int32) for _ in range(3))
    for b, history in enumerate(histories):
        for at, (item, feedback, station) in enumerate(history):
            item_BL[b, at] = known["items"][item]
            feedback_BL[b, at] = FEEDBACK.index(feedback)
            station_BL[b, at] = known["stations"][station]
    weights = steps.evaluated(trained.state, jnp.asarray(trained.store.attribute_VA))
    seen = scoring.Seen(*map(jnp.asarray, (item_BL, feedback_BL, station_BL)))
    h_BD = jax.jit(functools.partial(scoring.last_hidden, trained.model))(weights, seen)
    found = {}
    for form in ("rank", "judge"):
        rows = functools.partial(scoring.catalogue_rows, trained.model, form=form)
        row_VD, bias_V = jax.jit(rows)(weights)
        score_BV = np.asarray(h_BD) @ np.asarray(row_VD).T + np.asarray(bias_V)
        found[form] = {item: score_BV[:, row] for item, row in known["items"].items()}
    return found


def histories_of(store, count=20):
    """Histories of songs that were there before, at stations that were there."""
    rng, known = np.random.default_rng(0), rows_of(store)
    items = [item for item in known["items"] if item not in LATE]
    stations = [one for one in known["stations"] if "tomorrow" not in one]
    kinds = [kind for kind in FEEDBACK if kind in ("play", "skip")]
    return [
        [(rng.choice(items), rng.choice(kinds), rng.choice(stations)) for _ in range(1 + n % 8)]
        for n in range(count)
    ]


def assert_same_scores(old, new):
    for form, by_item in new.items():
        both = [item for item in by_item if item in old[form]]
        assert len(both) > 70
        for item in both:  # float32 sums, perhaps in another order
            np.testing.assert_allclose(by_item[item], old[form][item], rtol=1e-5, atol=1e-5)


def test_a_store_of_another_order_with_new_songs_gives_known_ones_the_scores_that_they_had(
    yesterday, small_store, tomorrow, warm
):
    result, begun = warm
    before, after = rows_of(small_store), rows_of(tomorrow)
    moved = [item for item, row in after["items"].items() if before["items"].get(item) not in (None, row)]
    assert len(moved) > 20  # or the test would not show what it is for
    assert set(after["items"]) - set(before["items"]) == set(LATE)
    histories = histories_of(tomorrow)
    old = scored(best(yesterday, small_store), small_store, histories)
    assert_same_scores(old, scored(begun, tomorrow, histories))
    told = result["started_from"]
    assert told["items"] == len(after["items"]) and told["items_carried"] == len(after["items"]) - len(LATE)
    counts = dict(zip(*map(pa.Array.to_pylist, _counts(tomorrow)), strict=True))
    late = sum(counts[item] for item in LATE)
    assert told["events_carried"] == pytest.approx(1 - late / sum(counts.values()))
    assert told["step"] == runs.ended(yesterday)["best_step"] and told["run"] == str(yesterday)


def _counts(store):
    table = pq.read_table(store / "items.parquet")
    return table["item"].combine_chunks(), table["count"].combine_chunks()


def test_on_the_same_log_the_validation_before_the_first_step_is_the_best_one_of_before(
    yesterday, small_store, tmp_path
):
    old = runs.ended(yesterday)
    result, begun = started(yesterday, small_store, tmp_path / "run")
    [line] = [line for line in old["history"] if line["step"] == old["best_step"]]
    assert [result["history"][0][name] for name in FIGURES] == [line[name] for name in FIGURES]
    assert result["best_score"] >= old["best_score"]
    assert_same_state(begun.state.tables, best(yesterday, small_store).state.tables)
    assert result["started_from"]["items_carried"] == result["started_from"]["items"]
    assert records.started_from(tmp_path / "run") == result["started_from"]


def test_new_rows_are_the_mean_of_their_artist_or_as_large_as_the_others(
    yesterday, small_store, tomorrow, warm
):
    old, new = best(yesterday, small_store).state, warm[1].state
    before, after = rows_of(small_store), rows_of(tomorrow)
    words = stores.Store.open(tomorrow).vocabulary()
    artist = dict(zip(words.ids.to_pylist(), words.attributes["artist"].to_pylist(), strict=True))
    for name in ("item_VD", "like_VD", "bias_V"):
        was, now = (np.asarray(state.tables[name], np.float64) for state in (old, new))
        for item in LATE[:2]:
            same = [one for one in artist if artist[one] == artist[item] and one not in LATE]
            mean = np.mean([was[before["items"][one]] for one in same], axis=0)
            np.testing.assert_allclose(now[after["items"][item]], mean, rtol=1e-4, atol=1e-6)
        assert not now[0].any()
    kept = [after["items"][item] for item in after["items"] if item not in LATE]
    item_VD = np.asarray(new.tables["item_VD"])
    assert np.std(item_VD[after["items"][LATE[2]]]) == pytest.approx(np.std(item_VD[kept]), rel=0.8)
    for file, name, late in (
        ("stations", "inputs.station", "a station of tomorrow"),
        ("attribute_0", "inputs.attribute0", "an artist of tomorrow"),
    ):
        was, now = np.asarray(old.params[name]), np.asarray(new.params[name])
        for value, row in after[file].items():
            if value != late:
                np.testing.assert_array_equal(now[row], was[before[file][value]])
        assert now[after[file][late]].any() and not now[0].any()


def test_moments_land_on_the_rows_of_the_same_ids_and_new_rows_have_none(
    yesterday, small_store, tomorrow, warm
):
    old, new = best(yesterday, small_store).state, warm[1].state
    was, now = moments.named(old.opt_state), moments.named(new.opt_state)
    assert set(was) == set(now) and ("item_VD", "second") in now and ("like.row_D", "first") in now
    before, after = rows_of(small_store), rows_of(tomorrow)
    files = {"inputs.station": "stations", "inputs.attribute0": "attribute_0"}
    for (name, moment), value in now.items():
        value, source = np.asarray(value), np.asarray(was[name, moment])
        file = "items" if sharding.letters(name).startswith("V") else files.get(name)
        if file is None:
            np.testing.assert_array_equal(value, source)
            continue
        assert source.any() or name.startswith("like")
        for one, row in after[file].items():
            expected = source[before[file][one]] if one in before[file] else np.zeros_like(value[row])
            np.testing.assert_array_equal(value[row], expected)
    assert int(optim.updates(new.opt_state)) == int(old.step) > 0 == int(new.step)
    counts = [leaf for leaf in jax.tree.leaves(new.opt_state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert sorted({int(leaf) for leaf in counts}) == [0, int(old.step)]  # schedules begin anew


def test_weights_alone_come_where_moments_are_not_wanted(yesterday, tomorrow, warm, tmp_path):
    _, begun = started(yesterday, tomorrow, tmp_path / "run", train={"warm_optimizer": False})
    assert_same_state(begun.state.tables, warm[1].state.tables)
    assert_same_state(begun.state.params, warm[1].state.params)
    assert not any(np.asarray(value).any() for value in moments.named(begun.state.opt_state).values())
    assert int(optim.updates(begun.state.opt_state)) == 0


def test_a_run_that_was_started_goes_on_exactly_even_where_what_it_started_from_is_gone(
    yesterday, tomorrow, tmp_path
):
    shutil.copytree(yesterday, tmp_path / "old")
    config = of(CONFIG, tomorrow, train={"warm_start": str(tmp_path / "old"), "checkpoint_every": 3})
    whole = loop.train(config, tmp_path / "whole")
    with pytest.raises(processes.Stopped):
        loop.train(config, tmp_path / "parts", stop=lambda step: step >= 4)
    shutil.rmtree(tmp_path / "old")
    parts = loop.train(config, tmp_path / "parts")
    (state, progress), (other, others) = (final_state(config, tmp_path / name) for name in ("whole", "parts"))
    assert_same_state(state, other)
    assert without_clock(progress["history"]) == without_clock(others["history"])
    assert whole["started_from"] == parts["started_from"]
    for changed, said in (
        ({"warm_start": ""}, "parts was started from .*old: give --from .*old, or choose a new --workdir"),
        ({"warm_start": str(yesterday)}, "parts was started from .*old, not from .*: give --from"),
        ({"warm_optimizer": False}, "holds another experiment .train.warm_optimizer: True -> False"),
    ):
        with pytest.raises(UserError, match=said):
            loop.train(of(config, tomorrow, train=changed), tmp_path / "parts")
    cold = of(CONFIG, tomorrow, train={"epochs": 1})
    loop.train(cold, tmp_path / "cold")
    with pytest.raises(UserError, match="cold holds a run that began anew: leave out --from"):
        loop.train(of(cold, tomorrow, train={"warm_start": str(yesterday)}), tmp_path / "cold")


SHARDED = {"optim": {"rows": "lazy_adam", "weight_decay": 0.0}}


@pytest.mark.system  # the rows of one table are below
def test_tables_that_devices_share_take_over_whole_ones_and_give_them_back(
    yesterday, small_store, tomorrow, warm, tmp_path
):
    """Whole on two devices, then four parts on eight, two on two of another store, and whole again."""
    histories = histories_of(tomorrow)
    old = scored(best(yesterday, small_store), small_store, histories)
    parts = {"devices": 8, "shards": 4}
    _, begun = started(yesterday, tomorrow, tmp_path / "parts", train=parts, **SHARDED)
    assert_same_scores(old, scored(begun, tomorrow, histories))
    at = np.arange(begun.store.items + 1) != rows_of(tomorrow)["items"][LATE[2]]  # whose rows are drawn
    for name, table in begun.state.tables.items():  # means of an artist are sums in another order
        np.testing.assert_allclose(table[at], warm[1].state.tables[name][at], rtol=1e-5, atol=1e-7)
    # Moments too, by place.
    by_place = moments.named(begun.state.opt_state)
    for (name, moment), value in moments.named(warm[1].state.opt_state).items():
        found = np.asarray(by_place[name, moment])
        if sharding.letters(name).startswith("V"):
            found = tables.gathered({"one": found}, warm[1].store.items)["one"]
        np.testing.assert_array_equal(found, value)
    two = of(runs.read_config(tmp_path / "parts"), small_store, train={"devices": 2, "shards": 2})
    _, back = _again(two, tmp_path / "parts", tmp_path / "two")
    ended = runs.load(tmp_path / "parts")
    assert_same_scores(
        scored(ended, tomorrow, histories), scored(back, small_store, _without_late(histories))
    )
    _, whole = started(tmp_path / "parts", tomorrow, tmp_path / "whole")
    assert_same_state(whole.state.tables, ended.state.tables)


def _again(config, run, directory):
    result = loop.train(of(config, config.data.store, train={"warm_start": str(run)}), directory)
    return result, runs.load(directory, step=0)


def _without_late(histories):
    assert not any(item in LATE for history in histories for item, *_ in history)
    return histories


def test_rows_of_a_table_in_parts_move_as_numpy_moves_them():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (2, 4), (1, 8)):
        mesh = sharding.mesh_of(jax.devices()[: shape[0] * shape[1]], shape[1])
        old, new = layouts.Sharded(mesh, 5000), layouts.Sharded(mesh, 7000)
        by_item = rng.normal(size=(5001, 3)).astype(np.float32)
        item_V = np.where(rng.random(7001) < 0.5, rng.integers(1, 5001, 7001), 0).astype(np.int32)
        item_V[0] = 0
        known = carrying.rows(old, new, item_V, np.zeros((7001, 1), np.int32))
        table = sharding.put(old.by_row(by_item), mesh, "VD")
        found = jax.jit(functools.partial(carrying.moved, old))(table, known)
        expected = np.where(item_V[:, None] > 0, by_item[item_V], 0)
        np.testing.assert_array_equal(tables.gathered({"one": np.asarray(found)}, 7000)["one"], expected)


@pytest.mark.system
def test_an_average_goes_on_as_if_there_had_been_no_end(small_store, tmp_path):
    config = of(CONFIG, small_store, optim={"average": 0.9}, train={"epochs": 1, "monitor": "auc"})
    loop.train(config, tmp_path / "old")
    result, begun = _again(config, tmp_path / "old", tmp_path / "new")
    old = runs.load(tmp_path / "old")
    assert_same_state(begun.state.average, old.state.average)
    assert_same_state((begun.state.params, begun.state.tables), (old.state.params, old.state.tables))
    # Without an average of its own, a run begins with the weights that were measured.
    plain, weights = _again(
        of(CONFIG, small_store, train={"epochs": 1}), tmp_path / "old", tmp_path / "plain"
    )
    assert_same_state((weights.state.params, weights.state.tables), old.state.average)
    assert plain["history"][0]["auc"] == result["history"][0]["auc"]
    store = stores.Store.open(small_store)
    built = program.build(config, program.catalogue_of(store), sharding.make_mesh(1))
    attribute_VA = jnp.asarray(store.attribute_VA)
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), built.batch)
    state = jax.tree.map(jnp.asarray, begun.state)
    after, _ = built.update(jax.tree.map(jnp.copy, state), batch, attribute_VA)
    updates = int(optim.updates(state.opt_state))
    decay = min(0.9, (2 + updates) / (11 + updates))
    assert updates > 5
    for name, table in after.average[1].items():
        expected = decay * np.asarray(state.average[1][name]) + (1 - decay) * np.asarray(after.tables[name])
        np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.system  # it compiles for long
def test_listeners_are_folded_into_factorisations_of_the_new_log(small_store, tmp_path):
    # As in test_fold_in, whose program it so shares.
    folded = {"weight": 1.0, "rows": "folded"}
    config = of(test_loop.CONFIG, small_store, like=folded, data={"packed": "always"}, train={"epochs": 1})
    first = loop.train(config, tmp_path / "old")
    result, begun = _again(config, tmp_path / "old", tmp_path / "new")
    [line] = [line for line in first["history"] if line["step"] == first["best_step"]]
    assert [result["history"][0][name] for name in ("pair_accuracy", "auc")] == [
        line[name] for name in ("pair_accuracy", "auc")
    ]
    fresh = runs.load(tmp_path / "old", step=0).state
    old = runs.load(tmp_path / "old").state
    for name in ("like.scale", "like.offset", "fold.center"):
        np.testing.assert_array_equal(begun.state.params[name], fresh.params[name])
    np.testing.assert_array_equal(begun.state.tables["fold_VG"], fresh.tables["fold_VG"])
    np.testing.assert_array_equal(begun.state.tables["like_VD"], old.tables["like_VD"])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": {"width": 16}}, "has another model .model.width: 8 -> 16.: give the same"),
        (
            {"model": {"encoder": "gru4rec", "layers": 2}},
            "model.encoder: sasrec -> gru4rec; model.layers: 1 -> 2",
        ),
        ({"data": {"length": 9}}, "data.length: 8 -> 9"),
        ({"like": {"weight": 0.0}}, "like.weight: 1.0 -> 0.0"),
        ({"model": {"item_bias": "none"}}, "model.item_bias: zero -> none"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(next(iter(value.values())))),
)
def test_a_model_that_is_another_one_is_refused_before_anything_is_made(
    yesterday, tomorrow, tmp_path, parts, said
):
    config = of(CONFIG, tomorrow, **parts)
    with pytest.raises(UserError, match=said) as error:
        loop.train(of(config, tomorrow, train={"warm_start": str(yesterday)}), tmp_path / "run")
    assert str(error.value).count("\n") == 0 and not (tmp_path / "run").exists()


def test_what_may_differ_may_differ(yesterday, tomorrow, tmp_path):
    result, _ = started(
        yesterday,
        tomorrow,
        tmp_path / "run",
        data={"batch_size": 16, "p_hard": 0.0},
        model={"dropout": 0.0, "feed_forward": 8, "item_bias": "odds"},
        loss={"name": "softmax"},
        like={"weight": 0.5},
        optim={"learning_rate": 1e-3, "clip": 0.0, "decay": "cosine"},
    )
    assert result["started_from"]["items_carried"] == result["started_from"]["items"] - len(LATE)


def test_a_log_without_attributes_or_with_other_ids_is_refused(yesterday, small_store, tomorrow, tmp_path):
    log = pq.read_table(tomorrow.parent / "log.parquet")
    reader, con = readers.READERS["table"], engine.connect()
    settings = PrepareConfig(session="given", split="time")
    options = reader.Options()
    events = reader.read(con, tomorrow.parent / "log.parquet", options)
    prepare.prepare(events, tmp_path / "bare", settings, con, reader="table", source="simulated")
    with pytest.raises(UserError, match=r"another model \(attributes of the log: artist -> none\)"):
        loop.train(of(CONFIG, tmp_path / "bare", train={"warm_start": str(yesterday)}), tmp_path / "run")
    other = log.set_column(log.schema.get_field_index("item"), "item", pa.array(f"x{n}" for n in _codes(log)))
    pq.write_table(other, tmp_path / "log.parquet")
    options = reader.Options(attributes=("artist",))
    events = reader.read(con, tmp_path / "log.parquet", options)
    prepare.prepare(events, tmp_path / "other", settings, con, reader="table", source="simulated")
    with pytest.raises(
        UserError, match="no item of .*other was in the catalogue of .* prepare the log with ids"
    ):
        loop.train(of(CONFIG, tmp_path / "other", train={"warm_start": str(yesterday)}), tmp_path / "run")


def _codes(log):
    return log["item"].combine_chunks().dictionary_encode().indices.to_pylist()


def test_a_run_of_before_has_its_ids_from_its_store_or_an_export(yesterday, small_store, tomorrow, tmp_path):
    config = of(CONFIG, tomorrow, train={"warm_start": str(tmp_path / "old"), "epochs": 1})
    shutil.copytree(yesterday, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "raw_ids")
    with pytest.raises(
        UserError, match="it keeps no raw ids, and its store .* is gone, or another: copy items.p"
    ):
        loop.train(config, tmp_path / "run")
    (tmp_path / "old" / "raw_ids").mkdir()
    for name in (raw_ids.ITEMS, raw_ids.STATIONS):  # what an export has
        shutil.copy(small_store / name, tmp_path / "old" / "raw_ids" / name)
    told = loop.train(config, tmp_path / "run")["started_from"]
    assert told["items_carried"] == told["items"] - len(LATE)
    found, stored = raw_ids.read(tmp_path / "old" / "raw_ids"), raw_ids.read(small_store)
    assert found.attributes["artist"].first(99) == stored.attributes["artist"].first(99)
    (tmp_path / "old" / "raw_ids" / raw_ids.STATIONS).write_bytes(b"none")
    with pytest.raises(UserError, match="does not hold the raw ids of a store: stations.parquet"):
        loop.train(config, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_run_that_is_none_or_has_not_ended_is_refused(yesterday, tomorrow, tmp_path):
    for path, said in (
        (tmp_path / "nowhere", "--from .*nowhere: no such directory"),
        (tomorrow, "is no run directory"),
        (tmp_path / "run", "--from .*run is the --workdir itself"),
    ):
        with pytest.raises(UserError, match=said):
            loop.train(of(CONFIG, tomorrow, train={"warm_start": str(path)}), tmp_path / "run")
    shutil.copytree(yesterday, tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    with pytest.raises(UserError, match="run .*half has not ended"):
        loop.train(of(CONFIG, tomorrow, train={"warm_start": str(tmp_path / "half")}), tmp_path / "run")


def test_the_command_and_the_list_of_runs_say_what_it_started_from(worked, tmp_path, monkeypatch, capfd):
    here = verbs.copy(worked, tmp_path / "here")
    monkeypatch.chdir(here)
    code, said = verbs.inside("train config.py --from run --workdir later --train.epochs 1", capfd)
    assert code == 0 and "train start       from run at step " in said and "started from run at step" in said
    cli.main(["runs", "."])
    assert "train.warm_start" in capfd.readouterr().out
    [note] = report._notes(
        here / "later", runs.load(here / "later")
    )  # without the baselines of a whole report
    assert note.startswith("The run started from run at step ")
    code, said = verbs.inside("train config.py --from run --workdir wide --model.width 16", capfd)
    assert code == 2 and "model.width: 8 -> 16" in said and not (here / "wide").exists()
