"""Own parts from files outside the package: named in configs, found again by other processes, refused in one line."""

import functools
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxneg
from jaxneg import config as configs
from jaxneg.config import parts
from jaxneg.data import draws

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
PLAIN = """
import jax, jax.numpy as jnp, numpy as np, jaxneg
def mine(pos_BL, neg_BLN, mask_BL, *, penalty):
    loss_BL = jax.nn.softplus(-pos_BL) + penalty * jax.nn.softplus(neg_BLN).sum(-1)
    return jnp.where(mask_BL, loss_BL, 0.0).sum() / jnp.maximum(mask_BL.sum(), 1)
jaxneg.register_loss("mine", mine)
"""


pytestmark = pytest.mark.usefixtures("forgotten")


def forget(kind, name):
    del parts.KINDS[kind][name]


def file(path, text=PLAIN, config='Config(loss=jaxneg.LossConfig(name="mine"))'):
    path.write_text(f"{text}\ndef get_config():\n    return jaxneg.{config}\n")
    return path


def test_a_config_remembers_the_file_and_recalls_it(tmp_path):
    path = file(tmp_path / "own.py")
    config = configs.check(configs.load(path))
    text = configs.to_json(config)
    assert json.loads(text)["registered"] == [
        {"kind": "loss", "name": "mine", "origin": "file", "where": str(path)}
    ]
    forget("loss", "mine")
    assert configs.from_json(text) == config and parts.LOSSES["mine"].origin == ("file", str(path))
    assert "registered" not in json.loads(configs.to_json(jaxneg.Config()))


def test_the_file_may_lie_beside_a_config_that_imports_it(tmp_path):
    (tmp_path / "own.py").write_text(PLAIN)
    path = file(tmp_path / "config.py", "import own, jaxneg")
    text = configs.to_json(configs.load(path))
    assert json.loads(text)["registered"][0]["where"] == str(tmp_path / "own.py")


def test_a_file_that_is_gone_is_named_or_found_beside_the_run(tmp_path):
    text = configs.to_json(configs.load(path := file(tmp_path / "own.py")))
    forget("loss", "mine")
    (tmp_path / "run").mkdir()
    moved = path.rename(tmp_path / "run" / "own.py")
    with pytest.raises(jaxneg.UserError, match=r"loss mine was registered by .*own.py, which is not there"):
        configs.from_json(text)
    assert configs.from_json(text, tmp_path / "run").loss.name == "mine"
    assert parts.LOSSES["mine"].origin == ("file", str(moved))


def test_a_file_that_registers_it_no_more_is_named(tmp_path):
    text = configs.to_json(configs.load(path := file(tmp_path / "own.py")))
    forget("loss", "mine")
    path.write_text("")
    with pytest.raises(
        jaxneg.UserError, match=r"own.py registers no loss mine: call jaxneg.register_loss in it"
    ):
        configs.from_json(text)


def test_two_files_cannot_mean_different_things_by_a_name(tmp_path):
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
    text = configs.to_json(configs.load(file(tmp_path / "a" / "own.py")))
    configs.load(file(tmp_path / "b" / "own.py"))  # a copy says the same
    assert configs.from_json(text).loss.name == "mine"
    configs.load(file(tmp_path / "c" / "own.py", PLAIN.replace("penalty *", "2 * penalty *")))
    with pytest.raises(jaxneg.UserError, match=r"a/own.py, and by .*c/own.py here: rename one"):
        configs.from_json(text)


@pytest.mark.slow
def test_what_a_session_registers_must_be_registered_again():
    code = PLAIN + "\nprint(jaxneg.config.to_json(jaxneg.Config(loss=jaxneg.LossConfig(name='mine'))))"
    ran = subprocess.run(
        [sys.executable, "-c", f"import jaxneg.config\n{code}"], capture_output=True, text=True
    )
    assert json.loads(ran.stdout)["registered"][0]["origin"] == "session", ran.stderr
    with pytest.raises(
        jaxneg.UserError, match=r"registered in a notebook or a session.*jaxneg.register_loss again"
    ):
        configs.from_json(ran.stdout)


DAMAGED = [{}, [1], [{"kind": "loss"}], "x", [{"kind": "x", "name": "", "origin": "", "where": ""}]]


@pytest.mark.parametrize("value", DAMAGED)
def test_a_damaged_list_is_refused(value):
    text = json.dumps(json.loads(configs.to_json(jaxneg.Config())) | {"registered": value})
    with pytest.raises(jaxneg.UserError, match="not a config|registered"):
        configs.from_json(text)


def nothing(pos_BL, neg_BLN, mask_BL):
    return jnp.zeros(())


def asks(pos_BL, neg_BLN, mask_BL, *, gamma):
    return jnp.zeros(())


async def late(pos_BL, neg_BLN, mask_BL):
    return jnp.zeros(())


@pytest.mark.parametrize(
    ("name", "fn", "said"),
    [
        ("mine", late, "loss mine must be a plain function"),
        ("bce", nothing, "bce is a loss of jaxneg"),
        ("My Loss", nothing, "must be a word of small letters"),
        ("mine", asks, "asks for gamma, and can be given catalogue_size, label_BL, .*penalty"),
        ("mine", lambda pos: 0.0, "must take pos_BL, neg_BLN, mask_BL"),
    ],
)
def test_losses_that_cannot_be_are_refused(name, fn, said):
    with pytest.raises(jaxneg.UserError, match=said):
        jaxneg.register_loss(name, fn)


def test_a_variant_fills_in_what_cannot_be_given():
    jaxneg.register_loss("mine", functools.partial(asks, gamma=2.0))
    jaxneg.register_loss("mine", nothing)  # again, as a notebook does
    assert parts.LOSSES["mine"].make is nothing


@pytest.mark.parametrize("field", ["loss.name", "model.encoder", "data.random"])
def test_an_unknown_name_says_how_it_becomes_known(field):
    with pytest.raises(jaxneg.UserError, match=f"--{field} must be one of .*, got focl7: *|own"):
        configs.override(jaxneg.Config(), [f"--{field}", "focl7"])


def test_a_sampler_draws_and_its_chance_is_used():
    jaxneg.register_sampler(
        "head",
        lambda rng, items, shape, until_V: rng.integers(1, 3, shape),
        lambda row, items, until_V: np.where(row <= 2, 0.5, 0.0),
    )
    row = draws.random_items(np.random.default_rng(0), 9, (4, 5), "head")
    assert row.dtype == np.int32 and set(row.ravel()) == {1, 2}
    assert draws.chance(np.array([1, 5]), 9, "head").tolist() == [0.5, 0.0]
    assert configs.override(jaxneg.Config(), ["--data.random", "head"]).data.random == "head"


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda rng, items, shape, until_V: rng.integers(0, items, shape), "must give rows 1 to 9, got 0"),
        (
            lambda rng, items, shape, until_V: rng.integers(1, items, 3),
            "of shape .40, 5.*got int64 of shape .3,",
        ),
        (lambda rng, items, shape, until_V: rng.random(shape), "whole numbers"),
    ],
)
def test_draws_of_what_is_no_row_are_refused(draw, said):
    jaxneg.register_sampler("odd", draw, lambda row, items, until_V: np.ones(len(row)))
    with pytest.raises(jaxneg.UserError, match=said):
        draws.random_items(np.random.default_rng(0), 9, (40, 5), "odd")


def test_an_encoder_is_held_to_its_facts():
    jaxneg.register_encoder("both", object, bidirectional=True)
    for args, said in (
        ([], "sees the next event"),
        (["--data.packed", "always", "--data.mask", "0.2"], "across"),
        (["--model.remat", "--data.mask", "0.2"], "has none"),
    ):
        with pytest.raises(jaxneg.UserError, match=said):
            configs.override(jaxneg.Config(), ["--model.encoder", "both", *args])


def test_a_reader_is_known_by_name(tmp_path):
    import dataclasses

    from jaxneg.data import events, scans

    @dataclasses.dataclass(frozen=True)
    class Options:
        sign: str = "+"

    def read(con, source, options):
        rows = scans.read_csv(
            con, [source], dict.fromkeys(("who", "what", "at", "mark"), "VARCHAR"), mend="give marks"
        )
        kind = (rows.mark == options.sign).ifelse("thumb_up", "thumb_down")
        return events.select(rows, user=rows.who, item=rows.what, time=rows.at.cast("int64"), feedback=kind)

    jaxneg.register_reader("marks", read, Options, "marks", split="tail")
    rows = [f"{u},{(5 * u + t) % 12},{t * 1000},{'+-'[t % 2]}" for u in range(9) for t in range(12)]
    (tmp_path / "log.csv").write_text("\n".join(["who,what,at,mark", *rows, ""]))
    store = jaxneg.prepare(tmp_path / "log.csv", tmp_path / "store", reader="marks", sign="+", progress=False)
    assert store.figures["events"] > 90 and set(store.feedback["train"]) >= {"thumb_up", "thumb_down"}
    with pytest.raises(jaxneg.UserError, match="table is a reader of jaxneg"):
        jaxneg.register_reader("table", read, Options, "marks")
