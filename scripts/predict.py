"""Classify new pictures with a run's network, or a multirun's averaged: ``python scripts/predict.py run=DIR images=PATH``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("predict")
def main(cfg: DictConfig) -> None:
    """Write the pictures' probabilities."""
    from mpoxcv.commands.predict import (
        predict,
    )  # here, so that --help and typos don't wait for torch

    predict(cfg)


if __name__ == "__main__":
    main()
