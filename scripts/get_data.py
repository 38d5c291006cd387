"""Say whether the data set is there, whole and sound; with ``source=…`` fetch it first."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from mpoxcv.cli import entry_point
from mpoxcv.data.check import check
from mpoxcv.data.fetch import fetch
from mpoxcv.errors import UserError


@entry_point("get_data")
def main(cfg: DictConfig) -> None:
    """Fetch or make the data if asked to, then check them."""
    data = cfg.data
    if cfg.source is not None:
        if data.generator is not None or (cfg.source == "kaggle" and data.name != "msld_v2"):
            raise UserError(f"source={cfg.source} does not give data={data.name}. Leave out one of the two.")
        fetch(str(cfg.source), data.root)
    if data.generator is not None:
        instantiate(data.generator)(data.root)
    check(data.root, data.classes, data.name_pattern, cfg.folds, data.exclude, data.threads)


if __name__ == "__main__":
    main()
