"""Text of others, shown to people: what would not be seen in it is spelled out."""


def visible(text: str) -> str:
    """`text` in one line: any white space as one space, and characters that control, hide, or turn the direction of
    others as their code, such as `\\u202e`."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
