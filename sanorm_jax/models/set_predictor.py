"""Property prediction: a set of object properties from an image, or its features.

Source: Locatello et al., "Object-Centric Learning with Slot Attention"
(NeurIPS 2020), appendix E.4.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax

from sanorm_jax.errors import ConfigError
from sanorm_jax.models import layers
from sanorm_jax.models.autoencoder import encode_tokens
from sanorm_jax.models.slot_attention import SlotModel

ENCODER_STRIDES = (1, 2, 2, 1)


class SetPredictor(SlotModel):
    """CNN encoder, Slot Attention, and an MLP that reads each slot.

    Attributes:
      image_size: height and width of the images in pixels, a multiple of 4.
      from_features: take the features of a frozen encoder instead of images; a linear
        map takes the place of the convolutions.
      feature_dim: channels of the convolutions, or width of that map.
      encoder_position: options of the `SoftPositionEmbedding`; features of unit
        variance drown its ramps, a `weight` of 8 makes them as loud.
      num_properties: length P of the property vector.
      property_hidden_dim: hidden width of the MLP over slots.
      Further attributes: see `SlotAttention`.
    """

    num_slots: int = 10
    image_size: int = 128
    from_features: bool = False
    feature_dim: int = 64
    encoder_position: Mapping | None = None
    num_properties: int = 19
    property_hidden_dim: int = 64

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        train: bool,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        initial_slots: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Predict the properties of one object a slot.

        Args:
          inputs: images `[B, H, W, 3]` in [-1, 1], or features `[B, N, F]` of a
            square grid of tokens.
          train: whether normalizers use (and update) batch statistics.
          num_slots: see `SlotAttention`.
          num_iterations: see `SlotAttention`.
          initial_slots: see `SlotAttention`.
          noise: see `SlotAttention`.

        Returns:
          `predicted_properties` `[B, K, P]` in [0, 1], `slots` `[B, K, D]` and
          `attention` `[B, K, H/4 W/4]` (`[B, K, N]`), all float32.

        Raises:
          ConfigError: an image of another size, tokens that are no square; and see
            `SlotAttention`.
        """
        # [B, h, w, feature_dim]
        x = self._project(inputs) if self.from_features else self._convolve(inputs)
        tokens = encode_tokens(
            x, self.embedding("encoder_position"), self.feature_dim, self.dtype
        )
        slots, attention = self.make_slot_attention()(
            tokens,
            train=train,
            num_slots=num_slots,
            num_iterations=num_iterations,
            initial_slots=initial_slots,
            noise=noise,
        )
        # The head is small; float32 keeps its sigmoid exact.
        head = layers.MLP(self.property_hidden_dim, self.num_properties, name="head")
        return {
            "predicted_properties": nn.sigmoid(head(slots)),
            "slots": slots,
            "attention": attention,
        }

    def _project(self, features):
        B, N, _ = features.shape
        side = math.isqrt(N)
        if side**2 != N:
            raise ConfigError(f"{N} tokens are no square grid")
        x = nn.Dense(self.feature_dim, dtype=self.dtype, name="encoder")(features)
        return x.reshape(B, side, side, self.feature_dim)

    def _convolve(self, image):
        shape = (self.image_size, self.image_size, 3)
        if image.shape[1:] != shape or self.image_size % 4:
            raise ConfigError(
                f"images have shape {image.shape[1:]}, need {shape}, a multiple of 4"
            )
        encoder = [
            layers.Conv(
                self.feature_dim, stride=stride, dtype=self.dtype, name=f"encoder_{i}"
            )
            for i, stride in enumerate(ENCODER_STRIDES)
        ]
        return layers.apply_convs(encoder, image, last_relu=True)
