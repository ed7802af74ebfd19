"""SASRec on KuaiRand-Pure (short videos; long view or like against no click), Gao et al., CIKM 2022.

    jaxneg prepare kuairand DATA/kuairand_pure --split time --out stores/kuairand
    jaxneg train configs/kuairand_sasrec.py --data.store stores/kuairand --workdir runs/kuairand

The split is by time: with each user's tail held out, a twelfth of the training events come after an average test
event, and like rates see the future of their videos. Ten events per user: little to learn about a user and much about
a video, so biases start from the log's odds and the rest is held back by small first rows, dropout, weight decay and
averaged weights. Time, score and spread: benchmarks/results/real_data.md.
"""

from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(store="stores/kuairand", length=20, p_hard=1.0),
        model=ModelConfig(
            layers=1, dropout=0.5, item_bias="odds", bias_prior=20.0, output_attributes=True, row_scale=0.002
        ),
        optim=OptimConfig(learning_rate=3e-4, warmup_steps=50, weight_decay=3.0, average=0.995),
        train=TrainConfig(epochs=8, patience=4, monitor="auc"),
    )
