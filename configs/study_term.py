"""The contrastive term of MuRS'23 and RecSys'24 taken apart on simulated listeners, with SASRec.

    jaxneg sweep configs/study_term.py --workdir runs/study/term

By weight; in the form of the authors' code, whose queries meet the skips of another session and whose main loss takes
skipped songs for targets; in the paper's form with such targets; and with a share of the skips only. Checkpoints are
chosen by the figure that is judged, the released HR@1, and the last epoch stands beside the best. The store is that of
study_p_hard.py. Hardware, time and result: benchmarks/results/study/term.md.
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.sweep.grids import Sweep


def get_config() -> Config:
    return Config(
        data=DataConfig(
            store="runs/study/store",
            length=20,
            batch_size=64,
            target="next_positive",
            negatives=0,
            shared_negatives=1000,
        ),
        model=ModelConfig(width=32, layers=1, norm="post", head="gelu"),
        loss=LossConfig(name="sampled_softmax", in_batch=True),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=200),
        train=TrainConfig(epochs=40, patience=5, monitor="released_hit_rate@1"),
        eval=EvalConfig(batch_size=64, ks=(1, 5, 10, 20), released=1000, released_batch=64),
    )


def get_sweep() -> Sweep:
    def weight(value: float, *more: str) -> tuple[str, ...]:
        return ("--loss.contrastive", f"{value}", *more)

    released = ("--loss.contrastive-form", "released")
    term = {"off": ()}
    term |= {f"weight {value}": weight(value) for value in (0.1, 0.25, 0.5, 0.75, 1)}
    term |= {
        f"weight 0.5, {kept:.0%} of skips": weight(0.5, "--loss.skips-kept", f"{kept}")
        for kept in (0.25, 0.5)
    }
    term |= {f"released form, weight {value}": weight(value, *released) for value in (0.25, 0.5)}
    term |= {
        "skips as targets": ("--data.target", "any"),
        "skips as targets, weight 0.5": weight(0.5, "--data.target", "any"),
        "skips as targets, released form, weight 0.5": weight(0.5, *released, "--data.target", "any"),
    }
    figures = [f"{kind}hit_rate@{k}" for kind in ("released_", "") for k in (1, 5, 10, 20)]
    figures += [f"last_released_hit_rate@{k}" for k in (1, 20)]
    figures += ["pair_accuracy", "auc", "mrr_positive", "mrr_negative"]
    return Sweep({"term": term}, figures=tuple(figures), reference={"term": "off"})
