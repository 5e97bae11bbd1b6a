"""Training runs as Python objects."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.errors import CvaeError, UsageError
from cvae.run import METRICS, RUNS, find_run, list_started_runs, read_config, read_metrics, saved_epoch

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from cvae.conditions import Condition
    from cvae.config import Config
    from cvae.runtime import Model


class Run(os.PathLike[str]):
    """Folder of a training run. Functions accept it wherever they take a model.

    Its attributes are read from the folder on each access, so they stay up to date during training.

    Args:
        path: Folder of the run, or its name under `runs/`.

    Raises:
        UsageError: If there is no such run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = find_run(Path(path))
        if folder is None:
            raise UsageError(f"{os.fspath(path)!r} is not a run; cvae.runs() lists the runs under {str(RUNS)!r}")
        self.path = folder
        """Folder of the run."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        try:
            values = [f"{split} {bound:.2f}" for split, bound in self.bounds.items()]
        except (CvaeError, LookupError, TypeError):  # the metrics are damaged
            values = []
        return f"<cvae.Run {str(self.path)!r}" + (f": {', '.join(values)} nats per image>" if values else ">")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path.resolve() == other.path.resolve()

    def __hash__(self) -> int:
        return hash(self.path.resolve())

    @property
    def config(self) -> "Config":
        """Config of the network, and all flags that the run was trained with.

        Raises:
            CvaeError: If config.json can't be read or is damaged.
        """
        return read_config(self.path)

    @property
    def conditions(self) -> "dict[str, Condition]":
        """Conditions of the model by name, each with its kind, and its values or its range and unit.

        Raises:
            CvaeError: If config.json can't be read or is damaged.
        """
        return {condition.name: condition for condition in self.config.model.conditions}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of each epoch, followed by those of the test images if there are any.

        Raises:
            CvaeError: If metrics.jsonl can't be read or is damaged.
        """
        return read_metrics(self.path)

    @property
    def bounds(self) -> dict[str, float]:
        """Bounds of the saved weights, in nats per image; lower is better.

        The keys are "validation" and "test"; a split without images has no key.
        """
        if not (self.path / METRICS).is_file():  # the first epoch has not ended
            return {}
        records, bounds = self.metrics, {}
        if "validation" in (saved := saved_epoch(records)):
            bounds["validation"] = saved["validation"]["bound"]
        if records and "test" in records[-1]:
            bounds["test"] = records[-1]["test"]["bound"]
        return bounds

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the metrics as a data frame, with a row for each epoch and columns such as "validation.bound".

        Raises:
            CvaeError: If pandas is not installed, or the metrics can't be read.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise CvaeError("Run.to_pandas needs pandas, which is not installed: pip install pandas") from error
        return pandas.json_normalize(self.metrics)

    def load(self, **options: Any) -> "Model":
        """Load the exported model, to generate and encode images.

        Args:
            options: Options of `cvae.load`, such as `device`.
        """
        from cvae.runtime import load

        return load(self.path, **options)

    def export(self, format: str = "onnx", **options: Any) -> list[Path]:
        """Export the model, as `cvae export` does, and return the paths of the files.

        Args:
            format: Name of the format: onnx, web, triton, or a format from a plug-in.
            options: Options of the format, such as `half=True`.
        """
        import cvae

        paths: list[Path] = cvae.export(format, self.path, **options)
        return paths

    def evaluate(self, *, split: str | None = None, **options: Any) -> dict[str, Any]:
        """Evaluate the model, as `cvae evaluate` does, and return the report.

        Args:
            split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
            options: Options of `cvae.evaluate`, such as `samples`.
        """
        import cvae

        report: dict[str, Any] = cvae.evaluate(self.path, split=split, **options)
        return report

    def plot_losses(self) -> "Figure":
        """Draw the bound and its terms over the epochs, as `cvae plot losses` does.

        Raises:
            CvaeError: If the run has no complete epoch.
        """
        try:
            from cvae.plots import losses
        except ModuleNotFoundError as error:
            from cvae.errors import MissingExtraError

            raise MissingExtraError("Run.plot_losses", "plot") from error
        return losses.draw({self.path.resolve().name: losses.read_history(self.path)})

    def push(self, name: str, **options: Any) -> Any:
        """Upload the model to the Hugging Face hub, as `cvae hub push` does.

        Args:
            name: Name of the model on the hub, owner/name.
            options: Options of `cvae.hub.push`.
        """
        import cvae

        return cvae.hub.push(self.path, name, **options)


def runs(folder: str | os.PathLike[str] = RUNS) -> list[Run]:
    """Return the runs in a folder, newest first, including unfinished ones.

    Args:
        folder: Folder of the runs.
    """
    return [Run(path) for path in list_started_runs(Path(folder))]
