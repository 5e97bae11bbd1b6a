"""Build the documentation site into build/site: `make docs`.

The pages are the Markdown files of this repository, which also read well on GitHub, and three kinds of generated
pages: the command line (from the commands), the recipes (from their files) and the API reference (from the
docstrings). Generated pages exist only in the build folder. A warning fails the build.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "docs"
"""Source folder of the site. zensical.toml names the same folder."""

OTHER_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "examples/plugin/README.md": "examples/plugin.md",
    "examples/node/README.md": "examples/node.md",
}
"""Pages that are not in docs/: path in the repository -> path in the site."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def main() -> None:
    """Write the pages and build the site.

    Raises:
        SystemExit: If zensical or mkdocstrings reports a problem.
    """
    shutil.rmtree(PAGES, ignore_errors=True)
    for path, text in pages().items():
        target = PAGES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    for image in (ROOT / "docs").rglob("*"):
        if image.suffix in (".png", ".gif", ".svg"):
            target = PAGES / image.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout, end="")
    # --strict covers links and missing objects, but not griffe's warnings about docstrings.
    if result.returncode != 0 or re.search(r"^(griffe|mkdocstrings|WARNING|Warning)\b", result.stdout, re.MULTILINE):
        sys.exit("the documentation has warnings")
    print(f"open {ROOT / 'build' / 'site' / 'index.html'}")


def pages() -> dict[str, str]:
    """Return every page of the site: path -> Markdown."""
    sources = {path.relative_to(ROOT).as_posix(): path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    sources |= OTHER_PAGES
    texts = {page: rewrite_links(source, sources) for source, page in sources.items()}
    return texts | {"commands.md": command_reference(), "recipes.md": recipe_list()} | api_reference()


def rewrite_links(source: str, pages: dict[str, str]) -> str:
    """Return the text of a Markdown file with its links rewritten for the site.

    A link to a page or an image leads to the copy in the site. The site does not contain the other files of the
    repository, so a link to such a file is replaced with the text of the link.

    Raises:
        SystemExit: If the file or folder that a link names does not exist.
    """
    folder, here = (ROOT / source).parent, Path(pages[source]).parent

    def rewrite(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = (folder / target).resolve()
        if not path.exists():
            sys.exit(f"{source}: the link target {target!r} does not exist")
        name = path.relative_to(ROOT).as_posix()
        page = pages.get(f"{name}/README.md" if path.is_dir() else name)
        if page is None and mark and name.startswith("docs/"):
            page = name.removeprefix("docs/")
        if page is None:
            return text if text.startswith("`") else f"{text} (`{name}`)"
        return f"{mark}[{text}]({Path(os.path.relpath(page, here)).as_posix()}{anchor})"

    return LINK.sub(rewrite, (ROOT / source).read_text("utf-8"))


# -- Command line ------------------------------------------------------------------------------------------------------


def command_reference() -> str:
    """Return the reference of all commands, generated from the typer app."""
    import typer

    from cvae.cli import make_app

    root = typer.main.get_command(make_app())
    parts = ["# Command line", "With `--help`, each command prints its section of this page."]
    for command, context in walk_commands(root, typer.Context(root, info_name="cvae")):
        parts += command_section(command, context)
    return "\n\n".join(parts) + "\n"


def walk_commands(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a command and its visible subcommands, each with its context, in the order of `--help`."""
    import typer

    yield command, context
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        child = command.get_command(context, name)
        if not child.hidden:
            yield from walk_commands(child, typer.Context(child, info_name=name, parent=context))


def command_section(command: Any, context: Any) -> list[str]:
    """Return the paragraphs that describe a command: usage, help, examples, and tables of arguments and options."""
    from cvae.cli._help import option_sections, split_help

    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", f"```text\n{usage}\n```"]
    text, examples = split_help(command.help)
    parts += [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    if examples:
        parts.append("```bash\n" + "\n".join(examples) + "\n```")
    params = [parameter for parameter in command.get_params(context) if parameter.name != "help"]
    for section, records in option_sections(params).items():
        lines = [f"| {section} | |", "|---|---|"]
        lines += [f"| <code>{cell(escape(names))}</code> | {cell(escape(text))} |" for names, text in records]
        parts.append("\n".join(lines))
    return parts


def cell(text: str) -> str:
    """Return text as the content of a table cell."""
    return " ".join(text.split()).replace("|", "&#124;")


def escape(text: str) -> str:
    """Escape text so that Markdown renders code in backticks, but no links and no emphasis."""
    return re.sub(r"([\\[\]*_<])(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\\1", text)


# -- Recipes -----------------------------------------------------------------------------------------------------------


def recipe_list() -> str:
    """Return the page that shows the recipes of the package: the contents of each recipe file."""
    from cvae import model_zoo

    parts = [
        "# Recipes",
        "A recipe is a TOML file with flags for `cvae train --recipe NAME`; flags on the command line take "
        "precedence. A file of your own works the same way: `--recipe mine.toml`.",
    ]
    for name, path in model_zoo.recipes().items():
        parts += [f"## {name}", f"```toml\n{path.read_text('utf-8').strip()}\n```"]
    return "\n\n".join(parts) + "\n"


# -- API reference -----------------------------------------------------------------------------------------------------

NOT_API = ("cvae.cli", "cvae.__main__")
"""Modules that are not in the API reference. The command line has a reference of its own."""


def api_reference() -> dict[str, str]:
    """Return the pages of the API reference: one for `cvae.__all__`, and one for each top-level module or package."""
    import cvae

    names = [name for name in cvae.__all__ if name != "__version__"]
    start = [
        "# API reference",
        "These names are the public interface: `import cvae` provides them all. They change only with a note in the "
        "changelog. The pages below describe the modules behind them, for those who write a part or a tool; names that "
        "begin with an underscore are private.",
        "::: cvae\n    options:\n      members: false\n      show_root_heading: false",
        *[f"::: cvae.{name}" for name in sorted(names, key=str.lower)],
    ]
    groups: dict[str, list[str]] = {}
    for module in modules():
        groups.setdefault(".".join(module.split(".")[:2]), []).append(module)
    start += ["## Modules", "\n".join(f"- [`{group}`](api/{group}.md)" for group in groups)]
    texts = {"api.md": "\n\n".join(start) + "\n"}
    for group, members in groups.items():
        parts = [f"# {group}"]
        for module in members:
            package = (ROOT / Path(*module.split("."), "__init__.py")).is_file()
            # A package re-exports what its modules define, so hide its members: each object is described once.
            options = ["show_root_heading: " + ("false" if module == group else "true")]
            options += ["members: false"] * package
            parts.append(f"::: {module}\n    options:\n      " + "\n      ".join(options))
        texts[f"api/{group}.md"] = "\n\n".join(parts) + "\n"
    return texts


def modules() -> Iterator[str]:
    """Yield every public module below `cvae`, a package before its modules."""
    names = {
        (*Path(folder).relative_to(ROOT).parts, *([] if file == "__init__.py" else [Path(file).stem]))
        for folder, _, files in os.walk(ROOT / "cvae", followlinks=True)
        if "__init__.py" in files
        for file in files
        if file.endswith(".py")
    }
    for parts in sorted(names):
        name = ".".join(parts)
        if len(parts) > 1 and not name.startswith(NOT_API) and not any(part.startswith("_") for part in parts):
            yield name


if __name__ == "__main__":
    main()
