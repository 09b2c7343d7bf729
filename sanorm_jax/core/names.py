"""Names of the attention normalizations."""

# Name in the original implementation: name in the paper.
ALIASES = {
    "mean": "weighted_mean",
    "constant": "weighted_sum",
    "scalar_batch_norm_single": "batch_norm",
}
