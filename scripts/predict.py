"""Classify new pictures by trained networks: ``python scripts/predict.py run=DIR images=PATH``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("predict")
def main(cfg: DictConfig) -> None:
    """Write the pictures' probabilities."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.predict import predict

    predict(cfg)


if __name__ == "__main__":
    main()
