"""What we take of torch, Lightning and Hydra though their documentation does not promise it.

For each: why, and the issue upstream. ``tests/test_undocumented.py`` fails where an upgrade takes
one away. Lockstep, which stands in for a part of Lightning's loop, has its own: see counters and
alone in ``mpoxcv.lockstep``. Seen in torch 2.15, Lightning 2.6.6 and hydra-core 1.3.8.
"""

import re

# torch raises a bare RuntimeError where the CPU's memory is not enough; of a GPU's it has a class.
NO_CPU_MEMORY = "DefaultCPUAllocator: "

# Errors of others that a person can do something about: by the class's name, a colon and the first
# line of the text, of which the group is told; what to do besides.
REFUSALS = {
    # a bare RuntimeError of torch: its text alone names the operation (pytorch #64883)
    r"(\S+ does not have a deterministic implementation)": "It gives other last digits each time on this device. "
    "Train all the same with trainer.deterministic=warn, or take another network or trainer=cpu.",
    # bare errors of torch and Lightning
    "(Expected more than 1 value per channel when training.*)": "BatchNorm takes no single picture where the network has "
    "shrunk it to one pixel: data.batch_size=2 or more for each process, or a larger data.image_size.",
    "(Early stopping conditioned on metric.*)": "Is a whole epoch trained, and validated (trainer.limit_val_batches)?",
    r"(`val_check_interval` \(.*)": "See trainer.val_check_interval.",
    # in a private module of torch, and mostly for want of a compiler
    "^InductorError: (.*)": "The network cannot be compiled here. Install a C++ compiler (such as g++), or leave out "
    "classifier.compile.",
    # what joblib and submitit raise when a job's process has ended without a word
    "^(?:TerminatedWorkerError|BrokenProcessPool|UncompletedJobError): (.*)": "A job's process was killed: by the "
    "system, for want of memory or time, or by someone. Others are kept.",
}

# Hydra's exception for an unknown option or group does not hold its name (hydra #349).
UNKNOWN_OPTION = re.compile(r"Could not override '([^']+)'(\. No match in the defaults list)?")

# Hydra raises a ValueError where a value stands for a group's option (hydra #349).
WRONG_GROUP_VALUE = "Config group override"

# Hydra's exception for a _target_ that cannot be imported holds its name and option as text alone.
NO_TARGET = re.compile(
    r"Error locating target '([^']+)'(?:.*?^full_key: (\S+))?", re.DOTALL | re.MULTILINE
)

# Lightning's exception for a wrong option is public, and costs seconds to import.
LIGHTNING_REFUSES = "MisconfigurationException"

# Warnings that are not for the people who run our scripts, by the beginning of their text:
UNWANTED_WARNINGS = (
    # Lightning on torch 2.15, in every fit (pytorch-lightning #21326)
    r".*isinstance\(treespec, LeafSpec\).*",
    # of a run that goes on in its own folder
    "Checkpoint directory .* exists and is not empty",
    # scoring takes weights alone
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be",
    # it looks for a DataLoader's sampler; our DataModule has its own one order of batches
    "You requested to overfit but enabled .* dataloader shuffling",
    # hydra/launcher=slurm_cpu uses it, and not Lightning
    "The `srun` command is available",
    # of a frozen backbone, which is meant
    r"Found \d+ module\(s\) in eval mode",
)
# Of Lightning, advice on loader workers and unused metrics, which is not for batches from memory;
# of torch's exporter to ONNX, a line for each constant that it finds twice.
CHATTY_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "onnx_ir", "onnxscript", "torch.onnx")

# Importing Lightning sets it to 1 (pytorch-lightning #15110); torch's Adam then looks for a GPU's
# library in every step: 0.4 ms on a CPU.
NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
