"""The command `cvae runs`."""

from cvae.cli import _shared


def runs(json: _shared.Json = False) -> None:
    """x.

    Examples:
      cvae runs
    """
