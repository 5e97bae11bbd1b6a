"""Freezing of parameters, so that training changes only the rest of a network."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from cvae.errors import UsageError, suggest


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude parameters from training.

    Args:
        model: network to train.
        patterns: patterns of names of parameters or modules, such as "encoder" or "decoder.rungs.*". A module stands
            for all its parameters.

    Raises:
        UsageError: If a pattern matches nothing, or the patterns match all parameters.
    """
    parameters = dict(model.named_parameters())
    names = [*(name for name, _ in model.named_modules() if name), *parameters]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = suggest(pattern, [name for name, _ in model.named_children()])
            raise UsageError(f"--freeze {pattern}: no module or parameter has such a name; {hint}")
        if not _matches(pattern, parameters) and _matches(pattern, dict(model.named_buffers())):
            raise UsageError(f"--freeze {pattern}: this part has no parameters that --freeze could exclude; remove it")
        for name in _matches(pattern, parameters):
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"--freeze {' --freeze '.join(patterns)} leaves nothing to train; remove one of them")


def _matches(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names of tensors that a pattern stands for, or that belong to a module that it stands for."""
    return [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]


def frozen_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules in which all parameters are frozen.

    In training, they must be in evaluation mode: otherwise, the statistics of batch norm would still change.
    """
    parameters = [*module.parameters()]
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
    else:
        for child in module.children():
            yield from frozen_modules(child)
