"""Search hyper-parameters on the validation sets: ``python scripts/search.py hparams_search=lenet``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("search")
def main(cfg: DictConfig) -> None:
    """Run or go on with the search that the config describes."""
    from mpoxcv.commands.search import search  # here, so that --help and typos don't wait for torch

    search(cfg)


if __name__ == "__main__":
    main()
