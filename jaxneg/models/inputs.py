"""Item rows with the feedback, station, attributes and position of an event summed in."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxneg.batch import FEEDBACK, MASK, PAD
from jaxneg.config import ModelConfig
from jaxneg.models import layers

# Where the gate of each feedback kind starts.
GATE = [{"thumb_up": 1.0, "play": 1.0, "skip": -1.0, "thumb_down": -1.0}.get(kind, 0.0) for kind in FEEDBACK]


class Inputs(nnx.Module):
    """Learned tables of everything about an event but its item. Parts that the config switches off have none.

    With ``cloze`` there is one position more, and a vector that stands in for hidden events.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        length: int,
        stations: int,
        attributes: tuple[int, ...],
        cloze: bool,
        rngs: nnx.Rngs,
    ):
        def table(rows: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, config.width), jnp.float32))

        def coded(codes: int) -> nnx.Param:
            """A table of codes from 1; row 0 is of what is not known, and of padding."""
            return nnx.Param(table(codes + 1).get_value().at[PAD].set(0.0))

        self.config, self.attributes = config, len(attributes)
        if config.feedback != "none":
            self.feedback = coded(len(FEEDBACK) - 1)
        if config.feedback == "gate":
            # Rejections start as the opposite of likes, which a gate from ones takes hundreds of steps to learn.
            self.feedback_gate = nnx.Param(jnp.outer(jnp.array(GATE), jnp.ones(config.width)))
        if config.station and stations > 0:
            self.station = coded(stations)
        if config.position:
            self.position = table(length + cloze)
        for k, size in enumerate(attributes):
            if config.attributes or (config.output_attributes and config.tied):
                setattr(self, f"attribute{k}", coded(size))
            if config.output_attributes and not config.tied:
                setattr(self, f"output_attribute{k}", coded(size))
        self.mask = nnx.Param(table(1).get_value()[0]) if cloze else None

    def item_rows(self, row: Float[Array, "*S D"], attribute: Int[Array, "*S A"]) -> Float[Array, "*S D"]:
        """Rows of items as input: their table row plus a row of each attribute; attribute 0 adds none."""
        return self._with_attributes(row, attribute, "attribute") if self.config.attributes else row

    def output_rows(self, row: Float[Array, "*S D"], attribute: Int[Array, "*S A"]) -> Float[Array, "*S D"]:
        """Rows of items as they are scored: with attributes if the config adds them to the output."""
        if not self.config.output_attributes:
            return row
        return self._with_attributes(row, attribute, "attribute" if self.config.tied else "output_attribute")

    def _with_attributes(self, row: jax.Array, attribute: jax.Array, name: str) -> jax.Array:
        for k in range(self.attributes):
            row = row + _rows(getattr(self, f"{name}{k}"), attribute[..., k])
        return row

    def __call__(
        self,
        row_BLD: Float[Array, "B L D"],
        feedback_BL: Int[Array, "B _"],
        station_BL: Int[Array, "B _"],
        key: jax.Array | None,
        segment_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """x_BLD from the rows of the items seen, with the feedback that each of these past events got.

        Added feedback says that something was liked; a gate, row * gate[feedback], can turn the item's own row around.
        With ``cloze`` the learned vector ``mask`` takes the place of all this where the feedback code is MASK, so that
        a hidden event shows its station and position only. Positions are counted anew from the start of each segment.
        Feedback and stations that are no inputs may have no elements.
        """
        x_BLD, code_BL, hidden_BL = row_BLD, feedback_BL, feedback_BL == MASK
        if self.mask is not None:
            code_BL = jnp.where(hidden_BL, PAD, feedback_BL)  # MASK has no row of its own
        if self.config.feedback == "gate":
            x_BLD = x_BLD * layers.rows(self.feedback_gate.get_value(), code_BL)
        if self.config.feedback != "none":
            x_BLD = x_BLD + _rows(self.feedback, code_BL)
        if self.mask is not None:
            x_BLD = jnp.where(hidden_BL[..., None], self.mask.get_value()[None, None], x_BLD)
        if hasattr(self, "station"):
            x_BLD = x_BLD + _rows(self.station, station_BL)
        if self.config.position:
            position_LD = self.position.get_value()
            if segment_BL is None:
                x_BLD = x_BLD + position_LD[None, : x_BLD.shape[1]]
            else:
                x_BLD = x_BLD + position_LD[layers.positions(segment_BL)]
        return layers.dropout(x_BLD * self.config.width**0.5, self.config.dropout, key)


def _rows(table: nnx.Param, code: Int[Array, "*S"]) -> Float[Array, "*S D"]:
    """A row for each code; code 0, of what is not known, adds nothing whatever its row holds."""
    return jnp.where((code != PAD)[..., None], layers.rows(table.get_value(), code), 0.0)
