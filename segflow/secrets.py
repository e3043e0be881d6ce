"""What must never be written anywhere: the values of secret variables, and passwords in addresses."""

from __future__ import annotations

import os
import re

HIDDEN = "***"
_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@:]+:[^\s/@]+@", re.IGNORECASE)
_SIGNED = re.compile(
    r"((?:X-Amz-(?:Signature|Security-Token|Credential)|Signature)=)[^&\s'\"]+", re.IGNORECASE
)
SHORT = 8  # characters: shorter values are words that may stand anywhere


def hide(text: str) -> str:
    """Give a text without the values of secret variables and without passwords in addresses.

    Secret are environment variables whose names tell of a secret, token, password or key.

    >>> hide("cannot read https://me:hunter2@host/seg")
    'cannot read https://***@host/seg'
    """
    text = _SIGNED.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text))
    values = {v for k, v in os.environ.items() if len(v) >= SHORT and _NAMES.search(k) and not _is_place(v)}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def _is_place(value: str) -> bool:
    """Whether a variable only names the file that holds the secret."""
    return value.startswith(("/", "~"))
