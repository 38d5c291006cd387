"""Run a finished run again and compare: ``python scripts/reproduce.py run=DIR``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("reproduce")
def main(cfg: DictConfig) -> None:
    """Train anew with the run's config, and say what differs."""
    from mpoxcv.commands.reproduce import (
        reproduce,
    )  # here, so that --help and typos don't wait for torch

    reproduce(cfg)


if __name__ == "__main__":
    main()
