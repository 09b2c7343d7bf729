"""Variants of the models in plain PyTorch: normalizations, GRU, decoders.

`benchmarks.torch_models` contains the models with the weighted mean, torch's GRU cell
and the decoder `expanding`. The other variants are defined here, from the formulas in
the paper. Parameters have the names that `sanorm_jax.run.parameters.torch_weights`
maps.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks import torch_models


class TFGRU(nn.Module):
    """TensorFlow's GRU cell (`reset_after`); gate order: update, reset, candidate."""

    def __init__(self, dim):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(dim, 3 * dim) / dim**0.5)
        self.recurrent_kernel = nn.Parameter(torch.randn(dim, 3 * dim) / dim**0.5)
        self.bias = nn.Parameter(torch.randn(2, 3 * dim) / 10)

    def forward(self, inputs, state):
        """Return the next state `[R, D]` from inputs `[R, D]` and a state `[R, D]`."""
        x = (inputs @ self.kernel + self.bias[0]).chunk(3, dim=1)
        h = (state @ self.recurrent_kernel + self.bias[1]).chunk(3, dim=1)
        update, reset = (x[0] + h[0]).sigmoid(), (x[1] + h[1]).sigmoid()
        candidate = (x[2] + reset * h[2]).tanh()
        return update * state + (1 - update) * candidate


class ImageLevel(nn.Module):
    """Normalize by one mean and variance over the slots and features of an image."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([1.2]))
        self.beta = nn.Parameter(torch.tensor([0.1]))

    def forward(self, updates):
        """Return the normalized updates `[B, K, D]`."""
        mean = updates.mean(dim=(1, 2), keepdim=True)
        variance = updates.var(dim=(1, 2), keepdim=True, unbiased=False)
        return (updates - mean) / (variance + 1e-5).sqrt() * self.gamma + self.beta


class ScalarBatchNorm(nn.Module):
    """Normalize by one mean and variance over the batch, those of iteration 0."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, 1, 1, 1), 1.2))
        self.beta = nn.Parameter(torch.full((1, 1, 1, 1), 0.1))
        self.register_buffer("means", torch.zeros(1))
        self.register_buffer("variances", torch.ones(1))

    def forward(self, updates, first):
        """Return the normalized updates `[B, K, D]`; `first` marks iteration 0."""
        if not self.training:
            moments = self.means, self.variances
        elif first:
            moments = self.moments = updates.mean(), updates.var(unbiased=False)
            self.means = 0.9 * self.means + 0.1 * moments[0].detach()
            self.variances = 0.9 * self.variances + 0.1 * moments[1].detach()
        else:
            moments = self.moments
        scaled = (updates - moments[0]) / (moments[1] + 1e-5).sqrt()
        return scaled * self.gamma[0] + self.beta[0]


class SlotAttention(torch_models.SlotAttention):
    """Slot Attention with any normalization and GRU.

    Stores the slots `[B, K, D]` and the attention `[B, K, N]` of the last call.
    """

    def __init__(self, input_dim, slot_dim, hidden_dim, normalization, gru, implicit):
        super().__init__(input_dim, slot_dim, hidden_dim)
        self.normalization, self.implicit = normalization, implicit
        if gru == "tf":
            self.gru = TFGRU(slot_dim)
        if normalization == "layer_norm":
            self.update_ln = nn.LayerNorm(slot_dim)
        elif normalization == "image_level":
            self.update_ln = ImageLevel()
        elif normalization == "batch_norm":
            self.update_normalizer = ScalarBatchNorm()

    def forward(self, inputs, noise, num_iterations=3, train_slots=None):
        """Return slots `[B, K, D]` from tokens `[B, N, C]` and noise `[B, K, D]`."""
        inputs = self.norm_input(inputs)
        keys, values = self.to_k(inputs), self.to_v(inputs)
        slots = self.slots_mu + self.slots_logsigma.exp() * noise
        _, num_slots, dim = slots.shape
        for iteration in range(num_iterations):
            if self.implicit and iteration == num_iterations - 1:
                slots = slots.detach()
            queries = self.to_q(self.norm_slots(slots))
            # [B, K, N]
            logits = queries @ keys.transpose(1, 2) / dim**0.5
            self.attention = logits.softmax(dim=1)
            updates = self._normalize(self.attention, values, iteration == 0)
            if self.normalization == "scaled_mean":
                updates = updates * ((train_slots or num_slots) / num_slots)
            new = self.gru(updates.reshape(-1, dim), slots.reshape(-1, dim))
            slots = new.reshape(slots.shape)
            slots = slots + self.mlp(self.norm_pre_ff(slots))
        self.slots = slots
        return slots

    def _normalize(self, attention, values, first):
        """Return the updates `[B, K, D]`."""
        if self.normalization in ("weighted_mean", "scaled_mean"):
            weights = attention + 1e-8
            return weights / weights.sum(dim=2, keepdim=True) @ values
        updates = attention @ values
        if self.normalization == "weighted_sum":
            return updates / attention.shape[2]
        if self.normalization in ("layer_norm", "image_level"):
            return self.update_ln(updates)
        if self.normalization == "batch_norm":
            return self.update_normalizer(updates, first)
        return updates


class Unpooling(nn.Module):
    """Insert zeros between pixels by a transposed convolution with a fixed kernel."""

    def __init__(self, channels):
        super().__init__()
        weights = torch.zeros(channels, 1, 2, 2)
        weights[:, :, 0, 0] = 1
        self.register_buffer("weights", weights)

    def forward(self, x):
        """Return `[B, C, 2 H, 2 W]` from `[B, C, H, W]`."""
        groups = len(self.weights)
        return functional.conv_transpose2d(x, self.weights, stride=2, groups=groups)


class UpConvolve(nn.Module):
    """Unpool and convolve."""

    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.unpool = Unpooling(fan_in)
        self.conv = nn.Conv2d(fan_in, fan_out, 5, padding=2)

    def forward(self, x):
        """Return `[B, F, 2 H, 2 W]` from `[B, C, H, W]`."""
        return self.conv(self.unpool(x))


def change_decoder(model: torch_models.Autoencoder, decoder, slot_dim, feature_dim):
    """Replace the decoder of an autoencoder by `stationary` or `up_convolve`."""
    layers = []
    if decoder == "stationary":
        model.start = len(model.encoder_pos.pos_embedding)
        model.decoder_pos = torch_models.Position(slot_dim, model.start)
        for fan_in in (slot_dim, feature_dim, feature_dim):
            layers += [nn.ConvTranspose2d(fan_in, feature_dim, 5, 1, 2), nn.ReLU()]
        layers += [nn.ConvTranspose2d(feature_dim, 4, 3, 1, 1)]
    else:
        for fan_in in [slot_dim] + [feature_dim] * 3:
            layers += [UpConvolve(fan_in, feature_dim), nn.ReLU()]
        layers += [nn.Conv2d(feature_dim, 4, 3, padding=1)]
    model.decoder_cnn = nn.Sequential(*layers)
