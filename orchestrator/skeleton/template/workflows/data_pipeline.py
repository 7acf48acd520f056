"""From a seed to the data set that the experiments share."""

from __future__ import annotations

from src.data_loader import generate, split

from mirage import artifact, config, flow


@flow
def prepare_dataset(samples: int, test_fraction: float, seed: int) -> artifact.Dataset:
    """Make, split and save the data set."""
    processed = split(generate(samples, seed), test_fraction, seed)
    return artifact.Dataset.save(
        processed,
        name="processed_training_data",
        metadata={part: len(rows) for part, rows in processed.items()},
    )


if __name__ == "__main__":
    dataset = prepare_dataset(config.data.samples, config.data.test_fraction, config.data.seed)
    print(f"saved {dataset.id}")
