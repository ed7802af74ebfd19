"""An online test on simulated listeners: models choose songs for a week, beside a control; ab.md and ab.json.

    models      exports
    control     item-item collaborative filtering on the plays of the training log: no skips, no thumbs down
    draw        the station's own, by popularity: the bound from below
    oracle      the true probability of a play: the bound from above

Every arm but draw takes one of the ``top`` best songs of the station's pool at random, as radio does: the best one
each time would repeat itself, and so the scale of scores does not matter. The first song of a session is the station's
in all arms and does not count.

Reference: the online test of Mei, Bembom and Ehmann, Hard Negative Sampling for Music Recommendation, MuRS 2024.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from jaxneg import files, metrics, pages, progress
from jaxneg.batch import CODE
from jaxneg.config.fields import Bounds, Positive, Seed, settled
from jaxneg.data import stores
from jaxneg.errors import UserError
from jaxneg.files import addresses, locks
from jaxneg.serve import scorer
from jaxneg.simulation import policies as arms_, simulator, trials, visits as visit
from jaxneg.simulation.listeners import LONGEST

CONTROL = "control"
OWN = (CONTROL, "draw", "oracle")  # arms that are always there
FIGURES = ("plays", "play_share", "thumbs_up", "thumb_up_rate", "gini")  # that have intervals
RESAMPLED = 100  # resamples at once
TAILS = (0.025, 0.975)  # ends of the intervals


@dataclass(frozen=True)
class ABConfig:
    listeners: Positive = 10_000  # listeners drawn for the test; all if there are no more
    days: Annotated[int, Bounds(1, 36_500)] = 7  # days after the log; listeners come as often as in the log
    top: Positive = 10  # an arm plays one of its this many best songs, each alike
    history: Literal["session", "user"] = "session"  # what arms see, as data.reach in training
    resamples: Annotated[int, Bounds(1, 10_000_000)] = 1000  # bootstrap resamples of the listeners
    seed: Seed = 0  # of visits, coins and choices


def check(config: ABConfig) -> ABConfig:
    """The config itself, once its values make sense. Raises UserError naming the field otherwise."""
    return settled(config, ABConfig)


def ab(
    exports: Sequence[pathlib.Path],
    truth: pathlib.Path,
    store: pathlib.Path,
    out: pathlib.Path,
    config: ABConfig,
    on_progress: progress.OnProgress = progress.silent,
) -> dict[str, Any]:
    """Runs the test, writes ab.md and ab.json to a directory that must not exist yet, returns what ab.json holds.

    Args:
      exports: directories of exported models.
      truth: FILE.truth.npz of jaxneg simulate.
      store: prepared from FILE; the control is fitted to its training events.
      out: written whole or not at all.
      config: how long the test lasts, and how arms choose.
      on_progress: told of each stage.

    Raises UserError where one of them is missing, damaged, or not of the same log.
    """
    config = check(config)
    with (
        addresses.written(out, "--out", "ab.json") as target,
        locks.new_directory(target, f"--out {out}") as partial,
    ):
        values = _run(exports, truth, store, config, on_progress)
        files.write_json(partial / "ab.json", values)
        files.write_text(partial / "ab.md", markdown(values))
    return values


def _run(
    exports: Sequence[pathlib.Path],
    truth: pathlib.Path,
    store: pathlib.Path,
    config: ABConfig,
    on_progress: progress.OnProgress,
) -> dict[str, Any]:
    """What ab.json holds."""
    names = arm_names(exports)
    opened = {name: scorer.Scorer.open(path) for name, path in names.items()}
    simulation, prepared = simulator.reopen(truth), stores.Store.open(store)
    history = max(one.manifest["length"] for one in opened.values()) if config.history == "user" else 0
    on_progress(0, 1, stage="the log so far")
    visits = visit.visits(
        simulation, users=config.listeners, days=config.days, history=history, seed=config.seed
    )
    arms = {
        name: arms_.model(one, names[name], simulation, visits.served_V, config.top)
        for name, one in opened.items()
    }
    on_progress(0, 1, stage="fitting the control")
    length = max(history, LONGEST)
    control = arms_.control(prepared, simulation, visits.served_V, length, config.top)
    arms |= dict(zip(OWN, (control, trials.drawn, arms_.oracle(config.top)), strict=True))
    heard = trials.trial(simulation, visits, arms, seed=config.seed, on_progress=on_progress)
    on_progress(0, 1, stage="intervals")
    return {
        "settings": dataclasses.asdict(config),
        "listeners": len(visits.user_U),
        "sessions": len(visits.listener_S),
        "songs": int((visits.length_S - 1).sum()),
        "arms": compare(heard, visits.listener_S, simulation.config.items, config.resamples, config.seed),
    }


def arm_names(exports: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The exports by name; by whole path where two have the same name, or that of another arm."""
    paths = [path.absolute() for path in exports]
    if twice := [str(path) for path in exports if paths.count(path.absolute()) > 1]:
        raise UserError(f"--ab has {twice[0]} twice: give each export once")
    taken = [*OWN, *(path.name for path in paths)]
    names = [path.name if taken.count(path.name) == 1 else str(path) for path in paths]
    return dict(zip(names, exports, strict=True))


class Sums(NamedTuple):
    """What an arm did, by listener. U listeners, V songs."""

    count_U4: np.ndarray  # float64: songs, plays, thumbs up, thumbs
    shown_UV: sp.csr_array  # float64, how often each song was chosen


def sums(heard: trials.Heard, listener_S: np.ndarray, items: int) -> Sums:
    """Counts by listener of what an arm chose; the first song of a session is not among them."""
    item_SL, feedback_SL = heard.item_SL[:, 1:], heard.feedback_SL[:, 1:]
    s, l = np.nonzero(item_SL >= 0)
    code, listener, users = feedback_SL[s, l], listener_S[s], int(listener_S.max(initial=-1)) + 1
    up, down = code == CODE["thumb_up"], code == CODE["thumb_down"]
    marks = (np.ones(len(s)), up | (code == CODE["play"]), up, up | down)
    count_U4 = np.stack([np.bincount(listener, mark, minlength=users) for mark in marks], axis=1)
    shown = sp.coo_array((np.ones(len(s)), (listener, item_SL[s, l])), shape=(users, items)).tocsr()
    return Sums(count_U4, shown)


def figures(found: Sums, weight_RU: np.ndarray) -> dict[str, np.ndarray]:
    """Each of FIGURES with every listener counted as often as a row of weights says, float64 [R].

    plays           songs played and not skipped, per listener
    play_share      the same per song
    thumbs_up       thumbs up, per listener
    thumb_up_rate   thumbs up per thumb; NaN without thumbs
    gini            of exposure over all songs
    """
    total_R4 = weight_RU @ found.count_U4
    songs, plays, ups, thumbs = total_R4.T
    gini = [
        metrics.gini(shown_V)
        for begin in range(0, len(weight_RU), RESAMPLED)
        for shown_V in weight_RU[begin : begin + RESAMPLED] @ found.shown_UV
    ]
    return {
        "plays": _ratio(plays, weight_RU.sum(1)),
        "play_share": _ratio(plays, songs),
        "thumbs_up": _ratio(ups, weight_RU.sum(1)),
        "thumb_up_rate": _ratio(ups, thumbs),
        "gini": np.array(gini),
    }


def _ratio(above_R: np.ndarray, below_R: np.ndarray) -> np.ndarray:
    """Quotients, NaN where below is 0."""
    return np.divide(above_R, below_R, out=np.full(len(above_R), np.nan), where=below_R > 0)


def compare(
    heard: Mapping[str, trials.Heard], listener_S: np.ndarray, items: int, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Figures of each arm, and their changes against the control, with 95% bootstrap intervals over listeners.

    All arms are resampled alike, so changes are paired. For each of FIGURES an arm has

        NAME                its figure
        difference_NAME     the figure less the control's
        relative_NAME       that in percent of the control's

    each with _low and _high, and p_NAME: twice the share of resamples in which the change has the other sign, or is 0,
    counting one more of them. ``songs`` counts the different songs that were chosen. None stands for what is not
    known, such as thumbs where there are none.
    """
    users = int(listener_S.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    weight_RU = np.stack(
        [
            np.ones(users),
            *(np.bincount(rng.integers(users, size=users), minlength=users) for _ in range(resamples)),
        ]
    ).astype(np.float64)
    totals = {name: sums(one, listener_S, items) for name, one in heard.items()}
    found_R = {name: figures(one, weight_RU) for name, one in totals.items()}
    result = {}
    for name, one in found_R.items():
        values: dict[str, Any] = {}
        for figure in FIGURES:
            ours, control = one[figure], found_R[CONTROL][figure]
            values |= _with_ends(figure, ours)
            values |= _with_ends(f"difference_{figure}", ours - control)
            relative = 100 * _ratio(ours - control, control)
            values |= _with_ends(f"relative_{figure}", relative)
            values[f"p_{figure}"] = p_value(relative[1:])
        shown = int((totals[name].shown_UV.sum(axis=0) > 0).sum())
        values["songs"] = shown
        result[name] = values
    for values in result.values():
        values["relative_songs"] = 100 * (values["songs"] / result[CONTROL]["songs"] - 1)
    return result


def _with_ends(name: str, value_R: np.ndarray) -> dict[str, float | None]:
    ends = (value_R[0], *interval(value_R[0], value_R[1:]))
    return {
        f"{name}{end}": float(value) if np.isfinite(value) else None
        for end, value in zip(("", "_low", "_high"), ends, strict=True)
    }


def interval(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """95% interval of a figure: quantiles of the resampled ones, moved so that their mean is the figure.

    The move is for the Gini coefficient: with some listeners doubled and others gone, exposure is less even than it
    was. For means it is next to nothing. NaN, NaN where no resample has a value.
    """
    resampled = resampled[~np.isnan(resampled)]
    if not resampled.size:
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, TAILS) - resampled.mean() + value
    return float(low), float(high)


def p_value(change: np.ndarray) -> float | None:
    """Two-sided p of no change, from resampled changes; None where there are none."""
    change = change[~np.isnan(change)]
    other = min((change <= 0).sum(), (change >= 0).sum())
    return min(1.0, float(2 * (other + 1) / (len(change) + 1))) if len(change) else None


def markdown(values: Mapping[str, Any]) -> str:
    """The report of a test."""
    arms, settings = values["arms"], values["settings"]
    models = [name for name in arms if name not in OWN]
    songs, top = f"{values['songs']:,} songs", settings["top"]
    parts = [
        "# Online test on simulated listeners",
        f"{values['listeners']:,} listeners came in {settings['days']} days for {values['sessions']:,} sessions. Each "
        f"arm chose {songs} for them. " + " ".join(_verdict(name, arms[name]) for name in models),
        _table(arms),
        "Brackets hold 95% bootstrap intervals over listeners, and changes are paired: the same listeners, sessions, "
        "moods and coins in every arm. A play is a song that was not skipped; thumb-up rate is thumbs up per thumb. "
        "Gini is of exposure over the whole catalogue: lower is more diverse.",
        f"Every arm but draw plays one of its {top} best songs of the station's pool, each alike, and none twice in "
        "a session. The first song of a session is the station's own and does not count. Draw goes by the "
        "station's shares, and oracle by the true probability of a play, which no model can know.",
        "What is heard depends on what was said: a song with a thumb down does not come again on its station, in any "
        "arm (but with --listening independent), and a song wears off each time it is heard.",
        f"Control is item-item collaborative filtering on plays alone, without negative feedback. "
        f"It and the models see {_seen(settings['history'])}.",
    ]
    return "\n\n".join(parts) + "\n"


def _seen(history: str) -> str:
    return "the session so far" if history == "session" else "earlier sessions of the listener too"


def _verdict(name: str, one: Mapping[str, Any]) -> str:
    """Which way each figure went, where its interval says so."""
    parts = [
        f"{_way(one, 'plays', 'more', 'fewer')} plays {_change(one, 'plays')}",
        f"{_way(one, 'thumbs_up', 'more', 'fewer')} thumbs up {_change(one, 'thumbs_up')}",
        f"{_way(one, 'thumb_up_rate', 'a higher', 'a lower')} thumb-up rate {_change(one, 'thumb_up_rate')}",
        f"{_way(one, 'gini', 'less even', 'more even')} exposure, Gini {_change(one, 'gini')}",
    ]
    return f"Against the control, **{name}** has {', '.join(parts)}."


def _way(one: Mapping[str, Any], figure: str, above: str, below: str) -> str:
    low, high = one[f"relative_{figure}_low"], one[f"relative_{figure}_high"]
    if low is None or low <= 0 <= high:
        return "no clear change of"
    return above if low > 0 else below


def _table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    head = [
        "arm",
        "plays per listener",
        "share played",
        "change",
        "thumbs up per listener",
        "change",
        "thumb-up rate",
        "change",
        "Gini",
        "change",
        "different songs",
        "change",
    ]
    rows = [
        [
            name,
            f"{one['plays']:.2f}",
            *(
                text
                for figure in FIGURES[1:]
                for text in (_number(one[figure]), "" if name == CONTROL else _change(one, figure, p=False))
            ),
            f"{one['songs']:,}",
            "" if name == CONTROL else f"{one['relative_songs']:+.1f}%",
        ]
        for name, one in arms.items()
    ]
    return pages.table(head, rows)


def _change(one: Mapping[str, Any], figure: str, p: bool = True) -> str:
    """A relative change with its interval, "+2.40% [+1.90%, +2.91%], p = 0.002"."""
    value, low, high = (one[f"relative_{figure}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None:
        return "unknown"
    known = one[f"p_{figure}"]
    return f"{value:+.2f}% [{low:+.2f}%, {high:+.2f}%]" + (f" (p = {known:.3g})" if p else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
