"""Listeners like people: the facts of their sessions beside real ones, and the parts that make them."""

import collections
import dataclasses
import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
import pytest

from jaxneg.simulation import people, simulator

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fidelity():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("fidelity", ROOT / "benchmarks" / "fidelity.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules["fidelity"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


# How far simulated sessions may lie from people's: of a smaller log than that of the table, so wider than there.
NEAR = {
    "lag_1": 0.06,
    "lag_5": 0.1,
    "session_sd": 0.03,
    "heard": 0.12,
    "artist": 0.06,
    "artist_after_play": 0.06,
    "artist_after_skip": 0.06,
    "successor": 0.04,
}


def test_sessions_are_like_those_of_people(fidelity):
    real = json.loads((ROOT / "benchmarks" / "results" / "fidelity.json").read_text())["real"]
    found = fidelity.facts(fidelity.trimmed(fidelity.simulated(fidelity.FEW)))
    assert {name: found[name] for name in NEAR} == {
        name: pytest.approx(real[name], abs=width) for name, width in NEAR.items()
    }
    assert found["again_after_play"] > found["again_after_skip"] + 0.02  # exposure reacts


def test_facts_by_hand(fidelity):
    # Two sessions of one listener, one of another; songs 1 and 2 are of one artist.
    log = fidelity.Log(
        np.array([0, 0, 0, 0, 0, 1, 1]),
        np.array([0, 0, 0, 1, 1, 2, 2]),
        np.array([1, 2, 3, 1, 2, 1, 2]),
        np.array([7, 7, 8, 7, 7, 7, 7]),
        np.array([1, 0, 0, 1, 0, 1, 1], bool),
    )
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        found = fidelity.facts(log)
    assert found["skip_share"] == pytest.approx(4 / 7)
    assert found["heard"] == pytest.approx(2 / 7)
    assert found["artist"] == pytest.approx(3 / 4)  # of four steps inside sessions
    assert found["artist_after_play"] == pytest.approx(0) and found["artist_after_skip"] == 1
    assert found["successor"] == pytest.approx(1 / 4)  # 1 then 2, as before
    # Apart from the means 2/5 and 1: (.6, -.4), (-.4, -.4), (.6, -.4), (0, 0).
    last, song = np.array([0.6, -0.4, 0.6, 0]), np.array([-0.4, -0.4, -0.4, 0])
    assert found["lag_1"] == pytest.approx(np.corrcoef(last, song)[0, 1])
    assert found["session_sd"] == pytest.approx(np.std([-0.2 / 3, 0.2 / 2, 0]))


def test_attention_lasts_as_long_as_asked():
    config = simulator.SimulateConfig(attention=8.0, attention_songs=5.0)
    lean_SL = people.attention(np.random.default_rng(0), 40_000, config)
    bent = people.BENT**2
    assert lean_SL.var() == pytest.approx(64 * (0.25 + bent), rel=0.02)
    for lag in (1, 4):
        shared = (lean_SL[:, lag:] * lean_SL[:, :-lag]).mean()
        assert shared == pytest.approx(64 * (0.25 * math.exp(-lag / 5) + bent), rel=0.03)


def test_counts_are_those_of_a_counter():
    rng, counts, slow = np.random.default_rng(1), people.Counts(), collections.Counter()
    assert counts.look(np.array([1]))[1].tolist() == [0]
    for _ in range(60):
        key = rng.choice(2000, size=250, replace=False) * 2**40  # far apart, so that places collide
        slot, count = counts.look(key)
        assert count.tolist() == [slow[one] for one in key.tolist()]
        counts.add(key, slot, count)
        slow.update(key.tolist())
    assert counts.look(np.array([1]))[1].tolist() == [0]


class Highest(np.random.Generator):
    """Uniform draws that choose a song are all just below 1."""

    def random(self, size=None, dtype=np.float64, out=None):
        drawn = super().random(size, dtype, out)
        if np.shape(drawn)[-1:] == (people.DRAWS,):
            drawn[..., 3:] = np.nextafter(dtype(1), dtype(0))
        return drawn


def test_a_draw_next_to_one_is_the_last_song_of_the_past():
    simulation = simulator.simulate(simulator.SimulateConfig(users=20, sessions=200, stations=2))
    _, served = simulation._served(0)
    lived = simulation._lived(Highest(np.random.PCG64(0)), served)
    assert lived.item_SL[served["heard"]].min() >= 0
    pairs = (served["session"][:, None] * simulation.config.items + lived.item_SL)[served["heard"]]
    assert np.unique(pairs).size == pairs.size


def test_songs_of_a_session_are_of_the_station_the_past_or_its_artists():
    """No move leaves the station: its pool holds all that its listeners hear there."""
    config = simulator.SimulateConfig(users=50, items=300, sessions=800, stations=4, artists=30)
    simulation = simulator.simulate(config)
    events = simulation.block(0)
    for station, pool in enumerate(simulation.pools):
        assert np.isin(events.item[events.station == station], pool.item).all()
    pairs = events.session * config.items + events.item
    assert np.unique(pairs).size == pairs.size


def test_listening_is_one_of_two_and_moves_leave_room():
    with pytest.raises(simulator.UserError, match="--order must be at most 1 together with --artist-run"):
        simulator.simulate(simulator.SimulateConfig(order=0.8, artist_run=0.3))
    config = simulator.SimulateConfig(users=20, sessions=40)
    first, second = (
        simulator.simulate(dataclasses.replace(config, listening="independent", order=order)).block(0)
        for order in (0.1, 0.5)
    )
    np.testing.assert_array_equal(first.item, second.item)
