"""Function that searches for better training flags.

Importing this module is cheap and requires no extras: the function imports what it needs when it is called.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvae.api.flags import add_flags, check_flags
from cvae.api.train_config import build_config, make_run_name
from cvae.config import TrainConfig
from cvae.errors import MissingExtraError
from cvae.messages import one_line_warnings


@add_flags(TrainConfig)
def tune(
    *,
    trials: int = 20,
    search: Sequence[str] | Mapping[str, Any] | None = None,
    study: str | None = None,
    storage: str | None = None,
    out: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Search for the flags of `cvae.train` that give the best validation bound.

    Repeat the call to continue an interrupted study. Repeat it with more trials to extend a finished study.

    Example:
        `cvae.tune(arch="mlp", conditional=True, trials=20, search={"latent_dim": [8, 16]})`

    Args:
        trials: Total number of trials in the study, including earlier ones.
        search: Flags and options to vary: a list such as ["lr=1e-4..1e-2:log", "arch.width=16,32"], or a dict such as
            {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "arch.width": [16, 32]}. It overrides the [search] table of
            the recipe. If there is neither, the learning rate, the batch size, the latent dimension and the moving
            average are varied.
        study: Name of the study; None for a name made from the recipe, or from the data and model.
        storage: File or database of the study, which several machines can share; None for a file in `out`.
        out: Folder of the study; None for studies/NAME.
        recipe: Recipe to take flags from: a name, a .toml file or a config.json.
        **flags: Flags of the command `cvae train`, by name, and `options`; they override the recipe.

    Returns:
        The study: its trials (the best one first), the recipe and run of the best trial, and the paths of the plots.
        Bounds are in nats per image.

    Raises:
        TypeError: If an argument is not a flag.
        UsageError: If a flag or the search space is not valid, or the study was started with different flags.
        MissingExtraError: If the packages for the search are not installed.
        CvaeError: If the storage can't be used, or trials fail.
        Interrupted: After Ctrl-C or SIGTERM. The study can be continued.
    """
    if not all(map(importlib.util.find_spec, ("torch", "optuna", "psutil"))):
        raise MissingExtraError("cvae tune", "tune")
    from cvae import model_zoo
    from cvae.tuning.report import plot, summary
    from cvae.tuning.search_space import default_space, make_space, parse_search, read_search
    from cvae.tuning.study import Study

    with one_line_warnings():
        overrides = check_flags(TrainConfig, flags, tune)
        base = build_config(recipe, overrides)
        varied = {} if recipe is None else read_search(model_zoo.recipe(os.fspath(recipe)))
        varied |= search if isinstance(search, Mapping) else parse_search(list(search or []))
        space = make_space(varied) if varied else default_space(base, overrides)
        folder = None if out is None else Path(out)
        name = study or (folder.name if folder else make_run_name(recipe, base))
        current = Study(base, space, name=name, out=folder or Path("studies") / name, storage=storage)
        current.run(trials)
        images = plot(current)
    return {**summary(current), "pictures": list(map(str, images))}
