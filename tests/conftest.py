"""Eight CPU devices, strict ranks, warnings as errors, and shapes and types checked on every call of the package."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtyping  # noqa: E402

_hook = jaxtyping.install_import_hook("jaxneg", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(config, items):
    data = os.environ.get("JAXNEG_DATA", "../shared/data")
    for item in items:
        if "realdata" in item.keywords and not os.path.isdir(data):
            item.add_marker(pytest.mark.skip(reason=f"no real data at {data}: set JAXNEG_DATA"))
        if "gpu" in item.keywords and jax.default_backend() != "gpu":
            item.add_marker(pytest.mark.skip(reason="no GPU"))
