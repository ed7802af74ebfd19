"""Each benchmark with --quick ends in one JSON object that has the promised keys, and claims that hold."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
KEYS = {
    "catalogue": {"ratio", "ratios", "ms_per_step"},
    "evaluation": {"seconds", "films", "million", "matmul_gflops"},
    "faults": {"kills", "sigterms", "equal", "saved_on_sigterm"},
    "faults_buckets": {"rounds", "kills", "faults", "same_as_undisturbed", "half_written_read"},
    "faults_verbs": {"held", "wrong", "seconds_undisturbed"},
    "big_data": {
        "events",
        "simulate_seconds",
        "prepare_seconds",
        "prepare_peak_gb",
        "pipeline_rows",
        "train_blocks",
    },
    "fidelity": {"people", "independent", "config"},
    "fuzz": {"mutants", "refused", "wrong", "rules", "hangs", "peak_gb"},
    "ml1m": {"sasrec", "gsasrec", "popularity"},
    "objectives": {"sets", "epochs"},
    "packing": {"ratio", "packed", "alone", "plan_s", "plan_per_s"},
    "parity": {"histories", "models"},
    "peers": {"L50", "L200", "ratio_50", "ratio_200", "ratio_evaluation", "ratio_latency"},
    "pipeline": {"sequences_per_s", "sequences_per_s_min", "sequences_per_s_max", "p_hard_0", "p_hard_1"},
    "processes": {"batches", "near", "codes", "evaluate", "export", "flipped", "goodput"},
    "readers": {"events_per_second", "rows_kept", "every_row_kept"},
    "serving": {"sizes", "query", "capacity", "twice", "swaps", "restart"},
    "simulate": {"sessions_per_s"},
    "softmax": {"seconds", "temporary_bytes", "gradient_apart", "million_items"},
    "step_budget": {"step_ms", "rest_ms", "parts", "matmul_gflops"},
    "study": {"sweeps", "claims"},
    "ten_billion": {"store", "shard", "plan"},
    "time_to_quality": {"sets", "recipe"},
    "time_to_target": {"sets", "options"},
    "two_heads": {"sets"},
    "train_step": {"positions_per_s", "L50", "L200", "matmul_gflops"},
    "warm_start": {"sets", "options"},
}
# They start processes, or train for a minute. What they hold is held without them, in little: faults by
# training/test_loop.py and test_processes.py, faults_buckets by files/test_buckets.py, faults_verbs by
# cli/test_stops.py and cli/test_streams.py, fuzz by data/test_corpus.py and cli/test_bad_input.py, study by
# sweep/test_sweep.py and test_claims.py, big_data by data/test_orders.py and data/test_prepare.py, catalogue by
# embeddings/test_tables.py, processes by training/test_digests.py and test_parting.py, evaluation/test_in_parts.py and
# serve/test_parted.py, peers and time_to_quality by test_peers.py, objectives by test_objectives.py, serving by
# serve/test_server.py and test_batching.py, ten_billion by test_ten_billion.py, time_to_target by
# sweep/test_sweep.py, two_heads by test_two_heads.py and training/test_likes.py, warm_start by
# training/test_warm_start.py.
LONG = (
    "big_data",
    "catalogue",
    "faults",
    "faults_buckets",
    "faults_verbs",
    "fuzz",
    "objectives",
    "peers",
    "processes",
    "serving",
    "study",
    "ten_billion",
    "time_to_quality",
    "time_to_target",
    "two_heads",
    "warm_start",
)
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def test_every_benchmark_is_known():
    # claims.py only reads, see test_claims.py; plan.py compiles for minutes, see test_plan.py; two need real data;
    # accelerators.py prints a line for each cell, see test_accelerators.py.
    assert set(SCRIPTS) - {"real_data", "hard_opinion", "claims", "plan", "accelerators"} == set(KEYS)


def by_itself(name):
    """The last line of a benchmark as a user would call it: from the root, without the eight devices of the tests."""
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, f"benchmarks/{name}.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def here(monkeypatch, capsys):
    """The last line of a benchmark that runs in this process."""
    cores = os.sched_getaffinity(0)

    def run(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
        monkeypatch.setenv("GLIBC_TUNABLES", os.environ.get("GLIBC_TUNABLES", ""))  # or it would start anew
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", "--quick"])
        spec.loader.exec_module(module)
        capsys.readouterr()
        module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    yield run
    for thread in os.listdir("/proc/self/task"):  # pipeline.py stays on one core
        os.sched_setaffinity(int(thread), cores)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.system) for name in sorted({*KEYS} - {"readers"})] + ["readers"],
)
def test_benchmark_prints_one_json_object(name):
    check(name, by_itself(name))


# Those that take long even so: the paths that they time are those of the tests of training and of its score function.
TIMED = {"evaluation", "ml1m", "packing", "parity", "step_budget", "train_step"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.system) if name in TIMED else name
        for name in sorted({*KEYS} - {*LONG, "readers"})
    ],
)
def test_claims_of_a_benchmark_hold(name, here):
    check(name, here(name))


def check(name, found):
    assert KEYS[name] <= found.keys()
    assert found["benchmark"] == name
    if name == "catalogue":
        assert found["ratio"] == found["ratios"]["adagrad"] > 0 and min(found["ms_per_step"].values()) > 0
    if name == "faults_buckets":
        assert found["same_as_undisturbed"] == found["rounds"] > 0 == found["half_written_read"]
    if name in ("faults_verbs", "fuzz"):
        assert found["wrong"] == []
    if name == "processes":
        same, _, taken = found["batches"].partition(" of ")
        assert (
            same == taken
            and int(taken) > found["steps"]
            and found["near"]
            and found["codes"] == [137, 143, 0]
        )
        assert (
            found["evaluate"]["differ"]
            == found["evaluate"]["ranked_differ"]
            == found["export"]["differ"]
            == 0
        )
        assert found["flipped"]["named"] and found["flipped"]["near_after"]
        assert found["flipped"]["saved"] <= found["flipped"]["step"]
    if name == "ml1m":
        # Its made-up log allows 0.71 at best; by chance the mean discount of ten places out of 175 gives 0.026.
        assert found["popularity"]["ndcg@10"] < 0.1
        assert min(found[model]["ndcg@10"] for model in ("sasrec", "gsasrec")) > 0.5
    if name == "softmax":
        million = found["million_items"]
        assert found["gradient_apart"] < 1e-5  # float32 sums in another order
        assert 0 < million["temporary_bytes"] < million["all_logits"] / 20
    if name == "train_step":
        for length, expected in (("L50", 44.0), ("L200", 107.2)):
            part = found[length]
            assert part["positions_per_sequence"] == pytest.approx(expected, abs=0.1)
            assert part["step_ms_min"] <= part["step_ms"] <= part["step_ms_max"]
            assert part["positions_per_s_min"] <= part["positions_per_s"] <= part["positions_per_s_max"]
            assert 0 < part["floor_share"] < 1
    if name == "evaluation":
        for part in (found["films"], found["films"]["seen"], found["million"]):
            assert 0 < part["seconds_min"] <= part["seconds"] <= part["seconds_max"]
            assert part["users_per_s"] > 0 and (part["peak_gb"] or 1) > 0
    if name == "packing":
        packed, alone = found["packed"], found["alone"]
        assert alone["fill"] < 0.1 and 0.98 < packed["fill"] <= 1.0
        # Three rows for 2.97: as many sequences a step, but for the rounding.
        assert 0.95 < packed["steps_per_epoch"] / alone["steps_per_epoch"] <= 1.05
        for way in (packed, alone):
            assert way["sequences_per_s_min"] <= way["sequences_per_s"] <= way["sequences_per_s_max"]
        assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"] and found["ratio"] > 3
    if name == "parity":
        for told in found["models"].values():
            assert all(0.9 < told.pop(f"recall, {dtype}") <= 1 for dtype in ("bfloat16", "int8"))
            assert all(off <= 1e-5 for off in told.values())
    if name == "serving":
        for part in ("capacity", "twice", "swaps"):
            assert found[part]["wrong"] == found[part]["lost"] == 0 and {*found[part]["answers"]} <= {
                "200",
                "503",
            }
        assert found["swaps"]["swaps"] == 2 and found["restart"]["exit_code"] == 0
        assert found["sizes"]["2000"]["exact"]["http"]["p50"] > 0
        assert all(row["off"] <= 1e-5 and row["p50"] > 0 for row in found["query"].values())
    if name == "pipeline":
        assert 0.4 < found["hard_share"] <= 0.5  # of half of the draws, less those that hit the target
        assert found["sequences_per_s_min"] <= found["sequences_per_s"] <= found["sequences_per_s_max"]
    if name == "readers":
        assert found["every_row_kept"] and found["rows_kept"] == 40_000
    if name == "big_data":
        assert 190_000 < found["events"] < 210_000 and 0 < found["prepare_peak_gb"] < 1
        for part in ("pipeline", "train"):
            for order in ("rows", "blocks"):
                assert found[f"{part}_{order}"]["sequences_per_s"] > 0
