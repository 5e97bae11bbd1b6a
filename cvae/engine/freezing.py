"""Freezing of parameters, so that training changes only the rest of a network."""

from collections.abc import Iterator, Sequence
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
        for name, parameter in parameters.items():
            if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*"):
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"--freeze {' --freeze '.join(patterns)} leaves nothing to train; remove one of them")


def frozen_modules(module: nn.Module, patterns: Sequence[str] = ()) -> Iterator[nn.Module]:
    """Yield the largest modules in which all parameters are frozen, and those without parameters that `patterns` name.

    In training, they must be in evaluation mode: otherwise, the statistics of batch norm, or the standard deviation of
    a likelihood, would still change.
    """
    parameters = [*module.parameters()]
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
    else:
        for child in module.children():
            yield from frozen_modules(child)
    for name, part in module.named_modules():
        if any(fnmatchcase(name, pattern) for pattern in patterns) and not [*part.parameters()]:
            yield part
