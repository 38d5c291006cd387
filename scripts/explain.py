"""Show where trained networks looked: ``python scripts/explain.py run=DIR images=PATH``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("explain")
def main(cfg: DictConfig) -> None:
    """Write the maps and their checks."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.explain import explain

    explain(cfg)


if __name__ == "__main__":
    main()
