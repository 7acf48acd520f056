"""A small convolutional network in NumPy: convolution, ReLU, 2x2 max pooling, softmax. Owns its gradients."""

from __future__ import annotations

import numpy as np

SIDE = 8  # pixels of an image's edge


class SimpleCNN:
    """Weights by name in ``weights``; `forward` keeps what `gradients` needs."""

    def __init__(self, input_channels: int, filters: int, kernel_size: int, classes: int, seed: int) -> None:
        self.kernel_size = kernel_size
        pooled = (SIDE - kernel_size + 1) // 2
        fan_in = input_channels * kernel_size**2
        features = filters * pooled**2
        source = np.random.default_rng(seed)
        # He initialisation: K. He et al., "Delving Deep into Rectifiers" (2015), section 2.2.
        self.weights: dict[str, np.ndarray] = {
            "conv": (source.standard_normal((fan_in, filters)) * np.sqrt(2 / fan_in)).astype(np.float32),
            "conv_bias": np.zeros(filters, dtype=np.float32),
            "dense": (source.standard_normal((features, classes)) * np.sqrt(1 / features)).astype(np.float32),
            "dense_bias": np.zeros(classes, dtype=np.float32),
        }

    def forward(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class, for images (n, channels, 8, 8)."""
        weights = self.weights
        windows = np.lib.stride_tricks.sliding_window_view(
            images, (self.kernel_size, self.kernel_size), axis=(2, 3)
        )
        count, _, height, width = windows.shape[:4]
        self._columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(count * height * width, -1)
        maps = self._columns @ weights["conv"] + weights["conv_bias"]
        maps = maps.reshape(count, height, width, -1)
        half = height // 2
        blocks = maps[:, : 2 * half, : 2 * half].reshape(count, half, 2, half, 2, -1)
        blocks = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(count, half, half, -1, 4)
        self._winners = blocks.argmax(axis=-1)
        pooled = blocks.max(axis=-1)
        self._active = pooled > 0
        self._features = (pooled * self._active).reshape(count, -1)
        self._shape = (count, height, width, half)
        scores = self._features @ weights["dense"] + weights["dense_bias"]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def gradients(self, probabilities: np.ndarray, digits: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of the mean cross-entropy for each weight, after `forward` on the same images."""
        count, height, width, half = self._shape
        errors = probabilities.copy()
        errors[np.arange(count), digits] -= 1
        errors /= count
        behind = (errors @ self.weights["dense"].T).reshape(self._active.shape) * self._active
        blocks = np.zeros((*behind.shape, 4), dtype=np.float32)
        np.put_along_axis(blocks, self._winners[..., np.newaxis], behind[..., np.newaxis], axis=-1)
        blocks = blocks.reshape(count, half, half, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        maps = np.zeros((count, height, width, blocks.shape[-1]), dtype=np.float32)
        maps[:, : 2 * half, : 2 * half] = blocks.reshape(count, 2 * half, 2 * half, -1)
        flat = maps.reshape(count * height * width, -1)
        return {
            "conv": self._columns.T @ flat,
            "conv_bias": flat.sum(axis=0),
            "dense": self._features.T @ errors,
            "dense_bias": errors.sum(axis=0),
        }

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The likeliest digit of each image."""
        return self.forward(images).argmax(axis=1)
