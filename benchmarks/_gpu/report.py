"""Measurements of one part of the GPU benchmark, and the JSON file that holds them."""

import gc
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Report:
    """Measurements of one part of the benchmark. The JSON file is rewritten after each of them.

    Args:
        path: JSON file to write.
        seconds: time limit of the part.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.deadline = path, time.monotonic() + seconds
        self.results: dict[str, Any] = {}

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def measure(self, name: str, function: Callable[..., Any], *args: Any, needs: float = 0.0, **options: Any) -> Any:
        """Call a function and record its result or error. Skip the call if fewer than `needs` seconds are left."""
        if self.seconds_left < needs:
            self.add(name, f"skipped: {self.seconds_left:.0f} s left, {needs:.0f} needed")
            return None
        started = time.monotonic()
        try:
            result = function(*args, **options)
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()
            self.add(name, {"error": f"{type(error).__name__}: {error}"[:500], "traceback": lines[-12:]})
            return None
        finally:
            release_memory()
        if isinstance(result, dict):
            result = {**result, "elapsed_seconds": round(time.monotonic() - started, 2)}
        self.add(name, result)
        return result

    def add(self, name: str, result: Any) -> None:
        """Record a result, and print the last characters of its JSON."""
        self.results[name] = result
        write_json(self.path, self.results)
        latest = result[-1] if name.endswith("history") else result
        print(f"  {name}: {json.dumps(latest, default=str)[-300:]}", flush=True)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1, default=str), "utf-8")
    partial.replace(path)


def release_memory() -> None:
    """Free the memory that the last measurement used."""
    import torch  # imported here, because the process that starts the parts does not need torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
