"""Data that a file names, such as the config of a run. The file may be untrusted. Does not import torch."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from cvae.data_config import DataConfig
from cvae.errors import UsageError, one_line
from cvae.fingerprint import Fingerprint
from cvae.registry import ARGUMENT_DATASETS, DATASETS

if TYPE_CHECKING:
    from cvae.config import Config


@dataclass(frozen=True, kw_only=True)
class RecordedDataConfig(DataConfig):
    """Choice of a data set that a file has recorded, rather than one that the user has made.

    A file must not choose which folders are read and written. So its data set is loaded only if its content has the
    recorded fingerprint, and nothing is written to the recorded folder.

    Attributes:
        fingerprint: fingerprint of the data set; None if the file has none.
        recorded_dir: recorded folder for data sets. `data_dir` is None unless the user sets it.
    """

    fingerprint: Fingerprint | None = None
    recorded_dir: str | None = None

    @classmethod
    def of_run(cls, config: "Config") -> Self:
        """Return the choice that the config of a run has recorded."""
        values = vars(config.training.data_config) | {"data_dir": None}
        return cls(**values, fingerprint=config.fingerprint, recorded_dir=config.training.data_dir)

    @property
    def confirmed(self) -> DataConfig:
        """The same choice made by the user."""
        return DataConfig(**{field.name: getattr(self, field.name) for field in fields(DataConfig)})

    def check(self) -> None:
        """Check that the data set may be loaded, to compare its fingerprint.

        Raises:
            UsageError: If the file names a path without a fingerprint, a path of another computer, or an argument of a
                plug-in.
        """
        name, _, argument = self.data.partition(":")
        if any(map(_is_network_path, (self.data, argument, self.recorded_dir or ""))):
            is_allowed = False  # Windows would send the user's password hash to that computer
        elif name in ARGUMENT_DATASETS:
            is_allowed = self.fingerprint is not None or not argument
        else:
            is_allowed = DATASETS.is_builtin(name) or not argument
        if not is_allowed:
            data = one_line(self.data, 120)
            raise UsageError(
                f"the data set {data!r} was named by the model's files, not by you, so it is not read; if you trust "
                f"this path, add --data {data!r}, and --data-dir if the data are to be stored elsewhere"
            )


def _is_network_path(path: str) -> bool:
    """Return whether Windows takes a path for that of another computer, such as \\\\server\\share."""
    return path[:2].replace("\\", "/") == "//"
