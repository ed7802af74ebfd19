"""``--log mlflow``: settings as parameters, figures as metrics by step, in the tracking store that MLflow is set to."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from jaxneg import callbacks, files

EXPERIMENT = "jaxneg"  # unless MLFLOW_EXPERIMENT_NAME or _ID names another one
MARK = "mlflow.txt"  # in the run's directory: the id under which it is continued
LONGEST = 500  # characters of a parameter


class MLflow:
    """Logs to MLflow; a run that is continued goes on in the run there was."""

    def on_start(self, start: callbacks.Start) -> None:
        mlflow = importlib.import_module("mlflow")
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
            mlflow.set_experiment(EXPERIMENT)
        mark = start.path / MARK
        known = mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
        run = mlflow.start_run(run_id=known, run_name=None if known else start.path.name)
        self._mlflow = mlflow
        if known is None:
            files.write_text(mark, run.info.run_id)
            named = {
                f"{part}.{name}": value for part, own in start.config.items() for name, value in own.items()
            }
            mlflow.log_params({name: str(value)[:LONGEST] for name, value in named.items()})
            mlflow.set_tag("path", str(start.path))

    def __call__(self, step: int, figures: Mapping[str, Any]) -> None:
        # "@" is no character of a name there.
        known = {name.replace("@", "_at_"): value for name, value in figures.items() if _is_number(value)}
        self._mlflow.log_metrics(known, step=step)

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        self._mlflow.end_run("KILLED" if result is None else "FINISHED")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


make = MLflow
