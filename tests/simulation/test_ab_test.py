"""The online test on simulated listeners: choices, coins, figures and the verb."""

import dataclasses
import json
import math
import pathlib
import shutil

import numpy as np
import pytest

from jaxneg import cli
from jaxneg.baselines import counting
from jaxneg.batch import CODE
from jaxneg.config import UserError
from jaxneg.simulation import ab_test, people, policies, simulator, trials, visits as visit
from tests.marks import rest_slow

CONFIG = simulator.SimulateConfig(
    users=400, items=200, sessions=2000, stations=4, artists=20, days=30, seed=2
)


@pytest.fixture(scope="module")
def simulation():
    return simulator.simulate(CONFIG)


@pytest.fixture(scope="module")
def visits(simulation):
    return visit.visits(simulation, users=400, days=30, history=5)


def by_quality(simulation, sign):
    """Always the open song that most play, or that most skip."""
    return lambda now: np.where(now.open_SC, sign * simulation.truth.quality[now.pool_SC], -np.inf).argmax(1)


@pytest.fixture(scope="module")
def heard(simulation, visits):
    chosen = {
        "control": trials.drawn,
        "twin": lambda now: trials.drawn(now),
        "oracle": policies.oracle(10),
        "best": by_quality(simulation, 1),
        "worst": by_quality(simulation, -1),
    }
    return trials.trial(simulation, visits, chosen)


@pytest.fixture(scope="module")
def compared(heard, visits):
    return ab_test.compare(heard, visits.listener_S, CONFIG.items, 200, 0)


def chances(simulation, visits, heard):
    """Probability of a play of each song, in plain Python: the sum of logits that the docstring promises."""
    truth, times = simulation.truth, {}
    for index in range(simulation.blocks):
        events = simulation.block(index)
        for pair in zip(events.user.tolist(), events.item.tolist(), strict=True):
            times[pair] = times.get(pair, 0) + 1
    result = np.full(heard.item_SL.shape, np.nan)
    for s in np.lexsort((visits.ordinal_S, visits.listener_S)):
        user = int(visits.user_U[visits.listener_S[s]])
        for l in range(visits.length_S[s]):
            song = int(heard.item_SL[s, l])
            fit = float(truth.taste[user] @ truth.character[song]) + float(truth.quality[song])
            near = max(float(truth.likeness[home, truth.genre[song]]) for home in truth.favourite[user])
            fit += 2.0 * (near - 1) + float(visits.state_SLD[s, l] @ truth.character[song])
            fit += float(visits.lean_SL[s, l])
            fit -= CONFIG.fatigue * math.log(1 + times.get((user, song), 0))
            logit = truth.intercept + float(truth.propensity[user]) + fit
            result[s, l] = 1 / (1 + math.exp(-logit))
            times[user, song] = times.get((user, song), 0) + 1
    return result


# The sessions.


def test_visits_continue_the_log(simulation, visits):
    last, phases, heard = {}, {}, {}
    for index in range(simulation.blocks):
        events, phase = simulation.block_with_phases(index)
        for user, item in zip(events.user.tolist(), events.item.tolist(), strict=True):
            last.setdefault(user, []).append(item)
            heard[user, item] = heard.get((user, item), 0) + 1
        for user, vector in zip(phase.user.tolist(), phase.phase, strict=True):
            phases[user] = vector
    for u, user in enumerate(visits.user_U.tolist()):
        assert visits.past_item_UH[u].tolist() == last[user][-5:]
    pairs = {
        (int(visits.user_U[key // CONFIG.items]), int(key % CONFIG.items)): int(count)
        for key, count in zip(visits.heard_key, visits.heard_count, strict=True)
    }
    come = set(visits.user_U.tolist())
    assert pairs == {pair: count for pair, count in heard.items() if pair[0] in come}
    assert visits.served_V.sum() == sum(heard.values())
    # What lasts of the last phase shows in the first session; a mood of its own blurs it.
    first = np.flatnonzero(visits.ordinal_S == 0)
    before = np.stack([phases[user] for user in visits.user_U.tolist()])
    assert 0.2 < np.corrcoef(before.ravel(), visits.state_SLD[first, 0].ravel())[0, 1] < 0.7


def test_visits_are_as_frequent_as_in_the_log(simulation, visits):
    # As many days as the log has: as many sessions, give or take four deviations of a Poisson count.
    assert abs(len(visits.listener_S) - CONFIG.sessions) < 4 * math.sqrt(CONFIG.sessions)
    assert (np.diff(visits.listener_S) >= 0).all() and visits.length_S.min() >= 10
    home = simulation.truth.favourite[visits.user_U[visits.listener_S]]
    assert (home == visits.station_S[:, None]).any(1).all()


def test_fixed_phase_and_no_mood_leave_the_state_as_it_was():
    config = dataclasses.replace(CONFIG, mood=0.0, phase_days=1e9)
    simulation = simulator.simulate(config)
    found = visit.visits(simulation, users=50, days=30)
    phases = simulation.block_with_phases(0)[1]
    for s in range(0, len(found.listener_S), 7):
        user = found.user_U[found.listener_S[s]]
        expected = config.phase * phases.phase[phases.user == user][-1]
        # sqrt(1 - keep^2)
        np.testing.assert_allclose(found.state_SLD[s], np.tile(expected, (20, 1)), atol=2e-3)


def test_songs_are_of_the_station_and_come_once_a_session(simulation, visits, heard):
    for one in heard.values():
        assert ((one.item_SL >= 0).sum(1) == visits.length_S).all()
        for s in range(0, len(one.item_SL), 13):
            songs = one.item_SL[s, : visits.length_S[s]].tolist()
            assert len(set(songs)) == len(songs)
            assert set(songs) <= set(simulation.pools[visits.station_S[s]].item.tolist())


def test_first_songs_are_the_same_in_all_arms_but_where_a_thumb_down_took_one_away(visits, heard):
    apart = 0
    for one in heard.values():
        for s in np.flatnonzero(one.item_SL[:, 0] != heard["control"].item_SL[:, 0]):
            earlier = (visits.listener_S == visits.listener_S[s]) & (visits.ordinal_S < visits.ordinal_S[s])
            earlier &= visits.station_S == visits.station_S[s]
            said = [
                arm.feedback_SL[earlier][arm.item_SL[earlier] == song]
                for arm, song in (
                    (one, heard["control"].item_SL[s, 0]),
                    (heard["control"], one.item_SL[s, 0]),
                )
            ]
            assert any((codes == CODE["thumb_down"]).any() for codes in said)
            apart += 1
    assert apart


def test_what_had_a_thumb_down_does_not_come_again_on_its_station(simulation, visits, heard):
    down, refused = {}, 0
    for index in range(simulation.blocks):
        events = simulation.block(index)
        for user, station, song, code in zip(
            events.user.tolist(), events.station.tolist(), events.item.tolist(), events.feedback, strict=True
        ):
            # With more, a station may have nothing else left.
            if len(banned := down.get((user, station), ())) <= people.SPARE:
                assert song not in banned, "in the log"
            if code == CODE["thumb_down"]:
                down.setdefault((user, station), set()).add(song)
                refused += 1
    assert refused > 100
    one = heard["worst"]
    for s in np.lexsort((visits.ordinal_S, visits.listener_S)):
        lane = int(visits.user_U[visits.listener_S[s]]), int(visits.station_S[s])
        songs = one.item_SL[s, : visits.length_S[s]]
        assert not down.get(lane, set()) & set(songs.tolist()), "in the trial"
        codes = one.feedback_SL[s, : visits.length_S[s]]
        down.setdefault(lane, set()).update(songs[codes == CODE["thumb_down"]].tolist())


@pytest.mark.parametrize("arm", rest_slow(["control", "oracle", "worst"], ["control", "worst"]))
def test_plays_and_thumbs_come_as_often_as_the_truth_says(simulation, visits, heard, arm):
    truth, chance_SL = simulation.truth, chances(simulation, visits, heard[arm])
    s, l = np.nonzero(heard[arm].item_SL >= 0)
    chance, code = chance_SL[s, l], heard[arm].feedback_SL[s, l]
    played = code >= CODE["play"]
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert abs(played.sum() - chance.sum()) < 4 * spread
    user = visits.user_U[visits.listener_S[s]]
    fit = np.log(chance / (1 - chance)) - truth.propensity[user] - truth.intercept
    readiness = truth.thumb_scale * truth.thumb_habit[user]
    up = chance * np.minimum(1, readiness / (1 + np.exp(-2 * fit)))
    down = (1 - chance) * np.minimum(1, readiness / (1 + np.exp(2 * fit)))
    for kind, expected in (("thumb_up", up), ("thumb_down", down)):
        assert abs((code == CODE[kind]).sum() - expected.sum()) < 4 * np.sqrt(expected.sum()) + 1


def test_the_draw_goes_by_the_shares(simulation, visits, heard):
    station = 1
    pool = simulation.pools[station]
    first = heard["control"].item_SL[visits.station_S == station, 0]
    share = pool.share / pool.share.sum()
    count = np.bincount(first, minlength=CONFIG.items)[pool.item]
    spread = np.sqrt(len(first) * share * (1 - share))
    assert len(first) > 300 and (np.abs(count - len(first) * share) < 4.5 * spread + 1).all()


def test_arms_see_what_happened(simulation, visits):
    """An arm that writes down its histories: the past, then this session, with the feedback it got."""
    seen = {}

    def watch(now):
        for station, song, code, at in zip(
            now.station_S, now.item_SL, now.feedback_SL, now.at_SL, strict=True
        ):
            seen[tuple(song)] = (tuple(code), tuple(at), station)
        return trials.drawn(now)

    one = trials.trial(simulation, visits, {"watch": watch})["watch"]
    for u in range(0, len(visits.user_U), 9):
        sessions = np.flatnonzero(visits.listener_S == u)
        songs, codes = visits.past_item_UH[u].tolist(), visits.past_feedback_UH[u].tolist()
        stations = visits.past_station_UH[u].tolist()
        for s in sessions:
            length = int(visits.length_S[s])
            before = (songs[-5:] if songs else []) + one.item_SL[s, : length - 1].tolist()
            codes_before = codes[-5:] + one.feedback_SL[s, : length - 1].tolist()
            at = stations[-5:] + [int(visits.station_S[s])] * (length - 1)
            assert seen[tuple(before)] == (tuple(codes_before), tuple(at), visits.station_S[s])
            songs += one.item_SL[s, :length].tolist()
            codes += one.feedback_SL[s, :length].tolist()
            stations += [int(visits.station_S[s])] * length


def test_a_song_that_is_not_open_is_refused(simulation, visits):
    with pytest.raises(ValueError, match="arm same chose a song that is not open"):
        trials.trial(simulation, visits, {"same": lambda now: np.zeros(len(now.station_S), np.int64)})


def test_the_result_does_not_depend_on_who_else_is_tested(simulation, visits, heard):
    alone = trials.trial(simulation, visits, {"oracle": policies.oracle(10)})["oracle"]
    np.testing.assert_array_equal(alone.item_SL, heard["oracle"].item_SL)
    np.testing.assert_array_equal(alone.feedback_SL, heard["oracle"].feedback_SL)


# Choices.


def now_of(share_SC, open_SC, noise_SC):
    shape = np.shape(share_SC)
    none = np.zeros((shape[0], 0), np.int32)
    pool_SC = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
    parts = np.array(share_SC, np.float32), np.array(open_SC), np.array(noise_SC, np.float32)
    return trials.Now(
        np.zeros(shape[0], np.int32), pool_SC, parts[0], parts[1], none, none, none, parts[2], lambda: pool_SC
    )


def test_among_best_by_hand():
    share, every = [[4.0, 3.0, 2.0, 1.0]], [[True] * 4]
    least = [[0.4, 0.3, 0.2, 0.1]]  # noise: the last of those allowed wins

    def chosen(score, top, open_=every, noise=least):
        return trials.among_best(now_of(share, open_, noise), np.array([score], np.float32), top).tolist()

    assert chosen([9, 8, 7, 6], 1) == [0]
    assert chosen([9, 8, 7, 6], 3) == [2]
    assert chosen([9, 8, 7, 6], 9) == [3]
    assert chosen([9, 8, 7, 6], 2, [[False, True, True, True]]) == [2]
    assert chosen([5, 5, 5, 5], 2) == [1]  # of equal scores, those the station plays more
    assert chosen([5, 5, 5, 9], 2, noise=[[0.3, 0.1, 0.2, 0.4]]) == [0]  # 3, and 0 of the ties
    assert chosen([-np.inf, 1, -np.inf, -np.inf], 3) == [1]
    # Nothing to go by: the station's draw, the least of noise over share, 0.1, 0.1 - , 0.05, 0.5.
    assert chosen([-np.inf] * 4, 2, noise=[[0.4, 0.3, 0.1, 0.5]]) == [2]


def test_among_best_takes_each_alike():
    rng, size = np.random.default_rng(0), 4000
    score = np.tile([3.0, 1.0, 2.0, 0.0], (size, 1))
    noise = rng.standard_exponential((size, 4))
    count = np.bincount(
        trials.among_best(now_of(score, np.ones((size, 4), bool), noise), score, 3), minlength=4
    )
    assert count[3] == 0 and (np.abs(count[:3] - size / 3) < 4 * math.sqrt(size * 2 / 9)).all()


def test_packed_contexts_by_hand():
    item = np.array([[0, 5, 0, 7, 8], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
    found = policies.packed(item, item * 10, item * 100, 3)
    assert found[0].tolist() == [[5, 7, 8], [0, 0, 0], [3, 4, 5]]
    assert found[1].tolist() == [[50, 70, 80], [0, 0, 0], [30, 40, 50]]
    assert found[2][0].tolist() == [500, 700, 800] and found[0].dtype == np.int32


def test_an_arm_leaves_out_what_it_does_not_know(simulation, visits):
    """Odd songs are not in the catalogue, and skips are not in the contexts."""
    row_of = np.where(np.arange(CONFIG.items) % 2, 0, np.arange(CONFIG.items) // 2 + 1).astype(np.int32)
    contexts = []

    def ready(item_SL, feedback_SL, station_SL):
        contexts.append((item_SL, feedback_SL))
        return lambda at, row_C: np.tile(row_C.astype(np.float32), (len(at), 1))

    nowhere = np.zeros(CONFIG.stations, np.int32)
    kinds = (CODE["play"], CODE["thumb_up"])
    arm = policies.by_score(ready, row_of, nowhere, length=6, kinds=kinds, top=1)
    choices = []

    def watched(now):
        place = arm(now)
        known = (now.item_SL >= 0) & (now.item_SL % 2 == 0) & np.isin(now.feedback_SL, kinds)
        choices.append((known.any(1), now.pool_SC[np.arange(len(place)), place]))
        return place

    trials.trial(simulation, visits, {"even": watched})
    for known, song in choices:
        assert (song[known] % 2 == 0).all()
    # with nothing to go by, the station's draw
    assert any((song[~known] % 2).any() for known, song in choices)
    for item, code in contexts:
        assert item.shape[1] == 6 and set(np.unique(code)) <= {0, *kinds}
        assert ((item > 0) == (code > 0)).all()


# Figures.


def test_twins_do_not_differ_at_all(compared, heard):
    np.testing.assert_array_equal(heard["twin"].feedback_SL, heard["control"].feedback_SL)
    for figure in ab_test.FIGURES:
        assert compared["twin"][figure] == compared["control"][figure]
        for end in ("", "_low", "_high"):
            assert compared["twin"][f"difference_{figure}{end}"] == 0.0
            assert compared["twin"][f"relative_{figure}{end}"] == 0.0
        assert compared["twin"][f"p_{figure}"] == 1.0


def test_good_choices_are_told_from_bad_ones(compared):
    share = {name: one["play_share"] for name, one in compared.items()}
    assert share["oracle"] > share["best"] > share["control"] > share["worst"]
    for name, sign in (("oracle", 1), ("worst", -1)):
        for figure in ("plays", "play_share", "thumb_up_rate"):
            low, high = (compared[name][f"relative_{figure}_{end}"] for end in ("low", "high"))
            assert (low if sign > 0 else -high) > 0
            assert compared[name][f"p_{figure}"] == pytest.approx(2 / 201)
    assert compared["best"]["gini"] > compared["control"]["gini"]  # the same songs to everybody
    assert compared["best"]["songs"] < compared["control"]["songs"]


# Two listeners. The first song of a session does not count; -1 fills up.
PLAY, SKIP, UP, DOWN = (CODE[kind] for kind in ("play", "skip", "thumb_up", "thumb_down"))
LISTENER = np.array([0, 0, 1])
A = trials.Heard(
    np.array([[9, 0, 1], [9, 0, -1], [9, 2, 2]], np.int32),
    np.array([[UP, PLAY, UP], [UP, SKIP, 0], [UP, DOWN, SKIP]], np.int8),
)
B = trials.Heard(
    np.array([[9, 3, 3], [9, 3, -1], [9, 3, 3]], np.int32),
    np.array([[UP, SKIP, UP], [UP, SKIP, 0], [UP, DOWN, SKIP]], np.int8),
)


def test_figures_by_hand():
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    found = ab_test.figures(ab_test.sums(A, LISTENER, 4), weights)
    # Listener 0: songs 0, 1, 0 with play, thumb up, skip. Listener 1: song 2 twice, thumb down and skip.
    np.testing.assert_allclose(found["plays"], [2 / 2, 4 / 2, 0])
    np.testing.assert_allclose(found["play_share"], [2 / 5, 4 / 6, 0])
    np.testing.assert_allclose(found["thumbs_up"], [1 / 2, 2 / 2, 0])
    np.testing.assert_allclose(found["thumb_up_rate"], [1 / 2, 2 / 2, 0])
    # Exposure (0, 1, 2, 2): the sum of (2i - 5) x_i is -1 + 2 + 6 = 7, over 4 * 5.
    # (0, 0, 2, 4): 14 of 24; (0, 0, 0, 4): 12 of 16.
    np.testing.assert_allclose(found["gini"], [7 / 20, 14 / 24, 12 / 16])


def test_changes_by_hand():
    found = ab_test.compare({"control": B, "a": A}, LISTENER, 4, 400, 0)
    assert found["a"]["difference_plays"] == pytest.approx(0.5)  # 2 plays and 1, of two listeners
    assert found["a"]["relative_plays"] == pytest.approx(100.0)
    assert found["a"]["relative_play_share"] == pytest.approx(100.0)
    assert found["a"]["relative_thumb_up_rate"] == pytest.approx(0.0)  # the same thumbs
    assert found["a"]["relative_gini"] == pytest.approx(100 * (7 / 20 / 0.75 - 1))
    assert found["a"]["songs"] == 3 and found["a"]["relative_songs"] == pytest.approx(200.0)
    # The mean difference is 0, 0.5 or 1 with chances 1/4, 1/2, 1/4; 400 draws put their mean within 0.07 of 0.5.
    assert found["a"]["difference_plays_low"] == pytest.approx(0.0, abs=0.07)
    assert found["a"]["difference_plays_high"] == pytest.approx(1.0, abs=0.07)
    # Where listener 0 is not drawn, neither arm has a play and there is no relative change.
    assert found["a"]["p_plays"] == pytest.approx(2 / 301, rel=0.1)


def test_the_report_says_which_way_each_figure_went(compared):
    values = {"listeners": 1, "sessions": 1, "songs": 1, "settings": {"days": 1, "top": 1, "history": "user"}}
    said = ab_test.markdown(values | {"arms": {"control": compared["control"], "model": compared["best"]}})
    assert "**model** has more plays +" in said and "less even exposure, Gini +" in said
    said = ab_test.markdown(values | {"arms": {"control": compared["control"], "model": compared["twin"]}})
    assert said.count("no clear change of") == 4


def test_interval_and_p_by_hand():
    resampled = np.arange(101.0)  # quantiles 2.5 and 97.5, mean 50
    assert ab_test.interval(10.0, resampled) == pytest.approx((10 - 47.5, 10 + 47.5))
    assert ab_test.interval(10.0, np.append(resampled, np.nan)) == pytest.approx((-37.5, 57.5))
    assert np.isnan(ab_test.interval(1.0, np.full(3, np.nan))).all()
    assert ab_test.p_value(np.array([1.0, 2.0, -1.0])) == 1.0
    assert ab_test.p_value(np.arange(1.0, 100.0)) == pytest.approx(2 / 100)
    assert ab_test.p_value(-np.arange(0.0, 99.0)) == pytest.approx(4 / 100)
    assert ab_test.p_value(np.array([np.nan])) is None


def test_intervals_of_plays_hold_the_mean_as_often_as_they_say():
    """Means of 40 exponential listeners, 200 times: 95% less what so few listeners cost; four deviations below."""
    rng, inside = np.random.default_rng(3), 0
    for _ in range(200):
        value = rng.exponential(size=40)
        drawn = value[rng.integers(40, size=(200, 40))].mean(1)
        low, high = ab_test.interval(value.mean(), drawn)
        inside += low <= 1.0 <= high
    assert 0.93 * 200 - 4 * math.sqrt(200 * 0.93 * 0.07) < inside < 200


def test_names_of_arms():
    paths = [pathlib.Path(path) for path in ("x/hard", "y/hard", "z/oracle", "soft/")]
    names = ab_test.arm_names(paths)
    assert list(names.values()) == paths
    assert list(names) == [*(str(path.absolute()) for path in paths[:3]), "soft"]


# The verb.


@pytest.fixture
def here(worked, tmp_path, monkeypatch):
    shutil.copytree(worked, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


COMMAND = "simulate --ab export --truth log.csv.truth.npz --store store --out ab --resamples 50 --days 30"


@pytest.mark.parametrize("history", rest_slow(["session", "user"], ["session"]))
def test_the_verb_tests_an_export(here, capsys, history):
    capsys.readouterr()
    cli.main([*COMMAND.split(), "--history", history])
    captured = capsys.readouterr()
    assert sorted(path.name for path in pathlib.Path("ab").iterdir()) == ["ab.json", "ab.md"]
    assert captured.out.strip() == pathlib.Path("ab/ab.md").read_text().strip()
    found = json.loads(pathlib.Path("ab/ab.json").read_text())
    assert list(found["arms"]) == ["export", "control", "draw", "oracle"]
    assert found["settings"]["history"] == history and found["listeners"] <= 60
    assert found["arms"]["oracle"]["play_share"] > found["arms"]["draw"]["play_share"]
    assert all(0 < one["gini"] < 1 and one["songs"] <= 80 for one in found["arms"].values())
    assert f"{found['sessions']:,} sessions" in captured.out and "| export |" in captured.out


def test_the_control_adds_up_cosines(worked):
    """Against dense linear algebra on the plays of the training events."""
    from jaxneg.data import stores

    simulation = simulator.reopen(worked / "log.csv.truth.npz")
    found = visit.visits(simulation, users=60, days=7)
    store = stores.Store.open(worked / "store")
    log = counting.training_log(store)
    played = np.zeros((log.users, log.items + 1))
    played[log.user_T[log.sign_T > 0], log.item_T[log.sign_T > 0]] = 1
    norm = np.sqrt((played**2).sum(0))
    cosine = played.T @ played / np.maximum(np.outer(norm, norm), 1)
    ids = store.vocabulary().ids.to_pylist()
    row = {int(name.split("_")[1]): place for place, name in enumerate(ids, start=1)}
    arm, checked = policies.control(store, simulation, found.served_V, 20, 1), 0

    def watched(now):
        nonlocal checked
        place = arm(now)
        for s in range(len(place)):
            liked = [
                row[song]
                for song, code in zip(now.item_SL[s], now.feedback_SL[s], strict=True)
                if code >= PLAY and song in row and song in now.pool_SC[s]
            ]
            score = [
                cosine[liked, row[song]].sum() if free and song in row else -1
                for song, free in zip(now.pool_SC[s].tolist(), now.open_SC[s], strict=True)
            ]
            if liked:
                assert score[place[s]] == pytest.approx(max(score), abs=1e-5)
                checked += 1
        return place

    trials.trial(simulation, found, {"control": watched})
    assert checked > 100


def refused(command, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    captured = capsys.readouterr()
    assert ended.value.code == 2 and captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("simulate")]
    assert len(lines) == 1 and lines[0].startswith("jaxneg: "), captured.err
    assert not list(pathlib.Path().glob("ab*"))
    return lines[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("log.csv.truth.npz", "none.npz", "no truth at none.npz"),
        ("log.csv.truth.npz", "log.csv", "log.csv is no truth of jaxneg simulate"),
        ("--ab export", "--ab none", "none is no export"),
        ("--ab export", "--ab store", "store is no export"),
        ("--ab export", "--ab export export/", "--ab has export twice"),
        ("--store store", "--store export", "export is no jaxneg store"),
        ("--out ab", "--out run", "--out run exists: choose a new directory"),
        ("--out ab", "--out log.csv/ab", "log.csv/ab"),
        ("--days 30", "--days 0", "--days must be at least 1, got 0"),
        ("--days 30", "--top 0", "--top must be at least 1, got 0"),
        ("--resamples 50", "--resamples 0", "--resamples must be at least 1, got 0"),
        ("--days 30", "--listeners 1 --days 1 --seed 4", "none of 1 listeners came in 1 days"),
        ("--truth log.csv.truth.npz", "", "--truth"),
    ],
)
def test_mistakes_are_told_in_one_line(here, capsys, old, new, said):
    assert said in refused(COMMAND.replace(old, new), capsys)


@pytest.mark.parametrize(
    ("what", "size"),
    [("export export is", "--items 80 --seed 1"), pytest.param("is", "--items 40", marks=pytest.mark.slow)],
)
def test_a_truth_of_another_log_is_refused(here, capsys, what, size):
    cli.main(f"simulate --out other.csv --users 60 --sessions 300 --stations 4 --artists 10 {size}".split())
    said = refused(COMMAND.replace("log.csv.truth", "other.csv.truth"), capsys)
    assert f"{what} not of the log beside --truth" in said


def test_a_truth_that_holds_no_config_or_other_listeners_is_refused(here):
    with np.load("log.csv.truth.npz") as arrays:
        values = dict(arrays)
    np.savez("old.npz", **{name: value for name, value in values.items() if name != "config"})
    with pytest.raises(UserError, match="old.npz is no truth that this version wrote"):
        simulator.reopen("old.npz")
    np.savez("moved.npz", **values | {"quality": values["quality"] + 1})
    with pytest.raises(UserError, match="moved.npz is of a version that drew other listeners"):
        simulator.reopen("moved.npz")


def test_help_of_the_test_names_its_options(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", "--ab", "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for option in ("--ab EXPORT", "--truth", "--store", "--out DIR", "--top", "--history", "as data.reach"):
        assert option in said
