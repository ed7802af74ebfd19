"""Sessions simulated and written to parquet per second, on one process. Prints one JSON line."""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

from jaxneg.simulation import simulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 thousand sessions in place of 100 thousand")
    quick = parser.parse_args().quick
    config = simulator.PRESETS["study"]
    if quick:
        config = dataclasses.replace(config, sessions=20_000)
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "log.parquet"
        began = time.perf_counter()
        simulator.write(simulator.simulate(config), out)
        seconds = time.perf_counter() - began
        megabytes = out.stat().st_size / 1e6
    result = {
        "benchmark": "simulate",
        "sessions": config.sessions,
        "items": config.items,
        "users": config.users,
        "seconds": round(seconds, 2),
        "sessions_per_s": round(config.sessions / seconds),
        "parquet_mb": round(megabytes, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
