"""GPUs by roofline, of programs whose work is counted by hand."""

import jax
import pytest

from jaxneg import cli
from jaxneg.errors import UserError
from jaxneg.plan import gpu, hlo, machines, places
from jaxneg.training import chips

H100 = machines.GPUS["h100"]


def test_products_and_their_bytes_bound_the_low_end_and_all_adds_up_to_the_high_one():
    text = """HloModule m, num_partitions=8

ENTRY %main (a: f32[64,128], b: f32[128,256]) -> f32[64,256] {
  %a = f32[64,128]{1,0} parameter(0)
  %b = f32[128,256]{1,0} parameter(1)
  %c = f32[64,256]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %d = f32[64,256]{1,0} negate(%c)
}
"""
    flop, product = 2 * 64 * 128 * 256, 4 * (64 * 128 + 128 * 256 + 64 * 256)
    total = product + 4 * 2 * 64 * 256
    found = gpu.estimate(text, 0.0, H100, 8, 989e12)
    assert found.flop == flop and found.hbm_bytes == total
    assert found.step.low == pytest.approx(product / 3350e9)  # longer than its arithmetic
    high = flop / 989e12 / gpu.GOOD + total / 3350e9 / gpu.GOOD + 2 * gpu.LAUNCH
    assert found.step.high == pytest.approx(high)
    assert found.bound == "launches"
    more = gpu.estimate(text, 1e15, H100, 8, 989e12)  # what kernels hide, XLA counted before
    assert more.step.low == pytest.approx(1e15 / 989e12) and more.bound == "products"
    assert gpu.estimate(text, 1e15, H100, 8, 495e12).step.low == pytest.approx(1e15 / 495e12)


def test_links_within_a_host_and_beyond():
    def least(kind, group):
        return gpu.links([hlo.Collective(kind, 8_000_000, group, 1)], H100, 8).low

    assert least("all-reduce", 8) == pytest.approx(2 * 8e6 * 7 / 8 / 450e9)
    # Rings over 2 hosts: what one GPU sends passes a host once, through its 8 network cards.
    assert least("all-reduce", 16) == pytest.approx(2 * 8e6 * 15 / 16 / (8 * 50e9))
    # From all to all, 8 of 15 others are on the other host, each by the GPU's own card.
    assert least("all-to-all", 16) == pytest.approx(8e6 * 15 / 16 * (8 / 15) / 50e9)
    assert least("all-to-all", 16) < least("all-to-all", 64)


def test_names_of_gpus():
    (one,) = places.places(["h100:8"])
    assert (one.chips, one.hosts, one.kind, one.memory) == (8, 1, "NVIDIA H100", 68 << 30)
    (two,) = places.places(["h200:4x2"])
    assert (two.chips, two.hosts, two.sides) == (8, 2, (4, 2))
    assert all(chips.peak(make.kind, "bfloat16") for make in machines.GPUS.values() if make.kind)
    with pytest.raises(
        UserError, match=r"no figures of 'gpu' to plan gpu:4x2 with: there are some of a100, h100"
    ):
        places.places(["gpu:4x2"])
    with pytest.raises(UserError, match="planning for 64 GPUs needs as many CPU devices"):
        places.places(["h100:8x8"])  # this process has 8
    with pytest.raises(UserError, match="no topology 'h100:99': 1 to 16 GPUs a host"):
        places.places(["h100:99"])


@pytest.mark.parametrize(
    "args, said",
    [
        ("--topology h100:8 --price -1 --items 99", "--price must be"),
        ("--topology h100:8 --advise -1 --items 99", "--advise must be 0 or more"),
        ("--topology gpu:8 --items 99", "no figures of 'gpu'"),
        ("--topology h1000:8 --items 99", "no topology 'h1000:8'"),
    ],
)
def test_mistakes_get_one_line(tmp_path, capsys, args, said):
    config = tmp_path / "config.py"
    config.write_text("from jaxneg.config import Config\n\n\ndef get_config():\n    return Config()\n")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", str(config), *args.split()])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and said in printed and printed.count("\n") == 1


@pytest.mark.slow
def test_the_command_plans_gpus_without_any(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "from jaxneg.config import Config, DataConfig, ModelConfig\n\n\ndef get_config():\n"
        "    return Config(data=DataConfig(length=8, batch_size=16), model=ModelConfig(width=8, layers=1))\n"
    )
    cli.main(["plan", str(config), *"--topology h100:8 --items 511 --sequences 1000 --price 2".split()])
    printed = capsys.readouterr().out
    assert (
        "8 x NVIDIA H100" in printed
        and "a step; bound by" in printed
        and "money, in that of --price" in printed
    )
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert len(jax.devices()) == 8
