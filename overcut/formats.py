"""Formats: which versions of everything stored this code reads.

What is stored says its version as `format`; what says none has the first. Whoever changes what something stored holds
or means raises its number where it is written and here: an older Overcut then refuses it, where it would misread it.
docs/reliability.md has the table.

    RefusedError
     └─ UnknownFormatError   it was stored by a newer version of Overcut, or by one whose formats are read no more
"""

from collections.abc import Mapping
from typing import Any

from overcut import RefusedError

READ_FORMATS: Mapping[str, tuple[int, ...]] = {
    "reading": (1,),
    "sensor": (1,),
    "source": (1,),
    "seen": (1,),
    "exported readings": (1,),
    "cutoff": (1,),
    "model of sensors": (1,),
    "incident": (1, 2),
    "incident head": (1,),
    "link": (1,),
    "texts of a contact": (1,),
    "model of ETL jobs": (2,),
    "verdict": (1,),
    "ticket head": (1,),
    "ticket entry": (1,),
}


class UnknownFormatError(RefusedError):
    """What is stored has a format that this version of Overcut does not read; the text says which, and what to do."""


def check_format(of: str, stored: Mapping[str, Any]) -> None:
    """Refuse what another version of Overcut stored, if this one would misread it.

    Args:
        of: what it is, a key of `READ_FORMATS`.

    Raises:
        UnknownFormatError: it has a format that is not read here.
    """
    found = stored.get("format", 1)
    if found not in READ_FORMATS[of]:
        read = " and ".join(map(str, READ_FORMATS[of]))
        raise UnknownFormatError(
            f"{of} has format {found!r}, this version of Overcut reads {read}: deploy the version that stored it"
        )
