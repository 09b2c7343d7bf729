"""Property prediction: a set of object properties from an image or its features.

Source: Locatello et al., "Object-Centric Learning with Slot Attention" (NeurIPS 2020),
appendix E.4.
"""

import math
from collections.abc import Mapping

import flax.linen as nn

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import layers
from sanorm_jax.models.slot_attention import SlotModel

ENCODER_STRIDES = (1, 2, 2, 1)


class SetPredictor(SlotModel):
    """CNN encoder, Slot Attention, and an MLP that predicts properties from each slot.

    Attributes:
      slot_attention: Slot Attention over the encoded image.
      image_size: Height and width of the images in pixels, a multiple of 4.
      from_features: Whether inputs are features of a frozen encoder instead of images.
        A linear map then replaces the convolutions.
      feature_dim: Number of output channels of the convolutions or the linear map.
      encoder_position: Options of the `SoftPositionEmbedding`. Its ramps are small
        compared with features of unit variance; a `weight` of 8 makes up for this.
      num_properties: Length P of the property vector.
      property_hidden_dim: Hidden width of the MLP on slots.
    """

    image_size: int = 128
    from_features: bool = False
    feature_dim: int = 64
    encoder_position: Mapping | None = None
    num_properties: int = 19
    property_hidden_dim: int = 64

    def encode(self, inputs):
        """Return tokens `[B, N, C]` for images or features.

        Args:
          inputs: Images `[B, H, W, 3]` in [-1, 1], which become H/4 x W/4 tokens, or
            features `[B, N, F]` of a square grid of tokens.
        """
        # [B, h, w, feature_dim]
        x = self._project(inputs) if self.from_features else self._convolve(inputs)
        return self.to_tokens(x, self.feature_dim)

    def decode(self, slots, inputs, mask=None):
        """Return `predicted_properties` `[B, K, P]` in [0, 1]; 0 for masked slots."""
        # Always float32: the head is cheap, and its sigmoid stays exact.
        head = layers.MLP(self.property_hidden_dim, self.num_properties, name="head")
        properties = nn.sigmoid(head(slots))
        if mask is not None:
            properties = properties * mask[..., None]
        return {"predicted_properties": properties}

    def _project(self, features):
        B, N, _ = features.shape
        side = math.isqrt(N)
        if side**2 != N:
            raise UserError(
                f"features: {N} tokens do not form a square grid; extract the features "
                "of square images"
            )
        x = nn.Dense(self.feature_dim, dtype=self.dtype, name="encoder")(features)
        return x.reshape(B, side, side, self.feature_dim)

    def _convolve(self, image):
        shape = (self.image_size, self.image_size, 3)
        if image.shape[1:] != shape or self.image_size % 4:
            raise UserError(
                f"images: shape {image.shape[1:]}; pass shape {shape}, with each side "
                "a multiple of 4"
            )
        encoder = [
            layers.Conv(
                self.feature_dim, stride=stride, dtype=self.dtype, name=f"encoder_{i}"
            )
            for i, stride in enumerate(ENCODER_STRIDES)
        ]
        return layers.apply_convs(encoder, image, last_relu=True)
