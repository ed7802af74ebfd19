"""Who is told what of a run, and what a failure does; loggers with stand-ins, and with their packages if here."""

import importlib.machinery
import importlib.util
import sys
import types

import pytest

import jaxneg
from jaxneg import callbacks
from jaxneg.errors import UserError

LINES = [
    (5, {"epoch": 0.5, "loss": 1.5, "hard_share": None}),
    (10, {"epoch": 1.0, "validation_auc": 0.625, "validation_ndcg@10": 0.25, "validation_pairs": 7}),
]
RESULT = {"best_score": 0.625, "best_step": 10, "stopped": "epochs done", "history": []}


class Seen:
    def __init__(self):
        self.told = []

    def on_start(self, start):
        self.told.append(("start", start.step))

    def on_validation(self, step, figures):
        self.told.append((step, dict(figures)))

    def on_end(self, result):
        self.told.append(("end", result))


@pytest.fixture
def start(tmp_path):
    return callbacks.Start(tmp_path, {"data": {"p_hard": 0.5, "inputs": ()}}, 0)


def told(start, *some, result=RESULT):
    each = callbacks.Callbacks(some)
    with each.around():
        each.start(start)
        for step, values in LINES:
            each.line(step, values)
        if result is None:
            raise KeyboardInterrupt
        each.end(result)


def test_objects_get_figures_and_functions_the_lines(start):
    seen, lines = Seen(), []
    told(
        start,
        seen,
        lambda *line: lines.append(line),
        types.SimpleNamespace(on_step=lambda *line: lines.append(line)),
    )
    figures = {"epoch": 1.0, "auc": 0.625, "ndcg@10": 0.25, "pairs": 7}
    assert seen.told == [("start", 0), (10, figures), ("end", RESULT)]
    assert lines == [LINES[0], LINES[0], LINES[1]]


def test_a_run_that_is_stopped_ends_without_a_result(start):
    seen = Seen()
    with pytest.raises(KeyboardInterrupt):
        told(start, seen, result=None)
    assert seen.told[-1] == ("end", None)


@pytest.mark.parametrize("method", callbacks.METHODS)
def test_what_a_callback_raises_ends_the_run_in_one_line_that_names_it(start, method):
    class Broken(callbacks.Callback):
        pass

    def fail(self, *values):
        raise ZeroDivisionError("no such\nluck")

    setattr(Broken, method, fail)
    seen = Seen()
    with pytest.raises(
        UserError, match=f"^{method} of callback Broken failed: ZeroDivisionError: no such: "
    ) as caught:
        told(start, seen, Broken())
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and "continues" in str(caught.value)
    assert seen.told[-1] == ("end", None) or method == "on_end"


def test_a_function_is_named(start):
    def broken(step, figures):
        raise UserError("of its own")

    with pytest.raises(UserError, match="^callback broken failed: of its own: "):
        told(start, broken)


async def late(step, figures):
    pass


class Late(callbacks.Callback):
    async def on_step(self, step, figures):
        pass


@pytest.mark.parametrize(
    ("some", "said"),
    [
        ("wandb", "must be a list, got 'wandb'"),
        ([3], "a function or has one of on_start, .*, got 3"),
        ([Seen], "got Seen, a class: make one"),
        ([late], "callback late must be a plain function"),
        ([Late()], "callback Late.on_step must be a plain function"),
        (["wanbd"], "no logger 'wanbd': .*perhaps you meant wandb"),
    ],
)
def test_what_is_no_callback_is_refused(some, said):
    with pytest.raises(UserError, match=said):
        callbacks.Callbacks(some)


@pytest.mark.parametrize("name", callbacks.LOGGERS)
def test_a_logger_without_its_package_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"^--log {name} needs \w+: pip install 'jaxneg\[\w+\]'$"):
        callbacks.Callbacks([name])


def stand_in(monkeypatch, name, **members):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_wandb_is_told_settings_lines_and_the_end(start, monkeypatch):
    calls = []

    class Run:
        summary = {}
        define_metric = staticmethod(lambda *names, **more: calls.append(("define", names, more)))
        log = staticmethod(lambda values: calls.append(("log", values)))
        finish = staticmethod(lambda exit_code: calls.append(("finish", exit_code)))

    def init(**options):
        calls.append(("init", options))
        return Run

    stand_in(monkeypatch, "wandb", init=init)
    told(start, "wandb")
    told(start, "wandb")
    options = [values for call, values in (c[:2] for c in calls) if call == "init"]
    assert options[0]["config"] == {"data": {"p_hard": 0.5, "inputs": ()}} and options[0]["resume"] == "allow"
    assert options[0]["id"] == options[1]["id"] and options[0]["dir"] == str(start.path)
    logged = [call[1] for call in calls if call[0] == "log"]
    assert logged[:2] == [{"step": step, **values} for step, values in LINES]
    assert Run.summary == {"best_score": 0.625, "best_step": 10, "stopped": "epochs done"}
    assert calls[-1] == ("finish", 0)


def test_mlflow_is_told_parameters_numbers_by_step_and_goes_on_in_the_same_run(start, monkeypatch):
    calls = []

    def note(name):
        return lambda *values, **more: calls.append((name, *values, more))

    def start_run(run_id, run_name):
        calls.append(("start", run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    names = ("set_experiment", "log_params", "set_tag", "log_metrics", "end_run")
    stand_in(monkeypatch, "mlflow", start_run=start_run, **{name: note(name) for name in names})
    told(start, "mlflow")
    with pytest.raises(KeyboardInterrupt):
        told(start, "mlflow", result=None)
    assert [call[1:] for call in calls if call[0] == "start"] == [(None, start.path.name), ("abc", None)]
    assert [call[1] for call in calls if call[0] == "log_params"] == [
        {"data.p_hard": "0.5", "data.inputs": "()"}
    ]
    metrics = [call[1:] for call in calls if call[0] == "log_metrics"]
    assert metrics[0] == ({"epoch": 0.5, "loss": 1.5}, {"step": 5})
    assert metrics[1][0]["validation_ndcg_at_10"] == 0.25 and metrics[1][1] == {"step": 10}
    assert [call[1] for call in calls if call[0] == "end_run"] == ["FINISHED", "KILLED"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself_writes_a_file_store(start, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    told(start, "mlflow")
    [written] = (tmp_path / "store").rglob("metrics/validation_auc")
    assert written.read_text().split()[1:] == ["0.625", "10"]


@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_writes_a_run_without_a_network(start, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    told(start, "wandb")
    assert list(start.path.rglob("run-*.wandb"))


def test_they_stand_under_the_public_name():
    assert jaxneg.callbacks is callbacks and "callbacks" in (jaxneg.__doc__ or "")
