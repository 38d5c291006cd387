"""Learning-rate schedules of torch by config: with lengths in epochs, or made of schedules."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from mpoxcv.errors import UserError

# of the first group of parameters
RATES = ("max_lr", "base_lr")
EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")


def make_scheduler(
    factory: Callable[[Optimizer], Any], optimizer: Optimizer, updates: Callable[[], int]
) -> Any:
    """Return the scheduler that a factory makes of an optimizer.

    Args:
        factory: where it is a ``functools.partial``, text such as ``5 epochs`` among its keywords
            becomes a number of updates, and its ``schedulers``, partials too, are made first.
        optimizer: whose rate is scheduled.
        updates: tells how often the rate is updated in an epoch.

    Raises:
        UserError: text is no number of epochs.
    """
    if not isinstance(factory, functools.partial):
        return factory(optimizer)
    keywords = {name: _counted(name, value, updates) for name, value in factory.keywords.items()}
    # OneCycleLR and CyclicLR would raise each group of parameters to the same rate
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if len(rates) > 1:
        keywords |= {
            name: [rate / rates[0] * value for rate in rates]
            for name, value in keywords.items() if name in RATES and isinstance(value, float | int)
        }  # fmt: skip
    if "schedulers" not in keywords:
        return factory.func(optimizer, *factory.args, **keywords)
    parts = [make_scheduler(part, optimizer, updates) for part in keywords.pop("schedulers")]
    # by name: SequentialLR and ChainedScheduler have them in another order
    return factory.func(optimizer=optimizer, schedulers=parts, **keywords)


def _counted(name: str, value: Any, updates: Callable[[], int]) -> Any:
    if isinstance(value, str) and "epoch" in value:
        if not (match := EPOCHS.fullmatch(value)):
            hint = "It should be a number of epochs, such as '5 epochs'; give trainer.max_epochs."
            raise UserError(f"scheduler.{name}={value!r} is no length. {hint}")
        return round(float(match[1]) * updates())
    if isinstance(value, Sequence) and not isinstance(value, str):
        # plain, since checkpoints hold it
        return [_counted(name, item, updates) for item in value]
    return value


@contextmanager
def refusal_explained(option: str) -> Iterator[None]:
    """Raise a UserError that names the option where torch refuses what it says."""
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{option} cannot be taken as it is: what a callback thawed has no {error}. Choose another."
        ) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{option} cannot be taken as it is: {error}") from error
