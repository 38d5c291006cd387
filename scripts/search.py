"""Search hyper-parameters on Valid: ``python scripts/search.py hparams_search=lenet``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("search", trains=True)
def main(cfg: DictConfig) -> None:
    """Run or go on with the search that the config describes."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.search import search

    search(cfg)


if __name__ == "__main__":
    main()
