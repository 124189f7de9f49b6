"""Text of others in the terminal."""

from rich.markup import escape

from overcut.plain_text import visible


def shown(text: str) -> str:
    """`text` for rich's console: in one line, no markup of it, and nothing that the terminal would obey."""
    return escape(visible(text))
