"""SASRec on CM100k.

jaxneg train configs/cm100k_sasrec.py --data.store stores/cm100k --workdir runs/cm100k
"""

from jaxneg.config import Config, DataConfig


def get_config() -> Config:
    return Config(data=DataConfig(store="stores/cm100k", length=100))
