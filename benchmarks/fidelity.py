"""How near simulated listeners are to people: the facts of a log, of the simulator and of Spotify account exports.

    .venv/bin/python benchmarks/fidelity.py            # a minute or two
    .venv/bin/python benchmarks/fidelity.py --quick    # few listeners, no real log

Both logs are measured by the same lines on sessions of 10 songs or more, of which the first 20 count. The exports lie
under JAXNEG_DATA (default ../shared/data); only aggregates over all of their listeners are written. Writes
simulator.md and fidelity.json to --out and prints one JSON object as its last line.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
import real_data

from jaxneg import files, pages
from jaxneg.data import stores
from jaxneg.simulation import listeners, simulator

# As many songs for each as the exports hold on average, in a catalogue of their size and more.
LISTENERS = simulator.SimulateConfig(
    users=20, items=20_000, sessions=16_000, stations=12, stations_per_user=4, artists=2000, days=365
)
FEW = dataclasses.replace(LISTENERS, users=4, sessions=1200, items=4000, artists=400)
INDEPENDENT = {"listening": "independent", "habit": 1.6}
LAGS = (1, 5, 10)
AGAIN = 500  # songs within which one comes again
NAMES = {
    "skip_share": "skips",
    **{f"lag_{lag}": f"correlation of skips {lag} apart, listener's mean taken out" for lag in LAGS},
    "session_sd": "standard deviation of a session's skip share, listener's taken out",
    "heard_100": "heard before, of a listener's first 100 songs",
    "heard_1000": "of the first 1,000",
    "heard": "of all",
    "artist": "next song by the same artist",
    "artist_after_play": "after a play",
    "artist_after_skip": "after a skip",
    "successor": "next song is the one that most often followed the last",
    "again_after_play": f"a song played comes again within {AGAIN}",
    "again_after_skip": "a song skipped does",
}


class Log(NamedTuple):
    """Events in order of listener and time, whole numbers, an entry each."""

    user_T: np.ndarray
    session_T: np.ndarray
    item_T: np.ndarray
    artist_T: np.ndarray
    skip_T: np.ndarray  # bool


def real(work: pathlib.Path) -> Log:
    """The Spotify exports: plays under 30 seconds are skips, a session ends with a gap of 30 minutes."""
    store = stores.Store.open(real_data.prepared("spotify_history", work))
    length_S = np.diff(store.session_indptr)
    session_T = np.repeat(np.arange(store.sessions), length_S)
    item_T = np.asarray(store.item_T)
    names = [attribute["name"] for attribute in store.metadata.attributes]
    artist_T = np.asarray(store.attribute_VA)[item_T, names.index("artist")]
    sign_T = np.asarray(store.sign)[np.asarray(store.feedback_T)]
    return Log(np.asarray(store.session_user)[session_T], session_T, item_T, artist_T, sign_T < 0)


def simulated(config: listeners.SimulateConfig) -> Log:
    simulation = simulator.simulate(config)
    blocks = [simulation.block(index) for index in range(simulation.blocks)]
    events = simulator.Block(*(np.concatenate(column) for column in zip(*blocks, strict=True)))
    artist_T = simulation.truth.artist[events.item]
    return Log(events.user, events.session, events.item, artist_T, events.feedback < 4)


def trimmed(log: Log) -> Log:
    """The first 20 songs of sessions that have 10 or more."""
    _, first, session_T, length_S = np.unique(
        log.session_T, return_index=True, return_inverse=True, return_counts=True
    )
    keep_T = (length_S[session_T] >= 10) & (np.arange(len(session_T)) - first[session_T] < listeners.LONGEST)
    return Log(*(column[keep_T] for column in log))


def facts(log: Log) -> dict[str, float]:
    """Each of NAMES, as shares and correlations."""
    user_T, session_T, item_T, artist_T, skip_T = log
    _, user_T = np.unique(user_T, return_inverse=True)
    _, session_T, length_S = np.unique(session_T, return_inverse=True, return_counts=True)
    mean_U = np.bincount(user_T, skip_T) / np.bincount(user_T)
    apart_T = skip_T - mean_U[user_T]
    found = {"skip_share": float(skip_T.mean())}
    for lag in LAGS:
        both = session_T[lag:] == session_T[:-lag]
        found[f"lag_{lag}"] = float(np.corrcoef(apart_T[lag:][both], apart_T[:-lag][both])[0, 1])
    found["session_sd"] = float(np.std(np.bincount(session_T, apart_T) / length_S))
    # Places of the same listener and song, in order.
    key_T = user_T.astype(np.int64) * (int(item_T.max()) + 1) + item_T
    order = np.argsort(key_T, kind="stable")
    same = key_T[order][1:] == key_T[order][:-1]
    heard_T = np.zeros(len(key_T), bool)
    heard_T[order[1:][same]] = True
    gap_T = np.full(len(key_T), np.iinfo(np.int64).max)
    gap_T[order[:-1][same]] = np.diff(order)[same]
    place_T = np.arange(len(user_T)) - np.searchsorted(user_T, user_T)
    left_T = np.bincount(user_T)[user_T] - place_T
    for name, until in (("heard_100", 100), ("heard_1000", 1000), ("heard", len(user_T))):
        found[name] = float(heard_T[place_T < until].mean())
    next_ = session_T[1:] == session_T[:-1]
    by_artist = artist_T[1:] == artist_T[:-1]
    skipped = skip_T[:-1]
    found["artist"] = float(by_artist[next_].mean())
    for name, of in (("play", ~skipped), ("skip", skipped)):
        found[f"artist_after_{name}"] = float(by_artist[next_ & of].mean())
    found["successor"] = successor(key_T, next_)
    for name, of in (("play", ~skip_T), ("skip", skip_T)):
        known = of & (left_T > AGAIN)
        found[f"again_after_{name}"] = float((gap_T[known] <= AGAIN).mean()) if known.any() else float("nan")
    return found


def successor(key_T: np.ndarray, next_: np.ndarray) -> float:
    """Share of steps in which the next song is the one that had most often followed the last, for this listener."""
    counts: dict[int, dict[int, int]] = {}
    best: dict[int, int] = {}
    hits = 0
    steps = np.flatnonzero(next_)
    for last, song in zip(key_T[steps].tolist(), key_T[steps + 1].tolist(), strict=True):
        hits += best.get(last) == song
        of = counts.setdefault(last, {})
        of[song] = of.get(song, 0) + 1
        if last not in best or of[song] > of[best[last]]:
            best[last] = song
    return hits / len(steps)


def markdown(found: dict) -> str:
    columns = {"real": "people", "people": "simulated", "independent": "`--listening independent`"}
    rows = [[name, *(f"{found[column][key]:.3f}" for column in columns)] for key, name in NAMES.items()]
    config = found["config"]
    parts = [
        "# Simulated listeners beside people",
        "`.venv/bin/python benchmarks/fidelity.py`: facts of sessions, by the same lines on both logs. People are "
        f"{found['listeners']} who gave out their Spotify exports ({found['songs']:,} songs in sessions of 10 up, "
        "the first 20 of each; plays under 30 seconds are skips). Simulated are "
        f"{config['users']} listeners with {config['sessions']:,} sessions on {config['items']:,} songs, as `jaxneg "
        "simulate` makes them, and as `--listening independent` does, where each song is drawn by itself.",
        pages.table(["fact", *columns.values()], rows),
        "The share of skips is that of Spotify's sessions set (MSSD), 0.517, on purpose. Five people are few: they say "
        "which dynamics there are, and not how much they differ among people.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few listeners, no real log")
    parser.add_argument("--out", type=pathlib.Path, default=real_data.ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    config = FEW if args.quick else LISTENERS
    found = {"benchmark": "fidelity", "config": dataclasses.asdict(config)}
    for name, changes in (("people", {}), ("independent", INDEPENDENT)):
        found[name] = facts(trimmed(simulated(dataclasses.replace(config, **changes))))
    if not args.quick:
        with tempfile.TemporaryDirectory(prefix="jaxneg-") as work:
            log = trimmed(real(pathlib.Path(work)))
        found |= {"listeners": len(np.unique(log.user_T)), "songs": len(log.user_T), "real": facts(log)}
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_text(args.out / "simulator.md", markdown(found))
        files.write_json(args.out / "fidelity.json", found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
