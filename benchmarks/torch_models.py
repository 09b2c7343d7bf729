"""The three models in plain PyTorch, as a baseline for benchmarks of training steps.

They use PyTorch's own layers. The names of the parameters are those that
`sanorm_jax.run.parameters.torch_weights` maps, so both sides can start from the same
weights. Slot Attention uses the weighted mean and PyTorch's GRU cell.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional

from benchmarks import train_step_cases as cases
from benchmarks.train_step_cases import LEARNING_RATE, Case
from sanorm_jax.run.parameters import torch_weights


def _mlp(fan_in, hidden, out):
    return nn.Sequential(nn.Linear(fan_in, hidden), nn.ReLU(), nn.Linear(hidden, out))


class SlotAttention(nn.Module):
    """Slot Attention (Locatello et al. 2020, algorithm 1)."""

    def __init__(self, input_dim, slot_dim, hidden_dim, num_iterations=3):
        super().__init__()
        self.num_iterations = num_iterations
        self.slots_mu = nn.Parameter(torch.randn(1, 1, slot_dim))
        self.slots_logsigma = nn.Parameter(torch.zeros(1, 1, slot_dim))
        self.to_q = nn.Linear(slot_dim, slot_dim, bias=False)
        self.to_k = nn.Linear(input_dim, slot_dim, bias=False)
        self.to_v = nn.Linear(input_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = _mlp(slot_dim, hidden_dim, slot_dim)
        self.norm_input = nn.LayerNorm(input_dim)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.norm_pre_ff = nn.LayerNorm(slot_dim)

    def forward(self, inputs, noise):
        """Return slots `[B, K, D]` from tokens `[B, N, C]` and noise `[B, K, D]`."""
        inputs = self.norm_input(inputs)
        keys, values = self.to_k(inputs), self.to_v(inputs)
        slots = self.slots_mu + self.slots_logsigma.exp() * noise
        dim = slots.shape[-1]
        for _ in range(self.num_iterations):
            queries = self.to_q(self.norm_slots(slots))
            # [B, K, N]
            logits = queries @ keys.transpose(1, 2) * dim**-0.5
            weights = logits.softmax(dim=1) + 1e-8
            updates = (weights / weights.sum(dim=2, keepdim=True)) @ values
            new = self.gru(updates.reshape(-1, dim), slots.reshape(-1, dim))
            slots = new.reshape(slots.shape)
            slots = slots + self.mlp(self.norm_pre_ff(slots))
        return slots


def _ramps(size):
    """Return y, x, 1 - y, 1 - x in [0, 1]: `[size, size, 4]`."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size)] * 2, indexing="ij")
    return torch.stack([y, x, 1 - y, 1 - x], dim=-1)


class Position(nn.Module):
    """Adds the projection of linear ramps to a map `[B, C, H, W]`."""

    def __init__(self, channels, size):
        super().__init__()
        self.register_buffer("pos_embedding", _ramps(size))
        self.dense = nn.Linear(4, channels)

    def forward(self, x):
        """Return `[B, C, H, W]`."""
        return x + self.dense(self.pos_embedding).permute(2, 0, 1)


def _encoder(channels, strides):
    layers = []
    for fan_in, stride in zip([3] + [channels] * 3, strides, strict=True):
        layers += [nn.Conv2d(fan_in, channels, 5, stride, padding=2), nn.ReLU()]
    return nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """Object discovery with the decoder `expanding`."""

    def __init__(self, image_size, feature_dim=64, slot_dim=64, hidden_dim=128):
        super().__init__()
        self.start = image_size // 16
        self.encoder_cnn = _encoder(feature_dim, (1, 1, 1, 1))
        self.encoder_pos = Position(feature_dim, image_size)
        self.layer_norm = nn.LayerNorm(feature_dim, eps=1e-3)
        self.feature_mlp = _mlp(feature_dim, feature_dim, feature_dim)
        self.slot_attention = SlotAttention(feature_dim, slot_dim, hidden_dim)
        self.decoder_pos = Position(slot_dim, self.start)
        layers = []
        for fan_in in [slot_dim] + [feature_dim] * 3:
            layers += [nn.ConvTranspose2d(fan_in, feature_dim, 5, 2, 2, 1), nn.ReLU()]
        layers += [nn.ConvTranspose2d(feature_dim, feature_dim, 5, 1, 2), nn.ReLU()]
        layers += [nn.ConvTranspose2d(feature_dim, 4, 3, 1, 1)]
        self.decoder_cnn = nn.Sequential(*layers)

    def forward(self, image, noise):
        """Return the reconstruction `[B, 3, H, W]` of images `[B, 3, H, W]`."""
        x = self.encoder_pos(self.encoder_cnn(image)).flatten(2).transpose(1, 2)
        slots = self.slot_attention(self.feature_mlp(self.layer_norm(x)), noise)
        B, K, D = slots.shape
        x = slots.reshape(B * K, D, 1, 1).expand(-1, -1, self.start, self.start)
        x = self.decoder_cnn(self.decoder_pos(x)).reshape(B, K, 4, *image.shape[2:])
        return (x[:, :, :3] * x[:, :, 3:].softmax(dim=1)).sum(dim=1)

    def loss(self, image, noise):
        """Return the mean squared error of images `[B, 3, H, W]`."""
        return functional.mse_loss(self(image, noise), image)


class SetPredictor(nn.Module):
    """Property prediction."""

    def __init__(self, image_size, feature_dim=64, slot_dim=64, hidden_dim=128):
        super().__init__()
        self.cnn_encoder = _encoder(feature_dim, (1, 2, 2, 1))
        self.pos_embed = Position(feature_dim, image_size // 4)
        self.layer_norm = nn.LayerNorm(feature_dim, eps=1e-3)
        self.feature_mlp = _mlp(feature_dim, feature_dim, feature_dim)
        self.slot_attention = SlotAttention(feature_dim, slot_dim, hidden_dim)
        self.mlp = _mlp(slot_dim, 64, 19)

    def forward(self, image, noise):
        """Return properties `[B, K, 19]` in [0, 1] of images `[B, 3, H, W]`."""
        x = self.pos_embed(self.cnn_encoder(image)).flatten(2).transpose(1, 2)
        slots = self.slot_attention(self.feature_mlp(self.layer_norm(x)), noise)
        return self.mlp(slots).sigmoid()

    def loss(self, image, noise, targets):
        """Return the Huber loss of images `[B, 3, H, W]`, targets `[B, M, 19]`."""
        predicted = self(image, noise)
        # [B, K, M]
        costs = functional.huber_loss(
            *torch.broadcast_tensors(predicted[:, :, None], targets[:, None]),
            reduction="none",
        ).mean(dim=-1)
        rows, columns = match(costs.detach())
        examples = torch.arange(len(costs), device=costs.device)[:, None]
        return costs[examples, rows, columns].mean()


def match(costs):
    """Return the rows and columns `[B, min(K, M)]` that match costs `[B, K, M]`."""
    pairs = [linear_sum_assignment(cost) for cost in costs.float().cpu().numpy()]
    rows, columns = np.stack(pairs, axis=1)
    return (torch.from_numpy(x).to(costs.device) for x in (rows, columns))


class MLPDecoder(nn.Module):
    """MLP decoder of the original implementation, per slot and token."""

    def __init__(self, num_tokens, feature_dim, slot_dim, hidden_dim):
        super().__init__()
        self.decoder_pos_encoding = nn.Parameter(
            torch.randn(1, 1, num_tokens, slot_dim)
        )
        layers = []
        for fan_in in (slot_dim, hidden_dim, hidden_dim):
            layers += [nn.Linear(fan_in, hidden_dim), nn.ReLU()]
        self.mlp_decoder = nn.Sequential(
            *layers, nn.Linear(hidden_dim, feature_dim + 1)
        )

    def forward(self, slots):
        """Return the reconstruction `[B, N, F]` of slots `[B, K, D]`."""
        x = self.mlp_decoder(slots[:, :, None] + self.decoder_pos_encoding)
        return (x[..., 1:] * x[..., :1].softmax(dim=1)).sum(dim=1)


class Dinosaur(nn.Module):
    """DINOSAUR over encoder features."""

    def __init__(self, num_tokens, feature_dim, slot_dim=128, decoder_hidden_dim=1024):
        super().__init__()
        self.feature_layer_norm = nn.LayerNorm(feature_dim)
        self.feature_mlp = _mlp(feature_dim, feature_dim, slot_dim)
        self.slot_attention = SlotAttention(slot_dim, slot_dim, 4 * slot_dim)
        self.mlp_decoder = MLPDecoder(
            num_tokens, feature_dim, slot_dim, decoder_hidden_dim
        )

    def forward(self, features, noise):
        """Return the reconstruction `[B, N, F]` of features `[B, N, F]`."""
        tokens = self.feature_mlp(self.feature_layer_norm(features))
        return self.mlp_decoder(self.slot_attention(tokens, noise))

    def loss(self, features, noise):
        """Return the mean squared error of features `[B, N, F]`."""
        return functional.mse_loss(self(features, noise), features)


def make(case: Case) -> nn.Module:
    """Return the model of a case, with new weights."""
    torch.manual_seed(0)
    if case.task == "dinosaur":
        return Dinosaur(case.tokens, case.feature_dim)
    if case.task == "autoencoder":
        return Autoencoder(case.image_size)
    return SetPredictor(case.image_size)


def make_both(case: Case):
    """Return the model, the Flax model, its parameters (equal weights), and inputs."""
    torch_model = make(case)
    weights = {k: v.numpy().copy() for k, v in torch_model.state_dict().items()}
    model = cases.make_model(case)
    inputs = cases.make_inputs(case, model.slot_attention.slot_dim)
    params = torch_weights.to_flax(model, weights)["params"]
    return torch_model, model, params, inputs


def training_step(
    case: Case, model: nn.Module, inputs, device: str = "cpu", compiled: bool = False
) -> Callable[[], torch.Tensor]:
    """Return a function that runs a step, with `torch.compile` if `compiled`.

    The function returns the loss. The inputs are those of
    `train_step_cases.make_inputs`.
    """
    model = model.to(device)
    if case.task != "dinosaur":
        inputs = (np.ascontiguousarray(inputs[0].transpose(0, 3, 1, 2)), *inputs[1:])
    inputs = [torch.from_numpy(x).to(device) for x in inputs]
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LEARNING_RATE, fused=device == "cuda"
    )
    loss_of = model.loss
    if compiled:
        global match
        # SciPy cannot be traced.
        match = torch.compiler.disable(match)
        loss_of = torch.compile(model.loss)
    is_half = case.dtype == "bfloat16"

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=is_half):
            loss = loss_of(*inputs)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
