"""Principal components of an encoder's features, fitted once and kept in the store.

`y = s (x - mean) V_C / lambda_C^(W/2)` for the C leading eigenvectors V and eigenvalues
lambda of the covariance of tokens, whitening W and the scale s that gives y the mean
square 1 over all components (Jolliffe, "Principal Component Analysis", 2002, ch. 2).
"""

import dataclasses
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
from sanorm_jax.data.manifest import (
    MANIFEST,
    PROJECTION,
    projection_damage,
    read_manifest,
)
from sanorm_jax.data.store import Store

from .encoders import Encoder
from .options import Options

# Images encoded at once while fitting; their tokens are summed up and forgotten.
_IMAGES_AT_ONCE = 32
# Directions that the tokens hardly take are not blown up, relative to the first.
_LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class Projection:
    """A fitted projection.

    Attributes:
      mean: [D] float32, of the tokens.
      matrix: [D, C] float32, eigenvectors times their scales.
      record: what the manifest says of it, as JSON; `sha256` is of its file.
    """

    mean: np.ndarray
    matrix: np.ndarray
    record: dict[str, Any]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the components [..., C] float16 of features [..., D]."""
        # The same bits whatever the number of images at once: a product an image.
        parts = [(f.astype(np.float32) - self.mean) @ self.matrix for f in features]
        return np.stack(parts).astype(np.float16)


def fit(
    features: Iterable[np.ndarray], components: int, whitening: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a projection.

    Args:
      features: arrays [..., D] of tokens, passed through once.
      components: C, at most D.
      whitening: W from 0 (variances stay as they are to one another) to 1 (all alike).

    Returns:
      mean [D], matrix [D, C], both float32, and the share of the variance explained.

    Raises:
      UserError: the features do not vary in so many directions.
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
    rank = int((values > _LEAST * values[0]).sum()) if values[0] else 0
    if components > rank:
        raise UserError(
            f"--components={components}: the features vary in {rank} directions only; "
            "choose at most as many, or more --projection_images"
        )
    kept, directions = values[:components], vectors[:, :components]
    # Eigenvectors are known up to their sign: the largest entry is made positive.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(components)])
    scale = np.mean(kept ** (1 - whitening)) ** -0.5
    matrix = scale * directions * kept ** (-whitening / 2)
    share = float(kept.sum() / values.sum())
    return mean.astype(np.float32), matrix.astype(np.float32), share


class ProjectedEncoder:
    """An encoder whose features are projected.

    Args:
      encoder: what makes the features.
      projection: of its features.

    Attributes:
      settings: those of the encoder, and `projection`.
      num_tokens: N.
      feature_dim: C.
    """

    def __init__(self, encoder: Encoder, projection: Projection):
        self._encoder, self._projection = encoder, projection
        self.settings = encoder.settings | {"projection": projection.record}
        self.num_tokens = encoder.num_tokens
        self.feature_dim = projection.matrix.shape[1]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float16 features [B, N, C] of uint8 images [B, H, W, 3]."""
        return self._projection(self._encoder(images))


def project(
    encoder: Encoder,
    source: Store,
    root: pathlib.Path,
    options: Options,
    like: tuple[Mapping[str, Any], pathlib.Path] | None = None,
) -> ProjectedEncoder:
    """Return the encoder with the projection of a feature store, fitted if need be.

    Jobs that begin a store side by side all fit, but the first file written stays,
    and all of them read it.

    Args:
      encoder: what makes the features.
      source: of the images; the fit takes the first of its split `train`.
      root: folder of the feature store, made if absent.
      options: `components`, `whitening` and `projection_images` count.
      like: record of another projection and its file, to be used instead.

    Raises:
      UserError: an option out of range; a file that is missing, damaged, or was
        fitted by other settings.
    """
    path = root / PROJECTION
    if like is not None:
        record, original = like
        _create(path, _read(original, record["sha256"]))
        return ProjectedEncoder(encoder, _load(path, encoder, record["sha256"]))
    width = encoder.feature_dim
    if not 0 < options.components <= width:
        raise UserError(
            f"--components={options.components}: must be 1 to {width}, the width of "
            f"{encoder.settings['encoder']}"
        )
    recorded = None
    if (root / MANIFEST).exists():
        recorded = read_manifest(root)["settings"].get("projection")
        if recorded is None:
            raise UserError(
                f"--components={options.components}: {root} was begun without a "
                "projection; leave the option out, or choose another --data_dir"
            )
    if recorded is None and not path.exists():
        _create(path, _fit_file(encoder, source, options))
    projection = _load(path, encoder, recorded and recorded["sha256"])
    wanted = _wanted(encoder, source, options)
    differing = files.differences({n: projection.record[n] for n in wanted}, wanted)
    if differing:
        raise UserError(
            f"{path}: was fitted by other settings ({'; '.join(differing)}); choose "
            f"another --data_dir, or remove {root}"
        )
    logging.info(
        "projection: %d of %d components, %.1f %% of the variance, fitted on %s",
        options.components,
        width,
        100 * projection.record["explained_variance"],
        projection.record["images"],
    )
    return ProjectedEncoder(encoder, projection)


def recorded_dtype(root: pathlib.Path) -> str | None:
    """Return the compute dtype that a feature store was begun with.

    Args:
      root: Folder of the feature store, which need not exist.

    Returns:
      The dtype's name; None if nothing was begun there, or its encoder has none.

    Raises:
      UserError: The manifest or the projection is damaged.
    """
    if (root / MANIFEST).exists():
        return read_manifest(root)["settings"].get("compute_dtype")
    # A job that stopped between fitting the projection and writing the manifest.
    path = root / PROJECTION
    if path.exists():
        return json.loads(str(_read(path, None)["record"])).get("compute_dtype")
    return None


def _wanted(encoder: Encoder, source: Store, options: Options) -> dict[str, Any]:
    """Return what a fit has to have been made with."""
    if "train" not in source.splits:
        raise UserError(
            f"--components={options.components}: is fitted on train, which "
            f"{source.root} does not have; give --like=WORKDIR of a run"
        )
    count = min(options.projection_images, source.num_examples("train"))
    return {
        "components": options.components,
        "whitening": options.whitening,
        "images": f"the first {count} of train",
        "encoder_sha256": _digest(encoder.settings, source.fingerprint),
    }


def _digest(settings: Mapping[str, Any], fingerprint: str) -> str:
    # The library's version may change between jobs without another fit.
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
                        "finite in float16; check the weights, or take another "
                        "--layer or --dtype"
                    )
                yield found
                bar.advance(len(indices))

    mean, matrix, share = fit(features(), options.components, options.whitening)
    record = wanted | {
        "explained_variance": round(share, 4),
        "compute_dtype": encoder.settings.get("compute_dtype"),
    }
    return {"mean": mean, "matrix": matrix, "record": np.array(json.dumps(record))}


def _create(path: pathlib.Path, arrays: Mapping[str, np.ndarray]):
    """Write the file of a projection; one that another job wrote first stays."""

    def write(file):
        np.savez(file, **arrays)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.create(path, write)
    except OSError as error:
        raise UserError(f"{path}: not writable ({error.strerror})") from None


def _read(path: pathlib.Path, sha256: str | None) -> dict[str, np.ndarray]:
    """Return the arrays of a projection's file, if it is the one of that hash."""
    damage = projection_damage(path, sha256)
    if damage:
        raise UserError(damage)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("mean", "matrix", "record")}
    # What NumPy, zipfile and zlib raise.
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: is no projection, or damaged ({str(error)[:100]}); remove "
            f"{path.parent} and extract again"
        ) from None


def _load(path: pathlib.Path, encoder: Encoder, sha256: str | None) -> Projection:
    arrays = _read(path, sha256)
    width = encoder.feature_dim
    if arrays["matrix"].ndim != 2 or arrays["matrix"].shape[0] != width:
        raise UserError(
            f"{path}: projects features of {arrays['matrix'].shape[0]}, "
            f"{encoder.settings['encoder']} has {width}; choose another --data_dir"
        )
    record = json.loads(str(arrays["record"])) | {"sha256": files.sha256(path)}
    return Projection(arrays["mean"], arrays["matrix"], record)
