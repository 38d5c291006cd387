"""Say whether the data set is whole and sound, and what leaks; with ``source=…`` fetch it first."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from mpoxcv.cli import entry_point
from mpoxcv.command_line import require_suffix
from mpoxcv.errors import UserError
from mpoxcv.pictures.patients import read_names
from mpoxcv.pictures.tree import left_out
from mpoxcv.terminal import say


@entry_point("get_data")
def main(cfg: DictConfig) -> None:
    """Fetch or make the data if asked to, then check them."""
    # here, so that --help and typos don't wait
    from mpoxcv.audit.audit import audit
    from mpoxcv.audit.page import print_findings, write_page
    from mpoxcv.datasets.check import check
    from mpoxcv.datasets.fetch import fetch
    from mpoxcv.datasets.synthetic import is_synthetic

    data = cfg.data
    require_suffix("report", cfg.report, ".html")
    if cfg.source is not None:
        if data.generator is not None or (cfg.source == "kaggle" and data.name != "msld_v2"):
            raise UserError(
                f"source={cfg.source} does not give data={data.name}. Leave out one of the two."
            )
        fetch(str(cfg.source), data.root, cfg.encoding)
    if data.generator is not None:
        instantiate(data.generator)(data.root)

    names = read_names(data.name_pattern, data.patients)
    exclude = [*data.exclude, *left_out(data.ignore_classes)]
    table = check(data.root, data.classes, names, cfg.folds, exclude)
    root = Path(data.root)
    # it reads and decodes all files
    findings = audit(table, root, data.cache_dir, data.threads, names, data.leaks_from)
    whole = f"Folds 1 to {cfg.folds} are whole and all {len(table)} files decode"
    say(f"{whole}: the data can be used.")
    print_findings(findings)
    if cfg.report is not None:
        write_page(findings, root, Path(cfg.report), is_synthetic(data.root))


if __name__ == "__main__":
    main()
