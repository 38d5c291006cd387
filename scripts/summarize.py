"""Sum runs up that were made one by one: ``python scripts/summarize.py runs=DIR``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("summarize")
def main(cfg: DictConfig) -> None:
    """Write and print the summary of all runs below the folders."""
    # here, so that --help and typos don't wait for pandas
    from mpoxcv.commands.summarize import summarize

    summarize(cfg)


if __name__ == "__main__":
    main()
