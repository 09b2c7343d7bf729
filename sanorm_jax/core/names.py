"""Names of the attention normalizations."""

# Names in the paper by name in the original implementation.
ALIASES = {
    "mean": "weighted_mean",
    "constant": "weighted_sum",
    "scalar_batch_norm_single": "batch_norm",
}
