"""Links to pages of incidents: a token that cannot be guessed leads, for a while, to the incidents of one text."""

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from lambdas.sensors.stores import MOST_LINKED, IncidentsStore, Link, incident_entry
from overcut.sensors.incidents import Incident

# 83 bits: a function's own URL leaves 88 of a text's 160 characters
TOKEN_LENGTH = 14
_ALPHABET = string.ascii_letters + string.digits


def new_token() -> str:
    """What nobody can guess, in characters that no phone parts from a link."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LENGTH))


@dataclass(frozen=True)
class PageLinks:
    """The `Links` of `overcut.sensors.alerts`.

    Attributes:
        prefix: the page's address, to which a token is added.
        lives_for: of the machine's time.
    """

    store: IncidentsStore
    prefix: str
    lives_for: timedelta

    def make(self, contact_id: str, incidents: Sequence[Incident], wall_now: int) -> str:
        token, linked = new_token(), incidents[:MOST_LINKED]
        link = Link(
            contact_id=contact_id,
            incidents=[incident_entry(incident) for incident in linked],
            names=[incident.equipment.name for incident in linked],
            nonce=new_token(),
            expires_at=wall_now + int(self.lives_for.total_seconds()),
        )
        self.store.put_link(token, link)
        return f"{self.prefix}{token}"
