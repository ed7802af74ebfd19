"""jaxneg: next-song recommenders that learn from what people reject.

    prepare(log, out)           a log of listening, a frame or a file -> Store
    train(config, workdir)      a Config, or a file with one -> Run
    open_run(workdir)           a run that is there -> Run
    runs(directory, ...)        runs below, side by side -> Runs
    evaluate(run)               measures it on held-out events, beside baselines -> Report
    time_to_target(run, other)  when the one was as good as the other ever was -> TimeToTarget
    export(run, out)            writes it for serving -> Export
    Scorer.open(out)            recommends from an export

    Config, and its parts DataConfig, ModelConfig, LossConfig, LikeConfig, OptimConfig, TrainConfig, EvalConfig
    register_loss, register_encoder, register_sampler, register_reader    own parts, from a file outside the package
    callbacks                   who is told of a run while it trains: functions, objects, loggers by name
    UserError                   what is wrong with a call, the data or the disk, in one line

Nothing else is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxneg.api import (
        Embeddings as Embeddings,
        Export as Export,
        Report as Report,
        Run as Run,
        Runs as Runs,
        Store as Store,
        TimeToTarget as TimeToTarget,
        evaluate as evaluate,
        export as export,
        open_run as open_run,
        prepare as prepare,
        register_encoder as register_encoder,
        register_loss as register_loss,
        register_reader as register_reader,
        register_sampler as register_sampler,
        runs as runs,
        time_to_target as time_to_target,
        train as train,
    )
    from jaxneg.config import (
        Config as Config,
        DataConfig as DataConfig,
        EvalConfig as EvalConfig,
        LikeConfig as LikeConfig,
        LossConfig as LossConfig,
        ModelConfig as ModelConfig,
        OptimConfig as OptimConfig,
        TrainConfig as TrainConfig,
    )
    from jaxneg.errors import UserError as UserError
    from jaxneg.serve.scorer import Event as Event, Recommendation as Recommendation, Scorer as Scorer

_NAMES = {
    "jaxneg.api": "Embeddings Export Report Run Runs Store TimeToTarget "
    "evaluate export open_run prepare runs time_to_target train",
    "jaxneg.api.registries": "register_encoder register_loss register_reader register_sampler",
    "jaxneg.config": "Config DataConfig EvalConfig LikeConfig LossConfig ModelConfig OptimConfig TrainConfig",
    "jaxneg.errors": "UserError",
    "jaxneg.serve.scorer": "Event Recommendation Scorer",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, from the module that has it (PEP 562)."""
    if name == "callbacks":  # a module, which stands where it is asked for
        return importlib.import_module("jaxneg.callbacks")
    if name == "__version__":
        return importlib.import_module("jaxneg.files.documents").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxneg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
