"""Write trained networks as an ONNX file: ``python scripts/export.py run=DIR``."""

from omegaconf import DictConfig

from mpoxcv.cli import entry_point


@entry_point("export")
def main(cfg: DictConfig) -> None:
    """Write and check the file."""
    # here, so that --help and typos don't wait for torch
    from mpoxcv.commands.export import export

    export(cfg)


if __name__ == "__main__":
    main()
