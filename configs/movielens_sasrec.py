"""SASRec on MovieLens ml-latest-small of 2016 (ratings of 4 and more against 2.5 and less), Harper and Konstan, 2015.

    jaxneg prepare movielens DATA/ml_latest_small_2016 --out stores/movielens
    jaxneg train configs/movielens_sasrec.py --data.store stores/movielens --workdir runs/movielens

People rate in bursts and not in the order of watching, so each epoch orders the ratings anew and there are no
positions. The second term of the loss predicts the feedback of every rating; weights are averaged. Time, score and
spread: benchmarks/results/real_data.md.
"""

from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/movielens", length=100, p_hard=1.0, shuffle_events=True),
        model=ModelConfig(width=32, layers=1, position=False, tied=False, item_bias="odds", bias_prior=5.0),
        loss=LossConfig(feedback=1.0),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=3.0, average=0.98),
        train=TrainConfig(epochs=200, patience=8, monitor="auc", evaluate_every=48),
        eval=EvalConfig(exclude_seen=True),
    )
