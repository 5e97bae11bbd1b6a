"""Loading of data sets that a file names, such as the config of a run."""

from collections.abc import Callable
from dataclasses import replace

from cvae.atomic import ReadOnlyFolder, expand_user, read_only
from cvae.config import DataConfig
from cvae.data.dataset import Dataset
from cvae.data.fingerprints import compute_fingerprint
from cvae.data.splits import list_folder
from cvae.errors import CvaeError, MissingExtraError, UsageError
from cvae.recorded_data import RecordedDataConfig
from cvae.registry import DATASETS


def load_recorded(config: RecordedDataConfig, load: Callable[[DataConfig], Dataset]) -> Dataset:
    """Load a data set that a file has recorded, if its content has the recorded fingerprint.

    The recorded folder for data sets is used if it holds the data set already, but nothing is written to it.

    Args:
        config: the recorded choice.
        load: function that loads the data set that a user has chosen.

    Raises:
        UsageError: If the file must not choose this data set.
        CvaeError: If the content differs, or the data set can't be loaded.
    """
    config.check()
    dataset = _load_read_only(config, load)
    if dataset is None:
        _compare_counts(config)
        dataset = load(config.confirmed)
    if config.fingerprint is not None:
        fingerprint = dataset.fingerprint or compute_fingerprint(dataset, config.data.partition(":")[0])
        if difference := config.fingerprint.find_difference(fingerprint):
            raise _difference_error(config, difference)
    return dataset


def _load_read_only(config: RecordedDataConfig, load: Callable[[DataConfig], Dataset]) -> Dataset | None:
    """Load a data set from the recorded folder, or return None if this would write to the folder."""
    if config.data_dir is not None or config.recorded_dir is None:
        return None
    if not DATASETS.is_builtin(config.data.partition(":")[0]):  # a plug-in may write to the folder
        return None
    try:
        folder = expand_user(config.recorded_dir)
    except UsageError:  # the run is from another computer
        return None
    try:
        with read_only(folder):
            return load(replace(config, data_dir=config.recorded_dir).confirmed)
    except (ReadOnlyFolder, MissingExtraError):  # the folder lacks the data set, which would be downloaded
        return None


def _compare_counts(config: RecordedDataConfig) -> None:
    """Check that a folder has as many images as recorded, before any of them is decoded.

    There may be more, because images that can't be read are not recorded, but not twice as many: then a file that
    records a single image could have any folder decoded.

    Raises:
        CvaeError: If it has not.
    """
    name, _, argument = config.data.partition(":")
    root = expand_user(argument)
    if config.fingerprint is None or not name.startswith("folder") or not root.is_dir():
        return
    splits = list_folder(root, argument, classes_only=name == "folder-classes").splits
    count, recorded = sum(len(split.paths) for split in splits.values()), sum(config.fingerprint.images.values())
    if not 0 < recorded <= count <= 2 * recorded:
        raise _difference_error(config, f"there are {count:,} images, not {recorded:,}")


def _difference_error(config: RecordedDataConfig, difference: str) -> CvaeError:
    return CvaeError(
        f"{config.data!r} does not hold the data that the run was trained on: {difference}; restore them, or name "
        "other data with --data"
    )
