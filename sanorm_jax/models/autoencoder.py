"""Object discovery: an image autoencoder with Slot Attention as its bottleneck.

Source: Locatello et al., "Object-Centric Learning with Slot Attention" (NeurIPS 2020),
appendix E.3. The decoder `up_convolve` follows Laina et al. (3DV 2016, arXiv
1606.00373), and `sub_pixel` follows Shi et al. (CVPR 2016, arXiv 1609.05158).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.models import layers, masking
from sanorm_jax.models.slot_attention import SlotModel

NUM_ENCODER_LAYERS = 4
# Layers of each decoder: (kernel size, upsampling, initialization). The last layer
# returns red, green, blue and a mask logit.
DECODERS = {
    "expanding": [(5, True, "glorot")] * 4
    + [(5, False, "glorot"), (3, False, "glorot")],
    "stationary": [(5, False, "glorot")] * 3 + [(3, False, "glorot")],
    "up_convolve": [(5, True, "torch")] * 4 + [(3, False, "glorot")],
}
# `sub_pixel` decodes a coarse map and expands each of its pixels to a block of the
# image. This needs far fewer multiplications than `stationary`.
SUB_PIXEL = "sub_pixel"
SUB_PIXEL_SIDE = 8  # maximum side of the coarse map in pixels
SUB_PIXEL_CHANNELS = 16


class Autoencoder(SlotModel):
    """CNN encoder, Slot Attention and spatial broadcast decoder.

    Attributes:
      slot_attention: Slot Attention over the encoded pixels.
      image_size: Height and width of the images in pixels.
      feature_dim: Number of channels of the convolutions.
      encoder_kernel_size: Kernel size of the encoder's convolutions. decoder:
        `expanding` (starts at a sixteenth of the image size), `stationary` (keeps the
        size), `up_convolve` (as `expanding`, with unpooling) or `sub_pixel` (expands a
        coarse map to the image in one step; not in the original implementation).
      encoder_position: Options of the encoder's `SoftPositionEmbedding`.
      decoder_position: Options of the decoder's `SoftPositionEmbedding`.
    """

    image_size: int = 128
    feature_dim: int = 64
    encoder_kernel_size: int = 5
    decoder: str = "expanding"
    encoder_position: Mapping | None = None
    decoder_position: Mapping | None = None

    def encode(self, image):
        """Return tokens `[B, H W, C]`, one per pixel, of images `[B, H, W, 3]`."""
        shape = (self.image_size, self.image_size, 3)
        if image.shape[1:] != shape:
            raise UserError(f"images: shape {image.shape[1:]}; pass shape {shape}")
        encoder = [
            layers.Conv(
                self.feature_dim,
                self.encoder_kernel_size,
                dtype=self.dtype,
                name=f"encoder_{i}",
            )
            for i in range(NUM_ENCODER_LAYERS)
        ]
        x = layers.apply_convs(encoder, image, last_relu=True)
        return self.to_tokens(x, self.feature_dim)

    @nn.nowrap
    def initial_size(self) -> int:
        """Return the side of the feature map that the decoder starts from."""
        if self.decoder == SUB_PIXEL:
            sides = range(1, min(SUB_PIXEL_SIDE, self.image_size) + 1)
            return max(side for side in sides if self.image_size % side == 0)
        check_name("decoder", self.decoder, (*DECODERS, SUB_PIXEL))
        factor = 2 ** sum(upsample for _, upsample, _ in DECODERS[self.decoder])
        if self.image_size % factor:
            raise UserError(
                f"decoder={self.decoder!r}: image size {self.image_size} is not a "
                f"multiple of {factor}; use decoder='stationary'"
            )
        return self.image_size // factor

    def decode(self, slots, image, mask=None):
        """Decode each slot to an image and a mask, and blend the images by the masks.

        Args:
          slots: Slots `[B, K, D]`.
          image: Images `[B, H, W, 3]`; not used.
          mask: Active slots `[B, K]`; all if None.

        Returns:
          `reconstruction` `[B, H, W, 3]`, `masks` `[B, K, H, W]`, which sum to 1 over
          the slots, and `slot_reconstructions` `[B, K, H, W, 3]`.
        """
        batch_size, num_slots, slot_dim = slots.shape
        size = self.initial_size()
        # [B K, h, w, D]
        x = slots.reshape(batch_size * num_slots, 1, 1, slot_dim).astype(self.dtype)
        x = jnp.broadcast_to(x, (batch_size * num_slots, size, size, slot_dim))
        x = self.embedding("decoder_position")(x)
        if self.decoder == SUB_PIXEL:
            x = SubPixelDecoder(
                self.image_size, 2 * self.feature_dim, self.dtype, name="decoder"
            )(x)
        else:
            x = self._convolve(x)
        # [B, K, H, W, 4]
        x = x.reshape(batch_size, num_slots, *x.shape[1:]).astype(jnp.float32)
        images, masks = x[..., :3], masking.softmax(x[..., 3], mask)
        return {
            "reconstruction": (images * masks[..., None]).sum(axis=1),
            "masks": masks,
            "slot_reconstructions": images,
        }

    def _convolve(self, x):
        """Return images and mask logits `[B K, H, W, 4]` by one of `DECODERS`."""
        specs = DECODERS[self.decoder]
        decoder = [
            layers.Conv(
                4 if i == len(specs) - 1 else self.feature_dim,
                kernel_size,
                upsample=upsample,
                init_style=init_style,
                dtype=self.dtype,
                name=f"decoder_{i}",
            )
            for i, (kernel_size, upsample, init_style) in enumerate(specs)
        ]
        return layers.apply_convs(decoder, x, last_relu=False)


class SubPixelDecoder(nn.Module):
    """Convolutions on a coarse map, whose pixels are then expanded to image blocks.

    Attributes:
      image_size: Side of the image in pixels, a multiple of the side of the map.
      hidden_dim: Number of channels of the convolutions.
      dtype: Compute dtype.
    """

    image_size: int
    hidden_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Map `[B, h, w, C]` to `[B, image_size, image_size, 4]`."""
        conv = functools.partial(layers.Conv, kernel_size=3, dtype=self.dtype)
        coarse = [conv(self.hidden_dim, name=f"coarse_{i}") for i in range(2)]
        x = layers.apply_convs(coarse, x, last_relu=True)
        side, factor = x.shape[1], self.image_size // x.shape[1]
        init = layers.initializers("glorot", x.shape[-1])
        width = factor**2 * SUB_PIXEL_CHANNELS
        x = nn.Dense(width, dtype=self.dtype, name="blocks", **init)(x)
        # [B, h, w, f f C] -> [B, h f, w f, C]
        x = x.reshape(-1, side, side, factor, factor, SUB_PIXEL_CHANNELS)
        x = x.swapaxes(2, 3)
        x = x.reshape(-1, self.image_size, self.image_size, SUB_PIXEL_CHANNELS)
        return conv(4, name="out")(nn.relu(x))
