"""Run a finished run again and compare: ``python scripts/reproduce.py run=DIR``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("reproduce", trains=True)
def main(cfg: DictConfig) -> None:
    """Train anew with the run's config, and say what differs."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.reproduce import reproduce

    reproduce(cfg)


if __name__ == "__main__":
    main()
