"""What to do where a network and its batch do not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.errors import UserError
from mpoxcv.undocumented import NO_CPU_MEMORY


@contextmanager
def memory_explained(data: MSLDDataModule) -> Iterator[None]:
    """Say which batch size to try where the memory of the GPU, or of the CPU, is not enough.

    Raises:
        UserError: in place of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            free, total = (number / 2**30 for number in torch.cuda.mem_get_info())
            memory = f"the GPU's memory ({total:.1f} GiB, {free:.1f} of them free)"
        elif NO_CPU_MEMORY in str(error):
            memory = "the memory"
        else:
            raise
        size, side = data.batch_size, data.form.size
        ways = [f"data.batch_size={max(1, size // 2)}"] if size > 1 else []
        if data.eval_batch_size > size:
            ways.append(f"data.eval_batch_size={size}")
        ways.append("trainer.precision=bf16-mixed")
        if isinstance(error, torch.OutOfMemoryError) and data.gpu_cache_mb:
            ways.append("data.gpu_cache_mb=0, which keeps the decoded pictures off the GPU")
        raise UserError(
            f"This network on {size} pictures of {side} x {side} pixels at once needs more than {memory}. "
            f"Try {', or '.join(ways)}."
        ) from error
