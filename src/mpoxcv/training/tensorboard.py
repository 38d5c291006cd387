"""TensorBoard with train and val on the same axes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from mpoxcv.storage.files import StrPath
from mpoxcv.undocumented import event_file, hparams_summaries

SPLITS = ("train", "val", "val_best", "test")


class SplitTensorBoardLogger(TensorBoardLogger):
    """Log ``<split>/<metric>`` as ``curves/<metric>`` of a run ``<split>`` below the run's folder.

    TensorBoard draws a chart a tag with a line a run, so that train and val share axes; Lightning's
    own logger would give two charts. Metrics of single classes, ``<split>/<metric>/<class>``, get
    the tag ``per_class/<metric>/<class>``.

    Args:
        save_dir: the run's folder, where names of no split are logged.
    """

    def __init__(self, save_dir: StrPath) -> None:
        super().__init__(str(save_dir), name="", version="", default_hp_metric=False)
        self._writers: dict[str, SummaryWriter] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log each metric in its split's run; Lightning's count of epochs is left out."""
        for name, value in metrics.items():
            if name.partition("/")[0] in SPLITS:
                split, tag = split_and_tag(name)
                if split not in self._writers:
                    self._writers[split] = SummaryWriter(str(Path(self.log_dir) / split))
                self._writers[split].add_scalar(tag, value, step)
            elif name != "epoch":
                self.experiment.add_scalar(name, value, step)

    @rank_zero_only
    def log_final(self, options: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Fill the HPARAMS page.

        Args:
            options: numbers, booleans and text by name.
            metrics: by ``<split>/<metric>``; the page shows the values that were logged.
        """
        experiment, start, end = hparams_summaries(options, metrics)
        content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
        for info in content.experiment.metric_infos:
            info.display_name = info.name.tag
            info.name.group, info.name.tag = split_and_tag(info.name.tag)
        experiment.value[0].metadata.plugin_data.content = content.SerializeToString()
        with SummaryWriter(self.log_dir) as writer:
            for summary in (experiment, start, end):
                event_file(writer).add_summary(summary)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close all files; a later call opens new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        super().finalize(status)


def write_summary_run(
    folder: StrPath,
    figures: Mapping[str, Path],
    text: str,
    options: Mapping[str, str],
    metrics: Mapping[str, float],
) -> None:
    """Write a run of its own for what several runs say together, in place of an earlier one.

    It has PNG files by tag, a ``text`` in Markdown, and options and metrics for the HPARAMS page;
    the metrics, by ``<split>/<metric>``, are also points in the charts of the single runs.
    """
    for old in Path(folder).rglob("events.out.tfevents.*"):
        old.unlink()
    logger = SplitTensorBoardLogger(folder)
    for tag, file in figures.items():
        add_png(logger.experiment, tag, file, 0)
    logger.experiment.add_text("summary", text)
    logger.log_metrics(metrics, 0)
    logger.log_final(options, metrics)
    logger.finalize("success")


def add_png(writer: SummaryWriter, tag: str, file: Path, step: int) -> None:
    """Show a PNG file as it is; ``add_figure`` would draw it again, ``add_image`` encode it."""
    with Image.open(file) as header:
        size = {"width": header.width, "height": header.height}
    image = Summary.Image(**size, colorspace=len("RGBA"), encoded_image_string=file.read_bytes())
    event_file(writer).add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def split_and_tag(name: str) -> tuple[str, str]:
    """Return run and tag of a metric; TensorBoard's sections are the tags' first parts."""
    split, _, metric = name.partition("/")
    return split, f"per_class/{metric}" if "/" in metric else f"curves/{metric}"


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """Return the first TensorBoard logger's writer, in the process that writes, or None."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None
