"""Make folds, with augmented copies of each Train, from a flat folder of pictures."""

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mpoxcv.cli import entry_point
from mpoxcv.command_line import command_for
from mpoxcv.errors import UserError
from mpoxcv.terminal import say


@entry_point("make_folds")
def main(cfg: DictConfig) -> None:
    """Make the folds that the config describes, and print the command that trains on them."""
    if missing := [key for key in ("source", "output") if OmegaConf.is_missing(cfg, key)]:
        raise UserError(
            f"{' and '.join(f'{key}=DIR' for key in missing)} must be given, for example:\n"
            f"  {command_for('make_folds', 'source=pictures', 'output=data/custom')}\n"
            "where pictures holds one folder a class, and output is not there yet."
        )
    # here, so that --help and typos don't wait
    from mpoxcv.datasets.make_folds import make_folds, next_command
    from mpoxcv.pictures.patients import read_names
    from mpoxcv.pictures.tree import left_out

    folds = make_folds(
        source=str(cfg.source),
        output=str(cfg.output),
        classes=cfg.data.classes,
        name_pattern=read_names(cfg.data.name_pattern, cfg.data.patients),
        augment=instantiate(cfg.augment),
        copies=cfg.copies,
        size=cfg.size,
        n_folds=cfg.n_folds,
        seed=cfg.seed,
        exclude=[*cfg.data.exclude, *left_out(cfg.data.ignore_classes)],
        cache_dir=cfg.data.cache_dir,
        threads=cfg.data.threads,
        augment_config=OmegaConf.to_yaml(cfg.augment),
    )

    choice = HydraConfig.get().runtime.choices["data"]
    classes = sorted(set(folds["class"])) if cfg.data.classes is None else None
    say(f"Next: {next_command(str(cfg.output), choice, classes, cfg.copies)}")


if __name__ == "__main__":
    main()
