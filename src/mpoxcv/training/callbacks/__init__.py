"""What a run writes beside the checkpoints, which are Lightning's ModelCheckpoint's."""

from mpoxcv.training.callbacks.baselines import Baselines
from mpoxcv.training.callbacks.figures import Figures, SamplePictures
from mpoxcv.training.callbacks.history import History
from mpoxcv.training.callbacks.provenance import Provenance
from mpoxcv.training.callbacks.reference import Reference
from mpoxcv.training.callbacks.results import Results
from mpoxcv.training.callbacks.within_epoch import WithinEpochCheckpoint

__all__ = [
    "Baselines", "Figures", "History", "Provenance", "Reference", "Results",
    "SamplePictures", "WithinEpochCheckpoint",
]  # fmt: skip
