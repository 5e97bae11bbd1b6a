"""PyInstaller hooks of this package. PyInstaller finds them by the entry point group `pyinstaller40`."""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folders with hooks."""
    return [str(Path(__file__).parent)]
