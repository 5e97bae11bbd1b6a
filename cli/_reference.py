"""Reference for the flags of `cvae train` and `cvae tune`, generated from the config fields."""

from cvae.api.flags import all_flags
from cvae.cli._flags import choose_metavar, default_text, help_text, value_type
from cvae.config import TrainConfig
from cvae.data_config import GROUPS
from cvae.flags import ShortFlag


def flag_reference(config: type = TrainConfig) -> str:
    """Return the flags as Markdown: a heading and a table for each group."""
    sections = []
    for group in GROUPS:
        rows = [format_row(config, name) for name, flag in all_flags(config).items() if flag.group == group]
        if rows:
            sections.append(
                "\n".join([f"### {group}\n", "| Flag | Effect | Range | Default |", "|---|---|---|---|", *rows])
            )
    return "\n\n".join(sections) + "\n"


def format_row(config: type, name: str) -> str:
    """Return the table row of a flag: its spelling, its effect, the range of its values, and its default."""
    flag = all_flags(config)[name]
    if isinstance(flag, ShortFlag):
        kind, default = flag.type, flag.automatic
        effect = f"{flag.help} Short for `--set {flag.part}.{name}={choose_metavar(flag, kind)}`."
    else:
        (kind, repeated), default = value_type(config, name), default_text(config, name)
        effect = help_text(flag, repeated)
    spelling = flag.spelling(name)
    usage = f"`{spelling}`, `--no-{spelling[2:]}`" if kind is bool else f"`{spelling} {choose_metavar(flag, kind)}`"
    interval = "" if flag.interval is None else str(flag.interval)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (usage, effect, interval, default or "")) + " |"
