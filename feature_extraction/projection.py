"""Principal components of an encoder's features, fitted once per store.

The projection is `y = s (x - mean) V_C / lambda_C^(W/2)`. V_C and lambda_C are the C
leading eigenvectors and eigenvalues of the covariance of the tokens (Jolliffe,
"Principal Component Analysis", 2002, ch. 2). W is the whitening. The scale s makes the
mean square of y over all components 1.
"""

import hashlib
import json
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any
from zipfile import BadZipFile

import numpy as np
from absl import logging

from sanorm_jax.core import files, progress
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import manifest
from sanorm_jax.data.manifest import MANIFEST, PROJECTION
from sanorm_jax.data.store import Store

from .encoders import Encoder
from .options import Options

# Batch size while fitting.
_IMAGES_AT_ONCE = 32
# Minimum variance of a component, relative to the first.
_MIN_VARIANCE = 1e-6


def fit(
    features: Iterable[np.ndarray], components: int, whitening: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a projection.

    Args:
      features: Arrays of tokens `[..., D]`, read once.
      components: Number of components C, at most D.
      whitening: Whitening W, from 0 (relative variances are kept) to 1 (all equal).

    Returns:
      The mean `[D]` and the matrix `[D, C]`, both float32, and the explained fraction
      of the variance.

    Raises:
      UserError: The rank of the features is below C.
    """
    count, total, square = 0, 0.0, 0.0
    for part in features:
        # [n, D]
        tokens = part.reshape(-1, part.shape[-1]).astype(np.float64)
        count += len(tokens)
        total = total + tokens.sum(0)
        square = square + tokens.T @ tokens
    mean = total / count
    values, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    rank = int((values > _MIN_VARIANCE * values[0]).sum()) if values[0] else 0
    if components > rank:
        raise UserError(
            f"--components={components}: the features have rank {rank}; choose at most "
            f"{rank}, or more --projection_images"
        )
    kept, directions = values[:components], vectors[:, :components]
    # Fix the sign of eigenvectors by making the largest entry positive.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(components)])
    scale = np.mean(kept ** (1 - whitening)) ** -0.5
    matrix = scale * directions * kept ** (-whitening / 2)
    share = float(kept.sum() / values.sum())
    return mean.astype(np.float32), matrix.astype(np.float32), share


class ProjectedEncoder:
    """Encoder whose features are projected.

    Args:
      encoder: Encoder of the features.
      mean: Mean of the tokens `[D]`, float32.
      matrix: Scaled eigenvectors `[D, C]`, float32.
      record: JSON entry of the manifest; `sha256` is that of the file.
    """

    def __init__(
        self,
        encoder: Encoder,
        mean: np.ndarray,
        matrix: np.ndarray,
        record: dict[str, Any],
    ):
        self._encoder, self._mean, self._matrix = encoder, mean, matrix
        self.settings = encoder.settings | {"projection": record}
        self.num_tokens = encoder.num_tokens
        self.feature_dim = matrix.shape[1]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float16 features `[B, N, C]` of uint8 images `[B, H, W, 3]`."""
        # One product per image, so that the result does not depend on the batch size.
        parts = [
            (tokens.astype(np.float32) - self._mean) @ self._matrix
            for tokens in self._encoder(images)
        ]
        return np.stack(parts).astype(np.float16)


def project(
    encoder: Encoder,
    source: Store,
    root: pathlib.Path,
    options: Options,
    like: tuple[Mapping[str, Any], pathlib.Path] | None = None,
) -> ProjectedEncoder:
    """Return the encoder with the projection of a feature store.

    A projection is fitted if the store has none. If several jobs start at the same
    time, each fits one, but all use the file that was written first.

    Args:
      encoder: Encoder of the features.
      source: Store of the images. The first images of `train` are used.
      root: Folder of the feature store, which need not exist.
      options: Options of the projection.
      like: Record of an existing projection and its file, used instead of a fit.

    Raises:
      UserError: An option is out of range, or the file is missing, damaged or fitted
        with other settings.
    """
    path = root / PROJECTION
    if like is not None:
        record, original = like
        _read(original, record["sha256"])  # checks the file
        # The bytes that NumPy writes depend on the version of Python.
        _create(path, original.read_bytes())
        return _load(path, encoder, record["sha256"])
    width = encoder.feature_dim
    if not 0 < options.components <= width:
        raise UserError(
            f"--components={options.components}: out of range; choose 1 to {width} for "
            f"{encoder.settings['encoder']}"
        )
    recorded = None
    if (root / MANIFEST).exists():
        recorded = manifest.read_manifest(root)["settings"].get("projection")
        if recorded is None:
            raise UserError(
                f"--components={options.components}: {root} has no projection; remove "
                "the option or choose another --data_dir"
            )
    if recorded is None and not path.exists():
        arrays = _fit_file(encoder, source, options)
        _create(path, lambda file: np.savez(file, **arrays))
    projected = _load(path, encoder, recorded and recorded["sha256"])
    record = projected.settings["projection"]
    wanted = _wanted(encoder, source, options)
    differing = files.differences({name: record[name] for name in wanted}, wanted)
    if differing:
        raise UserError(
            f"{path}: fitted with other settings ({'; '.join(differing)}); choose "
            f"another --data_dir or remove {root}"
        )
    logging.info(
        "projection: %d of %d components, %.1f %% of the variance, fitted on %s",
        options.components,
        width,
        100 * record["explained_variance"],
        record["images"],
    )
    return projected


def recorded_dtype(root: pathlib.Path) -> str | None:
    """Return the recorded compute dtype of a feature store, or None.

    Raises:
      UserError: The manifest or the projection is damaged.
    """
    if (root / MANIFEST).exists():
        return manifest.read_manifest(root)["settings"].get("compute_dtype")
    # A job was killed after fitting the projection, before writing the manifest.
    path = root / PROJECTION
    if path.exists():
        return json.loads(str(_read(path, None)["record"])).get("compute_dtype")
    return None


def _wanted(encoder: Encoder, source: Store, options: Options) -> dict[str, Any]:
    """Return the settings of the fit."""
    if "train" not in source.splits:
        raise UserError(
            f"--components={options.components}: fitted on train, which {source.root} "
            "lacks; pass --like=WORKDIR of a run"
        )
    count = min(options.projection_images, source.num_examples("train"))
    return {
        "components": options.components,
        "whitening": options.whitening,
        "images": f"the first {count} of train",
        "encoder_sha256": _digest(encoder.settings, source.fingerprint),
    }


def _digest(settings: Mapping[str, Any], fingerprint: str) -> str:
    # The library may be updated between jobs.
    content = {k: v for k, v in settings.items() if k != "timm"}
    text = json.dumps([content, fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fit_file(encoder: Encoder, source: Store, options: Options) -> dict[str, Any]:
    wanted = _wanted(encoder, source, options)
    count = min(options.projection_images, source.num_examples("train"))

    def features():
        with progress.Progress("fitting the projection", count, "images") as bar:
            for start in range(0, count, _IMAGES_AT_ONCE):
                indices = np.arange(start, min(start + _IMAGES_AT_ONCE, count))
                found = encoder(source.read("train", "image", indices))
                if not np.isfinite(found).all():
                    raise UserError(
                        f"--encoder={encoder.settings['encoder']}: features are not "
                        "finite in float16; check the weights or choose another --layer"
                    )
                yield found
                bar.advance(len(indices))

    mean, matrix, share = fit(features(), options.components, options.whitening)
    record = wanted | {
        "explained_variance": round(share, 4),
        "compute_dtype": encoder.settings.get("compute_dtype"),
    }
    return {"mean": mean, "matrix": matrix, "record": np.array(json.dumps(record))}


def _create(path: pathlib.Path, content: files.Content):
    """Write the file of a projection unless another job has written it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.create(path, content)
    except OSError as error:
        raise UserError(
            f"{path}: not writable ({error.strerror}); choose another --data_dir"
        ) from None


def _read(path: pathlib.Path, sha256: str | None) -> dict[str, np.ndarray]:
    """Return the arrays in the file of a projection, after checking its SHA-256."""
    damage = manifest.projection_damage(path, sha256)
    if damage:
        raise UserError(damage)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("mean", "matrix", "record")}
    # The types that NumPy, zipfile and zlib raise.
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: damaged or not a projection ({str(error)[:100]}); remove "
            f"{path.parent} and extract again"
        ) from None


def _load(path: pathlib.Path, encoder: Encoder, sha256: str | None) -> ProjectedEncoder:
    arrays = _read(path, sha256)
    width = encoder.feature_dim
    if arrays["matrix"].ndim != 2 or arrays["matrix"].shape[0] != width:
        raise UserError(
            f"{path}: fitted to {arrays['matrix'].shape[0]} features, but "
            f"{encoder.settings['encoder']} has {width}; choose another --data_dir"
        )
    record = json.loads(str(arrays["record"])) | {"sha256": files.sha256(path)}
    return ProjectedEncoder(encoder, arrays["mean"], arrays["matrix"], record)
