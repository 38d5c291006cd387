"""Score a finished run's best checkpoint again: ``python scripts/test.py run=DIR``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("test", trains=True)
def main(cfg: DictConfig) -> None:
    """Score the run that the config names."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.train import test

    test(cfg)


if __name__ == "__main__":
    main()
