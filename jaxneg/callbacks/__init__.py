"""What is told of a run while it trains: own callbacks, and loggers by name.

    jaxneg.train(config, "runs/mine", callbacks=[print, Stopwatch(), "mlflow"])

A callback is an object with some of the methods of ``Callback``, or a function, which is called as fn(step, figures)
with every line of metrics.jsonl, where figures of validation begin with "validation_". Of many processes the first one
alone tells. What a callback raises ends the run, in one line that names it; the run can be continued.
"""

import contextlib
import importlib
import importlib.util
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxneg import errors, figures
from jaxneg.errors import UserError
from jaxneg.files import documents

LINES = ("on_step", "on_validation")
METHODS = ("on_start", *LINES, "on_end")
CONTINUES = "mend it or leave it out, and the same command continues from the last checkpoint"

# Loggers: the package that each needs, and the extra that brings it.
LOGGERS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
EXTRAS = {"tensorboard": "plots", "wandb": "wandb", "mlflow": "mlflow"}


@dataclass(frozen=True)
class Start:
    """What is known of a run as it begins, or goes on.

    Attributes:
      path: of its directory.
      config: settings by part and name, as in config.json.
      step: where it stands; 0 of a new one.
    """

    path: pathlib.Path
    config: Mapping[str, Mapping[str, Any]]
    step: int


class Callback:
    """Does nothing; override what you need. An object of another class may have any of these methods as well."""

    def on_start(self, start: Start) -> None:
        """Before the first step of this process."""

    def on_step(self, step: int, figures: Mapping[str, Any]) -> None:
        """Every ``train.log_every`` steps: epoch, loss, hard_share, seconds of a step and so on."""

    def on_validation(self, step: int, figures: Mapping[str, Any]) -> None:
        """After a validation: epoch, auc, pair_accuracy and so on, and of how many pairs, examples and users."""

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """At the end, with the contents of result.json; None where the run was stopped or failed before it."""


class Callbacks:
    """Callbacks of one run, told one after the other. It takes the lines of metrics.jsonl as they are written."""

    def __init__(self, callbacks: Sequence[Any] = ()):
        self._callbacks = chosen(callbacks)
        self._begun: list[Any] = []

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Tells of an end that comes without a result, whoever was told of the start."""
        try:
            yield
        except BaseException:
            for one in self._begun:  # what they raise now would hide why it ended
                with contextlib.suppress(Exception):
                    self._tell([one], "on_end", None)
            raise

    def begin(self, directory: pathlib.Path, step: int) -> None:
        """Tells of the start of a run that has claimed its directory."""
        config = documents.read(directory / "config.json", dict[str, Any], CONTINUES)
        config.pop("registered", None)
        self.start(Start(directory, config, step))

    def start(self, start: Start) -> None:
        """Tells of the start."""
        for one in self._callbacks:
            self._begun.append(one)
            self._tell([one], "on_start", start)

    def line(self, step: int, values: Mapping[str, Any]) -> None:
        """Tells of a line of metrics.jsonl."""
        validation = any(name.startswith(figures.VALIDATION) for name in values)
        plain = {name.removeprefix(figures.VALIDATION): value for name, value in values.items()}
        for one in self._callbacks:
            if _has(one, LINES):
                self._tell([one], LINES[validation], step, plain)
            elif callable(one):
                self._tell([one], "__call__", step, values)

    def end(self, result: Mapping[str, Any]) -> None:
        """Tells of the end, where it was told of the start."""
        if not self._begun and self._callbacks:
            return
        self._tell(self._callbacks, "on_end", result)

    def _tell(self, callbacks: Sequence[Any], method: str, *values: Any) -> None:
        for one in callbacks:
            call = getattr(one, method, None)
            if call is None:
                continue
            try:
                call(*values)
            except Exception as error:
                own = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                said = f"{own}{errors.first_line(error)}"
                raise UserError(f"{_name(one, method)} failed: {said}: {CONTINUES}") from error


def chosen(callbacks: Sequence[Any]) -> list[Any]:
    """Callbacks ready to be told; names become loggers.

    Raises UserError on what is none, on an unknown name, and on a logger whose package is not installed, saying how to
    install it.
    """
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise UserError(f"callbacks must be a list, got {callbacks!r}: write [{callbacks!r}]")
    found = [logger(one) if isinstance(one, str) else one for one in callbacks]
    for one in found:
        if isinstance(one, type) or not (callable(one) or _has(one, METHODS)):
            what = f"{one.__name__}, a class: make one" if isinstance(one, type) else repr(one)
            raise UserError(f"a callback is a function or has one of {', '.join(METHODS)}, got {what}")
        for call in filter(callable, (one, *(getattr(one, name, None) for name in METHODS))):
            errors.check_callable(call, f"callback {getattr(call, '__qualname__', type(one).__name__)}")
    return found


def logger(name: str) -> Any:
    """A logger by its name. Raises UserError on another name and where its package is not installed."""
    if name not in LOGGERS:
        raise UserError(errors.unknown("logger", name, LOGGERS))
    if importlib.util.find_spec(LOGGERS[name]) is None:
        raise UserError(f"--log {name} needs {LOGGERS[name]}: pip install 'jaxneg[{EXTRAS[name]}]'")
    return importlib.import_module(f"jaxneg.callbacks.to_{name}").make()


def _has(one: Any, methods: Sequence[str]) -> bool:
    return any(callable(getattr(one, method, None)) for method in methods)


def _name(one: Any, method: str) -> str:
    if method == "__call__":
        return f"callback {getattr(one, '__name__', type(one).__name__)}"
    return f"{method} of callback {type(one).__name__}"
