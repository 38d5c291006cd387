"""What a run writes beside its checkpoints."""

from mpoxcv.callbacks.baselines import Baselines
from mpoxcv.callbacks.figures import Figures, SamplePictures
from mpoxcv.callbacks.history import History
from mpoxcv.callbacks.provenance import Provenance
from mpoxcv.callbacks.results import Results
from mpoxcv.callbacks.within_epoch import WithinEpochCheckpoint

__all__ = ["Baselines", "Figures", "History", "Provenance", "Results", "SamplePictures", "WithinEpochCheckpoint"]
