"""Arms of the online test on simulated listeners: exported models, a control that knows no rejections, an oracle."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from jaxneg.baselines import counting
from jaxneg.batch import PAD
from jaxneg.data import stores
from jaxneg.errors import UserError
from jaxneg.serve import scorer
from jaxneg.simulation import listeners, simulator, trials

QUERIES = (512, 64)  # contexts given to a model at once; few shapes, for each is compiled

# From contexts item_SL, feedback_SL, station_SL to a function of some sessions and rows, to their scores.
Ready = Callable[[np.ndarray, np.ndarray, np.ndarray], Callable[[np.ndarray, np.ndarray], np.ndarray]]


def oracle(top: int) -> trials.Arm:
    """Chooses by the true probability of a play."""
    return lambda now: trials.among_best(now, now.logit(), top)


def by_score(
    ready: Ready,
    row_of: np.ndarray,
    station_row_of: np.ndarray,
    *,
    length: int,
    kinds: Sequence[int],
    top: int,
) -> trials.Arm:
    """Chooses by scores of contexts in rows; where a context holds nothing, the station draws.

    Args:
      ready: see ``Ready``.
      row_of: row of each song, 0 for one that is not known; it is left out of contexts and never chosen.
      station_row_of: row of each station, 0 for one that is not known.
      length: events of a context.
      kinds: codes of the feedback that stays in contexts.
      top: see ``trial.among_best``.
    """

    def choose(now: trials.Now) -> np.ndarray:
        kept_SL = (now.item_SL >= 0) & np.isin(now.feedback_SL, kinds)
        row_SL = np.where(kept_SL, row_of[now.item_SL], PAD)
        context = packed(row_SL, now.feedback_SL, station_row_of[now.at_SL], length)
        scores = ready(*context)
        score_SC = np.full(now.pool_SC.shape, -np.inf, np.float32)
        for station in np.unique(now.station_S):
            at = np.flatnonzero(now.station_S == station)
            pool = now.pool_SC[at[0]]
            row_C = row_of[pool[pool >= 0]]
            score_SC[at, : len(row_C)] = np.where(row_C > 0, scores(at, row_C), -np.inf)
        score_SC[context[0][:, 0] == PAD] = -np.inf
        return trials.among_best(now, score_SC, top)

    return choose


def packed(
    item_SL: np.ndarray, feedback_SL: np.ndarray, station_SL: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contexts as models take them: the last ``length`` real events from the left on, int32, then PAD."""
    real_SL = item_SL != PAD
    place_SL = real_SL.cumsum(1) - 1 - np.maximum(real_SL.sum(1, keepdims=True) - length, 0)
    s, l = np.nonzero(real_SL & (place_SL >= 0))
    context = np.full((3, len(item_SL), length), PAD, np.int32)
    for part, column in zip(context, (item_SL, feedback_SL, station_SL), strict=True):
        part[s, place_SL[s, l]] = column[s, l]
    return context[0], context[1], context[2]


def model(
    opened: scorer.Scorer,
    directory: pathlib.Path,
    simulation: simulator.Simulation,
    served_V: np.ndarray,
    top: int,
) -> trials.Arm:
    """Chooses by the scores of an export, whose catalogue must come of the simulation's log.

    Args:
      opened: the export.
      directory: where it is.
      simulation: that the listeners are of.
      served_V: events of each song in its log.
      top: see ``trial.among_best``.

    Raises UserError on an export of another log.
    """
    items = pq.read_table((directory / "items.parquet").absolute(), columns=["item", "count"])
    stations = pq.read_table((directory / "stations.parquet").absolute(), columns=["id"])["id"].to_pylist()
    row_of = catalogue(items["item"].to_pylist(), items["count"].to_numpy(), served_V, f"export {directory}")
    station_row_of = rows_of("station", simulation.config.stations, stations)
    item_VE = np.load(directory / "item_embeddings.npy")
    codes = opened.manifest["feedback"]
    kinds = [codes[kind] for kind in opened.manifest["inputs"] or codes]

    def ready(*context: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        query_SE = _queries(opened, context)
        return lambda at, row_C: query_SE[at] @ item_VE[row_C].T

    return by_score(ready, row_of, station_row_of, length=opened.manifest["length"], kinds=kinds, top=top)


def _queries(opened: scorer.Scorer, context: tuple[np.ndarray, ...]) -> np.ndarray:
    """Queries of any number of contexts, in blocks of the sizes of QUERIES."""
    found, begin, size = [], 0, len(context[0])
    while begin < size:
        # What is left goes in one large block, or in small ones if they hold less padding.
        block = QUERIES[0] if 2 * (size - begin) > QUERIES[0] else QUERIES[1]
        part = [column[begin : begin + block] for column in context]
        real = len(part[0])
        found.append(opened.query(*(np.pad(column, ((0, block - real), (0, 0))) for column in part))[:real])
        begin += block
    return np.concatenate(found)


def control(
    store: stores.Store, simulation: simulator.Simulation, served_V: np.ndarray, length: int, top: int
) -> trials.Arm:
    """Chooses by item-item collaborative filtering on plays: skips and thumbs down are nowhere in it.

    With n_ui = 1 if listener u played song i in the training events of the store, and n_i the number who did,

        score(j) = sum_{i played in the context} sum_u n_ui n_uj / sqrt(n_i n_j)

    over songs i of the station's pool. Songs of equal score go by how often the station plays them.

    Args:
      store: prepared from the log.
      simulation: that the listeners are of.
      served_V: events of each song in the log.
      length: events of a context.
      top: see ``trial.among_best``.

    Raises UserError on a store of another log.
    """
    vocabulary, log = store.vocabulary(), counting.training_log(store)
    row_of = catalogue(vocabulary.ids.to_pylist(), vocabulary.count, served_V, f"store {store.path}")
    play_T = log.sign_T > 0
    played_UV = sp.coo_array(
        (np.ones(play_T.sum(), np.float32), (log.user_T[play_T], log.item_T[play_T])),
        shape=(log.users, log.items + 1),
    ).tocsc()
    played_UV.sum_duplicates()
    played_UV.data[:] = 1.0
    size_V = np.maximum(played_UV.sum(axis=0), 1.0)
    played_UV = sp.csc_array(played_UV @ sp.diags_array(1 / np.sqrt(size_V)))
    cosine: dict[bytes, sp.csr_array] = {}  # of the songs of a pool

    def ready(item_SL: np.ndarray, *_: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def scores(at: np.ndarray, row_C: np.ndarray) -> np.ndarray:
            pool = row_C.tobytes()
            if pool not in cosine:
                of_pool = played_UV[:, row_C]
                cosine[pool] = sp.csr_array(of_pool.T @ of_pool)
            place_V = np.full(log.items + 1, -1)
            place_V[row_C] = np.arange(len(row_C))
            place_V[PAD] = -1
            place_BL = place_V[item_SL[at]]
            b, l = np.nonzero(place_BL >= 0)
            heard_BC = sp.coo_array((np.ones(len(b), np.float32), (b, place_BL[b, l])), (len(at), len(row_C)))
            return sp.csr_array(heard_BC @ cosine[pool]).toarray()

        return scores

    nowhere = np.zeros(simulation.config.stations, np.int32)
    kinds = np.flatnonzero(store.sign > 0).tolist()
    return by_score(ready, row_of, nowhere, length=length, kinds=kinds, top=top)


def rows_of(word: str, total: int, ids: list[str]) -> np.ndarray:
    """int32 row of each of ``total`` songs or stations, given the ids of rows 1, 2, ...; 0 for those without."""
    names = listeners.ids(word, np.arange(total), total)
    row = pc.call_function("index_in", [names], pc.SetLookupOptions(pa.array(ids, pa.string())))
    return (pc.fill_null(row, -1).to_numpy(zero_copy_only=False) + 1).astype(np.int32)


def catalogue(ids: list[str], count: np.ndarray, served_V: np.ndarray, what: str) -> np.ndarray:
    """int32 row of each song in a catalogue, 0 for songs that it lacks.

    Raises UserError where it has songs that the log has not, or more events of one than the log.
    """
    row_of = rows_of("song", len(served_V), ids)
    known = row_of > 0
    if known.sum() < len(ids) or (count[row_of[known] - 1] > served_V[known]).any():
        raise UserError(f"{what} is not of the log beside --truth: prepare that log, and train on its store")
    return row_of
