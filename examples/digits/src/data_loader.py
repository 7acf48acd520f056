"""The UCI handwritten digits as arrays: read, cleaned, split. Owns the shape and scale of the data.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
(1998), https://doi.org/10.24432/C50P49; the 1,797 images of its test set, as scikit-learn carries them.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BRIGHTEST = 16.0  # each pixel counts the dark points of a 4x4 block

Arrays = dict[str, np.ndarray]


def read() -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 8, 8) with values from 0 to 16, and their digits (n,)."""
    bunch = load_digits()
    return bunch.images, bunch.target


def clean(images: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop images that are damaged or there twice, and scale the rest to 0..1 as (n, 1, 8, 8)."""
    flat = images.reshape(len(images), -1)
    whole = np.isfinite(flat).all(axis=1) & (flat >= 0).all(axis=1) & (flat <= BRIGHTEST).all(axis=1)
    _, first = np.unique(flat, axis=0, return_index=True)
    single = np.zeros(len(flat), dtype=bool)
    single[first] = True
    kept = whole & single
    scaled = (images[kept] / BRIGHTEST).astype(np.float32)
    return scaled[:, np.newaxis], digits[kept].astype(np.int64)


def split(
    images: np.ndarray, digits: np.ndarray, validation_fraction: float, test_fraction: float, seed: int
) -> Arrays:
    """Train, validation and test parts, each with the same share of every digit."""
    rest, x_test, rest_digits, y_test = train_test_split(
        images, digits, test_size=test_fraction, stratify=digits, random_state=seed
    )
    share = validation_fraction / (1 - test_fraction)
    x_train, x_validation, y_train, y_validation = train_test_split(
        rest, rest_digits, test_size=share, stratify=rest_digits, random_state=seed
    )
    return {
        "x_train": x_train,
        "y_train": y_train,
        "x_validation": x_validation,
        "y_validation": y_validation,
        "x_test": x_test,
        "y_test": y_test,
    }
