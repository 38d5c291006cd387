"""A page on this machine that classifies photographs: ``python scripts/serve.py run=DIR``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("serve")
def main(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.serve import serve

    serve(cfg)


if __name__ == "__main__":
    main()
