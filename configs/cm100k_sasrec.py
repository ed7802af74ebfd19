"""SASRec on CM100k (songs rated 1 to 4; 3 and 4 against 1), Canamares and Castells, SIGIR 2018.

    jaxneg prepare cm100k DATA/cm100k --out stores/cm100k
    jaxneg train configs/cm100k_sasrec.py --data.store stores/cm100k --workdir runs/cm100k

The order of the ratings means nothing, so each epoch orders them anew and there are no positions. The second term of
the loss predicts the feedback of every rating, the middle ones included; weights are averaged. Time, score and
spread: benchmarks/results/real_data.md.
"""

from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/cm100k", length=100, p_hard=1.0, shuffle_events=True),
        model=ModelConfig(width=32, layers=1, position=False, tied=False, item_bias="odds"),
        loss=LossConfig(feedback=1.0),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=20, weight_decay=3.0, average=0.99),
        train=TrainConfig(epochs=250, patience=8, monitor="auc", evaluate_every=56),
    )
