"""From the raw digits to the data set that the experiments share."""

from __future__ import annotations

import numpy as np
from mirage import artifact, config, flow, step

from src import data_loader


@step
def clean(images: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images that can be used, scaled."""
    kept = data_loader.clean(images, digits)
    print(f"read {len(images)} images, kept {len(kept[0])}")
    return kept


@flow
def prepare_dataset() -> artifact.Dataset:
    """Read, clean, split, save."""
    settings = config.data
    images, digits = clean(*data_loader.read())
    processed = data_loader.split(
        images, digits, settings.validation_fraction, settings.test_fraction, settings.seed
    )
    sizes = {part: len(processed[f"y_{part}"]) for part in ("train", "validation", "test")}
    print(f"split into {sizes}")
    return artifact.Dataset.save(
        processed,
        name=settings.name,
        metadata={"source": "UCI optical recognition of handwritten digits", **sizes},
    )


if __name__ == "__main__":
    print(f"saved {prepare_dataset().id}")
