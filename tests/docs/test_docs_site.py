"""The documentation site: its generated pages are complete, and it builds without a warning."""

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import cvae
from cvae import model_zoo
from cvae.cli import make_app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """Import the script that builds the site."""
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(site: ModuleType) -> str:
    return site.command_reference()


def listed_pages(entry: Any) -> Iterator[str]:
    """Yield the pages in a navigation, at any depth."""
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from listed_pages(child)


def test_navigation_lists_every_page(site):
    nav = set(listed_pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert nav == {page for page in site.pages() if not page.startswith("api/")}


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), list(commands(typer.main.get_command(make_app()), "cvae")))
def test_command_reference_has_every_option(reference, path, command):
    _, _, text = reference.partition(f"\n## {path}\n")
    section, _, _ = text.partition("\n## ")
    assert bool(section) != command.hidden
    for parameter in command.params:
        if parameter.param_type_name == "option" and section and not parameter.hidden and parameter.name != "help":
            assert any(f"| <code>{name}" in section for name in parameter.opts), parameter.opts
            assert " ".join((parameter.help or "").split()) in section.replace("\\", "").replace("&#124;", "|")


def test_recipe_page_has_every_recipe(site):
    text = site.recipe_list()
    for name, path in model_zoo.recipes().items():
        assert f"\n## {name}\n\n```toml\n{path.read_text().strip()}\n```" in text


def test_api_reference_has_every_public_name_and_module(site):
    pages = site.api_reference()
    assert all(f"\n::: cvae.{name}\n" in pages["api.md"] for name in cvae.__all__ if name != "__version__")
    text = "\n".join(pages.values())
    for module in ("cvae.config", "cvae.registry", "cvae.models.priors", "cvae.exporters.base", "cvae.runtime.model"):
        assert f"\n::: {module}\n" in text
    assert "::: cvae.cli" not in text


def test_links_are_rewritten_and_a_broken_link_is_an_error(site, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ROOT", tmp_path)
    (tmp_path / "a.md").write_text("[the code](code.py), [b](b.md#part), [web](https://example.org)")
    (tmp_path / "b.md").touch()
    pages = {"a.md": "index.md", "b.md": "sub/b.md"}
    with pytest.raises(SystemExit, match=r"a\.md: the link target 'code\.py' does not exist"):
        site.rewrite_links("a.md", pages)
    (tmp_path / "code.py").touch()
    text = "the code (`code.py`), [b](sub/b.md#part), [web](https://example.org)"
    assert site.rewrite_links("a.md", pages) == text


@pytest.mark.slow
@pytest.mark.integration
def test_site_builds_without_a_warning():
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings")
    result = subprocess.run([sys.executable, ROOT / "docs" / "build_site.py"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    built = (ROOT / "build" / "site" / "api" / "index.html").read_text()
    assert all(f'id="cvae.{name}"' in built for name in cvae.__all__ if name != "__version__")
