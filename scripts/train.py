"""Train a network on one fold, then test it: ``python scripts/train.py fold=3``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("train", trains=True)
def main(cfg: DictConfig) -> None:
    """Run the experiment that the config describes."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.train import train

    train(cfg)


if __name__ == "__main__":
    main()
