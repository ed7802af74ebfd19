"""What training on a catalogue of 100 million songs would take on TPU slices, by their compiler: nothing runs.

    .venv/bin/python benchmarks/plan.py [--slices v5e:4x4 v5e:16x16]

Needs pip install 'jaxneg[tpu]', 3 GB of memory and one to two minutes of a core a row. Plans configs/plan_100m.py, 64
sequences a chip, its rows spread over all chips, and the same with 256 negatives for every position. Rows replace
their like in benchmarks/results/plan.json; plan.md beside it is made of all of them. Prints one JSON object with the
ratios of v5e:16x16 to v5e:4x4.
"""

import argparse
import importlib.metadata
import json
import pathlib
from typing import Any

from jaxneg import config as configs, progress
from jaxneg.plan import estimate, tpu
from jaxneg.training import program

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SLICES = ("v4:4x4x4", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:4x4x4", "v6e:4x4", "v6e:16x16", "tpu7x:4x4x4")
PER_CHIP, SEQUENCES = 64, 100_000_000
CATALOGUE = program.Catalogue(items=99_999_999, stations=1000, attributes=())
NEGATIVES = {
    "256 negatives shared by the batch": [],
    "256 negatives of each position's own": [
        "--data.negatives",
        "256",
        "--data.p-hard",
        "0",
        "--data.shared-negatives",
        "0",
        "--loss.log-q",
        "none",
    ],
}
SMALL, LARGE = "v5e:4x4", "v5e:16x16"
COLUMNS = (
    "slice",
    "chips",
    "memory a device, GiB",
    "tables",
    "optimiser",
    "temporaries",
    "sent a chip, MiB",
    "compiler, ms",
    "links, ms",
    "step, ms",
    "sequences/s",
    "hours",
    "chip-hours",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", nargs="+", default=SLICES, metavar="NAME")
    asked = parser.parse_args()
    path = RESULTS / "plan.json"
    rows: dict[str, dict[str, Any]] = {}
    for title, options in NEGATIVES.items():
        for name in asked.slices:
            found = planned(name, options)
            # now: another process may have added rows
            rows = json.loads(path.read_text()) if path.is_file() else {}
            rows.setdefault(title, {})[name] = found
            path.write_text(json.dumps(rows, indent=1) + "\n")
            (RESULTS / "plan.md").write_text(markdown(rows))
    print(json.dumps({title: ratios(plans) for title, plans in rows.items()}))


def planned(name: str, options: list[str]) -> dict[str, Any]:
    """The plan of one slice."""
    where = tpu.tpu(name)
    config = configs.load(ROOT / "configs" / "plan_100m.py")
    config = configs.override(config, [*options, "--train.shards", str(len(where.devices))])
    config = estimate.per_chip(config, where, PER_CHIP)
    found = estimate.plan(config, CATALOGUE, where, epoch=estimate.Epoch(SEQUENCES), say=progress.say)
    del found["note"]
    return found | {"versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}}


def ratios(plans: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Figures of 256 chips over those of 16, rows and sequences a chip being the same."""
    if not all("step_seconds" in plans.get(name, {}) for name in (SMALL, LARGE)):
        return {}
    figures = ("compiler_seconds", "step_seconds", "collective_bytes_per_chip")
    return {name: round(plans[LARGE][name] / plans[SMALL][name], 3) for name in figures}


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# What 100 million songs take on TPUs that are not here",
        "",
        "`.venv/bin/python benchmarks/plan.py`: [configs/plan_100m.py](../../configs/plan_100m.py), 100 million rows "
        f"of 128 numbers spread over all chips, {PER_CHIP} sequences of 200 events on each chip, an epoch of "
        f"{SEQUENCES:,} sequences. One slice alone is `jaxneg plan configs/plan_100m.py --items {CATALOGUE.items} "
        f"--stations {CATALOGUE.stations} --topology {LARGE} --per-chip {PER_CHIP}`.",
        "",
        f"**Estimates.** {estimate.NOTE} Sent are bytes that a chip must send in rings (jaxneg/plan/hlo.py); links "
        "take these at their published speed, and what goes from all to all crosses the middle of the slice "
        "(jaxneg/plan/tpu.py). The rounds of a lookup are a loop whose turns the compiler does not know: one is "
        "counted, and one is the rule. Binary searches, loops of a few turns, count once in the time.",
    ]
    for title, plans in rows.items():
        table = [
            row(plans[name]) for name in sorted(plans, key=lambda name: (name[:3], plans[name]["chips"]))
        ]
        versions = sorted({f"{k} {v}" for found in plans.values() for k, v in found["versions"].items()})
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| " + " | ".join(COLUMNS) + " |"]
        lines += ["|" + " --- |" + " ---: |" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(cells) + " |" for cells in table]
        lines += ["", f"Compiled with {', '.join(versions)}."]
        if ratio := ratios(plans):
            lines += [
                "",
                f"{LARGE} over {SMALL}, with the same rows and sequences a chip: compiler's estimate "
                f"{ratio['compiler_seconds']:.2f}, step with links {ratio['step_seconds']:.2f}, bytes sent a chip "
                f"{ratio['collective_bytes_per_chip']:.2f}.",
            ]
    return "\n".join(lines) + "\n"


def row(found: dict[str, Any]) -> list[str]:
    memory = found["memory"]
    gib = {
        name: f"{memory.get(name, 0) / tpu.GIB:.2f}"
        for name in ("item tables", "optimiser state", "temporaries")
    }
    fits = "of" if found["fits"] else "**too much for**"
    used, room = (found[name] / tpu.GIB for name in ("used_bytes", "available_bytes"))
    cells = [found["topology"], str(found["chips"]), f"{used:.2f} {fits} {room:.2f}", *gib.values()]
    if "step_seconds" not in found:
        return cells + ["–"] * (len(COLUMNS) - len(cells))
    times = (1e3 * found[name] for name in ("compiler_seconds", "link_seconds", "step_seconds"))
    epoch = found["epoch"]
    return [
        *cells,
        f"{found['collective_bytes_per_chip'] / (1 << 20):,.0f}",
        *(f"{each:.1f}" for each in times),
        f"{found['sequences_per_s']:,.0f}",
        f"{epoch['hours']:.2f}",
        f"{epoch['chip_hours']:.1f}",
    ]


if __name__ == "__main__":
    main()
