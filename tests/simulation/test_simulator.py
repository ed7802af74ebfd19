import dataclasses
import math
import time

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from jaxneg.config import UserError
from jaxneg.simulation import listeners, simulator
from tests.marks import rest_slow

THUMB_DOWN, SKIP, PLAY, THUMB_UP = 2, 3, 4, 5
CONFIG = simulator.SimulateConfig(users=2500, sessions=17_000, seed=11)
INDEPENDENT = dataclasses.replace(CONFIG, listening="independent", habit=1.6)


def events_of(simulation):
    blocks = [simulation.block(index) for index in range(simulation.blocks)]
    return simulator.Block(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


@pytest.fixture(scope="module")
def simulation():
    return simulator.simulate(CONFIG)


@pytest.fixture(scope="module")
def events(simulation):
    return events_of(simulation)


@pytest.fixture(scope="module")
def independent():
    return simulator.simulate(INDEPENDENT)


@pytest.fixture(scope="module")
def independent_events(independent):
    return events_of(independent)


def positive_of(events):
    return events.feedback >= PLAY


# Calibration. The figures are MSSD's; the tolerances are several standard errors at this size.


@pytest.mark.slow
def test_session_lengths_are_those_of_mssd(events):
    lengths = np.bincount(events.session)
    assert lengths.size == CONFIG.sessions
    assert lengths.min() == 10 and lengths.max() == 20
    assert lengths.mean() == pytest.approx(16.788, abs=0.1)
    assert (lengths == 20).mean() > 0.5


def test_skip_levels_are_those_of_mssd(events):
    assert (~positive_of(events)).mean() == pytest.approx(0.5172, abs=0.02)
    assert (events.played < 0.1).mean() == pytest.approx(0.4215, abs=0.02)
    assert (events.played == 1).mean() == pytest.approx(1 - 0.6484, abs=0.02)


def test_played_agrees_with_feedback(events):
    positive = positive_of(events)
    assert events.played.min() >= 0 and events.played.max() <= 1
    assert (events.played[positive] >= 0.5).all() and (events.played[~positive] <= 0.5).all()


def test_listeners_mostly_play_or_mostly_skip(events):
    count = np.bincount(events.user)
    share = np.bincount(events.user, ~positive_of(events)) / count
    density, _ = np.histogram(share[count >= 50], bins=[0, 0.2, 0.4, 0.6, 0.8, 1.0], density=True)
    assert density[2] < 0.6 * max(density[:2]) and density[2] < 0.6 * max(density[3:])


def test_popularity_of_a_stations_own_draw_follows_zipf(independent_events):
    served = np.sort(np.bincount(independent_events.item, minlength=CONFIG.items))[::-1]
    assert served[-1] > 0
    # Songs are not repeated in a session, which flattens the head; few events blur the tail.
    rank = np.arange(20, CONFIG.items // 2)
    slope = np.polyfit(np.log(rank + 1), np.log(served[rank]), 1)[0]
    assert slope == pytest.approx(-CONFIG.zipf, abs=0.2)


def test_thumbs_are_rare_and_follow_the_fit(simulation, events):
    truth = simulation.truth
    thumb = (events.feedback == THUMB_UP) | (events.feedback == THUMB_DOWN)
    assert thumb.mean() == pytest.approx(CONFIG.thumb_rate, abs=0.006)
    chance = np.clip(events.probability, 1e-6, 1 - 1e-6)
    fit = np.log(chance / (1 - chance)) - truth.propensity[events.user]
    mean = {kind: fit[events.feedback == kind].mean() for kind in (THUMB_DOWN, SKIP, PLAY, THUMB_UP)}
    assert mean[THUMB_DOWN] < mean[SKIP] < mean[PLAY] < mean[THUMB_UP]
    given = np.bincount(events.user, thumb, minlength=CONFIG.users)
    assert (given == 0).mean() > 0.2  # many never give one: skips reach listeners that thumbs do not


@pytest.mark.slow
def test_skip_rate_and_thumb_rate_are_settings():
    config = dataclasses.replace(CONFIG, skip_rate=0.3, thumb_rate=0.1, habit=0.0)
    events = events_of(simulator.simulate(config))
    assert (~positive_of(events)).mean() == pytest.approx(0.3, abs=0.02)
    thumb = (events.feedback == THUMB_UP) | (events.feedback == THUMB_DOWN)
    assert thumb.mean() == pytest.approx(0.1, abs=0.01)


# Truth.


def test_probabilities_are_calibrated(events):
    bins = np.minimum((events.probability * 20).astype(int), 19)
    count = np.bincount(bins, minlength=20)
    told = np.bincount(bins, events.probability, minlength=20)
    came = np.bincount(bins, positive_of(events), minlength=20)
    spread = np.sqrt(np.bincount(bins, events.probability * (1 - events.probability), minlength=20))
    assert count.min() > 1000
    assert (np.abs(told - came) < 4.5 * spread).all()


def test_affinity_by_hand(simulation):
    truth, user, item = simulation.truth, 3, 17
    taste = sum(float(t) * float(c) for t, c in zip(truth.taste[user], truth.character[item], strict=True))
    genre = max(float(truth.likeness[station, truth.genre[item]]) for station in truth.favourite[user])
    fit = float(truth.quality[item]) + taste + listeners.GENRE * (genre - 1)
    logit = truth.intercept + float(truth.propensity[user]) + fit
    assert float(truth.affinity(user, item)) == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_affinity_broadcasts(simulation):
    table = simulation.truth.affinity(np.arange(4)[:, None], np.arange(7))
    assert table.shape == (4, 7)
    np.testing.assert_allclose(table[2], simulation.truth.affinity(np.full(7, 2), np.arange(7)))


def test_affinity_is_the_probability_without_mood_phase_fatigue_and_attention():
    still = dataclasses.replace(CONFIG, mood=0.0, phase=0.0, fatigue=0.0, attention=0.0)
    simulation = simulator.simulate(dataclasses.replace(still, users=500, sessions=3400))
    events = simulation.block(0)
    affinity = simulation.truth.affinity(events.user, events.item)
    np.testing.assert_allclose(events.probability, affinity, atol=1e-6)


@pytest.mark.parametrize("listening", ["people", "independent"])
def test_fatigue_lowers_the_probability_of_songs_heard_before(listening):
    config = dataclasses.replace(
        CONFIG, users=300, sessions=2100, mood=0.0, phase=0.0, fatigue=0.5, attention=0.0, listening=listening
    )
    simulation = simulator.simulate(config)
    events = simulation.block(0)
    seen, drop = {}, np.empty(events.item.size)
    for t, pair in enumerate(zip(events.user.tolist(), events.item.tolist(), strict=True)):
        drop[t] = 0.5 * math.log1p(seen.get(pair, 0))
        seen[pair] = seen.get(pair, 0) + 1
    assert drop.max() > 0.5
    expected = simulation.truth.lasting_logit(events.user, events.item) - drop
    np.testing.assert_allclose(events.probability, 1 / (1 + np.exp(-expected)), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("independent", {"ceiling": (0.80, 0.90), "taste": (0.68, 0.76), "like_rate": (0.60, 0.68)}),
        ("people", {"ceiling": (0.93, 0.98), "taste": (0.58, 0.66), "like_rate": (0.54, 0.60)}),
    ],
)
def test_ceiling_is_above_what_taste_tells_and_that_above_the_songs_and_chance(request, kind, bounds):
    """The ceiling of people knows their attention too, so that no choice of songs comes near it."""
    prefix = "" if kind == "people" else "independent_"
    events = request.getfixturevalue(f"{prefix}events")
    truth = request.getfixturevalue("simulation" if kind == "people" else "independent").truth
    positive = positive_of(events)
    late = events.time > np.quantile(events.time, 0.8)
    count = np.bincount(events.item[~late], minlength=CONFIG.items)
    likes = np.bincount(events.item[~late], positive[~late], minlength=CONFIG.items)
    scores = {
        "ceiling": events.probability,
        "taste": truth.affinity(events.user, events.item),
        "like_rate": ((likes + 5) / (count + 10))[events.item],
        "popularity": count[events.item],
    }
    group = events.user.astype(np.int64) * CONFIG.stations + events.station
    for_pairs = {
        name: simulator.pair_accuracy(score[late], positive[late], group[late])
        for name, score in scores.items()
    }
    for name, (low, high) in {**bounds, "popularity": (0.47, 0.56)}.items():
        assert low < for_pairs[name] < high, (name, for_pairs)
    assert for_pairs["ceiling"] > for_pairs["taste"] + 0.02 > for_pairs["like_rate"] + 0.04


def test_mood_shows_in_the_sessions_own_feedback(independent, independent_events):
    """Songs near those played so far in the session, and far from those skipped, are the ones played next."""
    simulation, events = independent, independent_events
    character, positive = simulation.truth.character, positive_of(events)
    expected = simulation.truth.affinity(events.user, events.item)
    surprise = (positive - expected)[:, None] * character[events.item]
    before = np.cumsum(surprise, 0) - surprise
    first = np.append(True, events.session[1:] != events.session[:-1])
    before -= before[np.maximum.accumulate(np.where(first, np.arange(first.size), 0))]
    group = events.session
    taste = np.log(expected / (1 - expected))
    filtered = taste + 1.2 * np.einsum("td,td->t", before, character[events.item])
    gain = simulator.pair_accuracy(filtered, positive, group) - simulator.pair_accuracy(
        taste, positive, group
    )
    assert gain > 0.03


def test_pair_accuracy_by_hand():
    score = np.array([0.9, 0.1, 0.5, 0.5, 0.3, 0.2, 0.8])
    positive = np.array([True, False, True, False, True, True, False])
    group = np.array([0, 0, 0, 0, 1, 2, 2])
    # Group 0: 0.9 beats both, 0.5 beats 0.1 and ties 0.5: 3.5 of 4. Group 1 has no pair. Group 2: 0 of 1.
    assert simulator.pair_accuracy(score, positive, group) == pytest.approx((3.5 / 4 + 0) / 2)
    assert math.isnan(simulator.pair_accuracy(score[:1], positive[:1], group[:1]))


# Shape of the log.


def test_stations_play_their_own_songs(simulation, events):
    genre = simulation.truth.genre[events.item]
    assert (genre == events.station).mean() > 0.75
    favourite = simulation.truth.favourite[events.user]
    assert (favourite == events.station[:, None]).any(1).all()


def test_hardly_a_song_comes_twice_in_a_session(events):
    pairs = events.session * CONFIG.items + events.item
    assert np.unique(pairs).size > 0.9999 * pairs.size


def test_users_sessions_and_times_are_in_order(events):
    assert (np.diff(events.user) >= 0).all() and (np.diff(events.session) >= 0).all()
    same_user = events.user[1:] == events.user[:-1]
    assert (np.diff(events.time)[same_user] > 0).all()
    new_session = same_user & (events.session[1:] != events.session[:-1])
    assert np.diff(events.time)[new_session].min() >= 10 * 60_000
    day = (events.time - 1_704_067_200_000) / 86_400_000  # since 2024-01-01T00:00Z
    assert day.min() >= 0 and np.quantile(day, 0.999) < CONFIG.days + 1


def test_ids_sort_as_their_numbers(simulation):
    table = simulation.to_batch(simulation.block(0))
    assert table.schema == simulator.SCHEMA
    assert table["user"][0].as_py() == "user_0000" and table["session"][0].as_py() == "session_00000"
    assert set(table["feedback"].to_pylist()) == {"thumb_up", "play", "skip", "thumb_down"}
    artists = {}
    for item, artist in zip(table["item"].to_pylist(), table["artist"].to_pylist(), strict=True):
        assert artists.setdefault(item, artist) == artist


# Seeds.


def test_blocks_do_not_depend_on_one_another(simulation, events):
    again = simulator.simulate(CONFIG)
    assert again.blocks > 1
    last = again.block(again.blocks - 1)
    for name, column in last._asdict().items():
        np.testing.assert_array_equal(column, getattr(events, name)[-column.size :], err_msg=name)


def test_same_seed_same_bytes(tmp_path):
    config = simulator.SimulateConfig(users=100, sessions=400, items=200, artists=40, stations=4, seed=5)
    for name in ("a", "b"):
        simulator.write(simulator.simulate(config), tmp_path / f"{name}.csv")
    simulator.write(simulator.simulate(dataclasses.replace(config, seed=6)), tmp_path / "c.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()


# Files.


@pytest.mark.parametrize("suffix", rest_slow(["parquet", "csv"], ["parquet"]))
def test_written_log_and_truth_come_back(tmp_path, suffix, monkeypatch):
    monkeypatch.setitem(simulator.BLOCK, "people", 700)
    config = simulator.SimulateConfig(users=100, sessions=1200, items=300, artists=60, stations=5)
    simulation, out, told = simulator.simulate(config), tmp_path / "new" / f"log.{suffix}", []
    truth_path = simulator.write(simulation, out, lambda *done: told.append(done))
    assert told[-1] == (config.sessions, config.sessions) and len(told) == simulation.blocks == 2
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, truth_path.name]
    table = pq.read_table(out) if suffix == "parquet" else pa_csv.read_csv(out)
    events = events_of(simulation)
    assert table.column_names == simulator.SCHEMA.names
    np.testing.assert_array_equal(table["time"].to_numpy(), events.time)
    np.testing.assert_allclose(table["played"].to_numpy(), events.played)
    assert table["item"].to_pylist() == [f"song_{item:03d}" for item in events.item.tolist()]
    truth, probability = simulator.Truth.load(truth_path)
    np.testing.assert_array_equal(probability, events.probability)
    np.testing.assert_array_equal(truth.affinity(5, [1, 2]), simulation.truth.affinity(5, [1, 2]))


def test_failed_write_leaves_the_old_log(tmp_path):
    config = simulator.SimulateConfig(users=20, sessions=40, items=50, artists=10, stations=2)
    simulation, out = simulator.simulate(config), tmp_path / "log.parquet"
    simulator.write(simulation, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        simulator.write(simulation, out, full)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": 10}, "--sessions must be at least one per user"),
        ({"items": 19, "artists": 5, "stations": 2}, "--items must be at least 20"),
        ({"artists": 5000}, "--artists must be no more than the items"),
        ({"stations_per_user": 13}, "--stations-per-user"),
        ({"skip_rate": 1.0}, "--skip-rate must be above 0 and below 1, got 1.0"),
        ({"thumb_rate": 0.5}, "--thumb-rate"),
        ({"start": "01/02/2024"}, "--start must be a date such as 2024-01-31, got 01/02/2024"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"days": 0}, "--days must be at least 1"),
        ({"mood": float("nan")}, "--mood"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        simulator.simulate(dataclasses.replace(CONFIG, **changes))


def test_out_must_be_a_known_format(tmp_path):
    simulation = simulator.simulate(simulator.SimulateConfig(users=20, sessions=40))
    with pytest.raises(UserError, match="--out must end in .parquet or .csv"):
        simulator.write(simulation, tmp_path / "log.xlsx")


def test_smallest_simulation_works():
    config = simulator.SimulateConfig(
        users=1, items=20, sessions=1, stations=1, artists=1, stations_per_user=1, days=1
    )
    events = events_of(simulator.simulate(config))
    assert 10 <= events.item.size <= 20


def test_presets_are_sound():
    for config in simulator.PRESETS.values():
        assert listeners.check(config) is config


@pytest.mark.slow
def test_speed():
    """Far below what it does, so that a busy machine passes: benchmarks/simulate.py has the figure."""
    simulation = simulator.simulate(simulator.SimulateConfig(users=4000, sessions=simulator.BLOCK["people"]))
    began = time.perf_counter()
    for index in range(simulation.blocks):
        simulation.to_batch(simulation.block(index))
    assert simulator.BLOCK["people"] / (time.perf_counter() - began) > 2000
