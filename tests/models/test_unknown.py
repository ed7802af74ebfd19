"""What is not known, or only pads, adds nothing to what a model sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import config as configs, models
from jaxneg.config import Config, ModelConfig, UserError

CODED = ("inputs.station", "inputs.feedback", "inputs.attribute0", "inputs.output_attribute0")


def built(**options):
    config = ModelConfig(width=8, layers=1, dropout=0.0, output_attributes=True, tied=False, **options)
    return models.build(config, length=4, stations=3, attributes=(5,))


def test_first_rows_of_codes_are_zero():
    params = built().init(jax.random.key(0))
    for name in CODED:
        row = np.asarray(params[name])
        np.testing.assert_array_equal(row[0], 0.0)
        assert np.abs(row[1:]).min() > 0


@pytest.mark.parametrize("feedback", ["add", "gate"])
def test_code_0_adds_nothing_whatever_its_row_holds(feedback):
    """As in checkpoints of models whose row 0 was noise."""
    model = built(feedback=feedback)
    params = model.init(jax.random.key(0))
    noisy = dict(params)
    for name in CODED:
        noisy[name] = np.array(params[name])
        noisy[name][0] = 9.0
    rng = np.random.default_rng(0)
    row_BLD = jnp.asarray(rng.normal(size=(3, 4, 8)), jnp.float32)
    code_BL = jnp.asarray(rng.integers(0, 4, (3, 4)), jnp.int32)
    mask_BL = jnp.ones((3, 4), bool)

    @jax.jit
    def seen(params):
        rows = [of(params, row_BLD, code_BL[..., None]) for of in (model.item_rows, model.output_rows)]
        return *rows, model.encode(params, row_BLD, code_BL, code_BL, mask_BL, None)

    for a, b in zip(seen(params), seen(noisy), strict=True):
        np.testing.assert_array_equal(a, b)
    gradients = jax.jit(jax.grad(lambda params: sum((leaf**2).sum() for leaf in seen(params))))(noisy)
    for name in CODED:
        gradient = np.asarray(gradients[name])
        np.testing.assert_array_equal(gradient[0], 0.0)
        assert np.abs(gradient[1:4]).max() > 0


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--data.p-hard 0 --data.random log_uniform",
        "--data.p-hard 0 --loss.in-batch",
        "--data.p-hard 0 --loss.hardest 2",
        "--data.p-hard 0 --data.random by_count",
    ],
)
def test_gbce_is_refused_with_draws_that_its_alpha_does_not_know(options):
    args = ["--loss.name", "gbce", *options.split()]
    with pytest.raises(UserError, match="is calibrated for negatives that are drawn uniformly") as error:
        configs.override(Config(), args)
    assert "\n" not in str(error.value)
    configs.override(Config(), [*args, "--loss.calibration", "0"])  # which is bce


def test_gbce_takes_uniform_draws_of_its_own_and_shared():
    configs.override(Config(), "--loss.name gbce --data.p-hard 0 --data.shared-negatives 9".split())
    configs.override(Config(), "--loss.name gbce --data.negatives 0 --data.shared-negatives 9".split())
