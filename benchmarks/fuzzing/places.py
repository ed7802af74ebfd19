"""What is damaged and which verbs look at it: a store, a sharded one, runs, exports, logs and configs, all small."""

# Lists of odd values read better in long lines.
# ruff: noqa: E501

import csv
import gzip
import hashlib
import json
import pathlib
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fuzzing import configs, damage, documents, logs

CONFIG = """from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig


def get_config():
    return Config(
        data=DataConfig(store="{store}", length=8, batch_size=32, p_hard=0.5, {data}),
        model=ModelConfig(width=8, layers=1, encoder="{encoder}"),
        optim=OptimConfig(learning_rate=0.03, warmup_steps=0),
        train=TrainConfig(epochs=1, patience=0, devices=1, log_every=1, monitor="auc"),
        eval=EvalConfig(batch_size=64, bootstrap=20, ks=(10,)),
    )
"""
CONFIGS = {"config.py": ("store", "sasrec", ""), "masked.py": ("shards", "bert4rec", "mask=0.3")}
LISTENERS = "--users 40 --items 60 --sessions 160 --stations 3 --artists 7"
TABLE = "--attributes artist"
SETUP = (
    f"simulate --out log.csv {LISTENERS} --seed 1",
    f"simulate --out other.csv {LISTENERS} --seed 2",
    f"prepare table log.csv --out store {TABLE}",
    f"prepare table other.csv --out other {TABLE}",
    f"prepare table log.csv --out shards {TABLE} --shard-events 700",
    "train config.py --workdir run",
    "train config.py --workdir second --train.seed 1",
    "train masked.py --workdir masked",
    "export run --out export",
    "export second --out another",
    "export masked --out masked_export",
)
HISTORY = "--items song_3 song_11 song_40 --feedback thumb_up skip play --station station_1 --json"
TIMES = re.compile(
    r"seconds|_s$|per_s|second$|prepared|created|written|time$|time_spent|goodput|device|host|seal|sha256$|source$|"
    r"settings$"
)


class Verb(NamedTuple):
    """A call, what it needs that is linked or, where it writes there, copied, and what it leaves."""

    call: str
    links: tuple[str, ...]
    outcome: Callable[[pathlib.Path, str], Any]  # (directory, standard output) -> what two calls must share
    makes: str = ""  # must not be there where the call fails


class Target(NamedTuple):
    """What is damaged: a file, or a file of a directory."""

    name: str
    share: int  # of the mutants
    # -> what was done, was the checksum mended
    damage: Callable[[random.Random, pathlib.Path], tuple[str, bool]]
    verbs: tuple[str, ...]  # one of them is called


def timeless(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: timeless(v) for k, v in values.items() if not TIMES.search(k)}
    return [timeless(v) for v in values] if isinstance(values, list) else values


def _printed(directory: pathlib.Path, out: str) -> Any:
    return timeless(json.loads(out))


def _trained(name: str) -> Callable[[pathlib.Path, str], Any]:
    def outcome(directory: pathlib.Path, out: str) -> Any:
        run = directory / name
        # Lines of an earlier part of a run have no checksum, and nothing that is decided depends on them.
        lines = (run / "metrics.jsonl").read_text().splitlines() if name == "new" else []
        told = [json.loads(line) for line in lines]
        saved = [
            json.loads((run / file).read_text()) for file in ("result.json", "config.json", "store.json")
        ]
        return timeless([*saved, *told])

    return outcome


def _exported(directory: pathlib.Path, out: str) -> Any:
    """The model itself names the lines of code that made it, of this benchmark too."""
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((directory / "new").iterdir())
        if path.name not in ("manifest.json", "model.stablehlo")
    }
    return {**timeless(json.loads((directory / "new/manifest.json").read_text())), "files": sums}


def _prepared(directory: pathlib.Path, out: str) -> Any:
    return timeless(json.loads((directory / "new/metadata.json").read_text()))


BOTH = ("store", "shards")
VERBS = {
    **{f"inspect {store}": Verb(f"inspect {store} --json --verify", (store,), _printed) for store in BOTH},
    "train store": Verb("train config.py --workdir new", ("config.py", "store"), _trained("new")),
    "train shards": Verb("train masked.py --workdir new", ("masked.py", "shards"), _trained("new")),
    "continue run": Verb("train config.py --workdir run", ("config.py", "store", "run"), _trained("run")),
    "more of run": Verb(
        "train config.py --workdir run --train.epochs 2", ("config.py", "store", "run"), _trained("run")
    ),
    **{
        f"evaluate {run}": Verb(f"evaluate {run} --json", (*BOTH, run), _printed) for run in ("run", "masked")
    },
    **{
        f"export {run}": Verb(f"export {run} --out new", (*BOTH, run), _exported, "new")
        for run in ("run", "masked")
    },
    **{
        f"recommend {one}": Verb(f"recommend {one} {HISTORY}", (one,), _printed)
        for one in ("export", "masked_export")
    },
}
LOGS = {
    "log.csv": f"table {{}} {TABLE}",
    "quoted.csv": f"table {{}} {TABLE}",
    "log.jsonl": f"table {{}} {TABLE}",
    "log.parquet": f"table {{}} {TABLE}",
    "log.csv.gz": f"table {{}} {TABLE}",
    "log.zip": f"table {{}} {TABLE}",
    "log.inter": "recbole {}",
}
for _log, _call in LOGS.items():
    VERBS[f"prepare {_log}"] = Verb(f"prepare {_call.format(_log)} --out new", (_log,), _prepared, "new")


def setup(base: pathlib.Path, call: Callable[[pathlib.Path, str], None]) -> None:
    """Makes all that is damaged later; ``call`` runs a verb in a directory and raises where it fails."""
    for name, (store, encoder, data) in CONFIGS.items():
        (base / name).write_text(CONFIG.format(store=store, encoder=encoder, data=data))
    for verb in SETUP:
        call(base, verb)


def write_logs(base: pathlib.Path) -> None:
    """The log in the other forms that are damaged."""
    with open(base / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["item"] = f'{row["item"]}, "live" \u00e9' if row["item"].endswith(("3", "7")) else row["item"]
    with open(base / "quoted.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (base / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.csv.read_csv(base / "log.csv"), base / "log.parquet")
    text = (base / "log.csv").read_bytes()
    (base / "log.csv.gz").write_bytes(gzip.compress(text, mtime=0))
    with zipfile.ZipFile(base / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", text)
    stars = {"play": 4, "skip": 2, "thumb_up": 5, "thumb_down": 1}
    lines = [f"{r['user']}\t{r['item']}\t{stars.get(r['feedback'], 3)}\t{r['time']}\n" for r in rows]
    (base / "log.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(lines)
    )


def _store(other: str) -> Callable[[random.Random, pathlib.Path], tuple[str, bool]]:
    def change(rng: random.Random, store: pathlib.Path) -> tuple[str, bool]:
        names = sorted(path.name for path in store.iterdir())
        name = "metadata.json" if rng.random() < 0.3 else rng.choice(names)
        path, mend = store / name, rng.random() < 0.4
        beside = store.parent / other / name
        if name == "metadata.json" and rng.random() < 0.85:
            return f"{name}: {documents.document(rng, path, mend)}", mend
        if rng.random() < 0.08 and beside.exists():
            done = damage.swapped(path, beside)
        else:
            own = (
                damage.ARRAYS
                if path.suffix == ".npy"
                else (damage.table,)
                if path.suffix == ".parquet"
                else ()
            )
            done = rng.choice(own if own and rng.random() < 0.6 else damage.BYTES)(rng, path)
        if mend:
            documents.mended(store)
        return f"{name}: {done}", mend

    return change


def _export(rng: random.Random, export: pathlib.Path) -> tuple[str, bool]:
    names = sorted(path.name for path in export.iterdir())
    name = "manifest.json" if rng.random() < 0.35 else rng.choice(names)
    path, mend = export / name, rng.random() < 0.5
    beside = export.parent / "another" / name
    if name == "manifest.json" and rng.random() < 0.85:
        return f"{name}: {documents.document(rng, path, mend)}", mend
    if rng.random() < 0.08 and beside.exists():
        done = damage.swapped(path, beside)
    elif name.endswith(".safetensors") and rng.random() < 0.5:
        done = _tensors(rng, path)
    else:
        own = damage.ARRAYS if path.suffix == ".npy" else (damage.table,) if path.suffix == ".parquet" else ()
        done = rng.choice(own if own and rng.random() < 0.6 else damage.BYTES)(rng, path)
    if mend:
        documents.mended(export)
    return f"{name}: {done}", mend


def _tensors(rng: random.Random, path: pathlib.Path) -> str:
    """Another header of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    values, raw, done = documents.changed(rng, json.loads(data[8 : 8 + size]))
    text = json.dumps(values).replace(json.dumps(documents.RAW), raw).encode()
    length = rng.choice((len(text), len(text), len(text), 0, 2**62, 2**64 - 1, len(text) + 1))
    path.write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])
    return done


def _run(rng: random.Random, run: pathlib.Path) -> tuple[str, bool]:
    best = run / "checkpoints" / str(json.loads((run / "result.json").read_text())["best_step"])
    own = [run / name for name in ("result.json", "config.json", "store.json")]
    if rng.random() < 0.5:
        path, mend = rng.choice(own), rng.random() < 0.5
        if rng.random() < 0.85:
            return f"{path.name}: {documents.document(rng, path, mend)}", mend
        return f"{path.name}: {rng.choice(damage.BYTES)(rng, path)}", False
    if rng.random() < 0.1:
        path = run / "metrics.jsonl"
        return f"{path.name}: {documents.lines(rng, path)}", False
    path = rng.choice(
        sorted(p for p in (best if rng.random() < 0.9 else run / "checkpoints").rglob("*") if p.is_file())
    )
    told = str(path.relative_to(run))
    if rng.random() < 0.4:
        try:
            json.loads(path.read_text())
            mend = path.parent.name == "progress" and rng.random() < 0.5
            return f"{told}: {documents.document(rng, path, mend)}", mend
        except ValueError:
            pass
    return f"{told}: {rng.choice(damage.BYTES)(rng, path)}", False


def _log(rng: random.Random, path: pathlib.Path) -> tuple[str, bool]:
    return logs.log(rng, path), False


def _config(rng: random.Random, path: pathlib.Path) -> tuple[str, bool]:
    return configs.config(rng, path), False


TARGETS = (
    Target(
        "store",
        22,
        _store("other"),
        ("inspect store", "inspect store", "train store", "evaluate run", "export run"),
    ),
    Target(
        "shards", 10, _store("other"), ("inspect shards", "inspect shards", "train shards", "export masked")
    ),
    Target("run", 13, _run, ("export run", "export run", "continue run", "more of run", "evaluate run")),
    Target("masked", 4, _run, ("export masked", "evaluate masked")),
    Target("export", 14, _export, ("recommend export",)),
    Target("masked_export", 5, _export, ("recommend masked_export",)),
    *(Target(name, 3, _log, (f"prepare {name}",)) for name in LOGS),
    Target("config.py", 11, _config, ("train store",)),
)


def lay(base: pathlib.Path, place: pathlib.Path, verb: Verb, target: str) -> None:
    """A directory for one call: what is damaged or written to is copied, all else linked."""
    place.mkdir(parents=True)
    written = verb.call.split()[1:4] if verb.call.startswith(("evaluate", "train")) else ()
    for name in {*verb.links, target or verb.links[0]}:
        if name in (target, *written):
            copy: Callable[..., Any] = shutil.copytree if (base / name).is_dir() else shutil.copyfile
            copy(base / name, place / name)
        else:
            (place / name).symlink_to(base / name)
