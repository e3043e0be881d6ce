"""What a queue carries: JSON {bbox, mip}. Messages are data; nothing in one is ever run."""

from __future__ import annotations

import json
import re
from typing import Any

from segflow.errors import QueueError
from segflow.geometry import Box
from segflow.secrets import hide

Message = dict[str, Any]

KIND = ["segflow", "task"]  # what task-queue takes for the name of a function
_BOX = re.compile(r"-?\d{1,18}--?\d{1,18}(_-?\d{1,18}--?\d{1,18}){2}")


def message(box: Box, mip: int | None = None) -> Message:
    """Give the message of a task: its box, zyx voxels at ``mip`` (None: at the worker's --mip)."""
    found: Message = {"bbox": str(box)}
    if mip is not None:
        found["mip"] = int(mip)
    return found


def box_of(found: Message) -> Box:
    """Give the box of a message.

    Raises:
        BoxError: it has none.
    """
    return Box.parse(found["bbox"])


def check(found: Any) -> Message:
    """Give the message with what it must have, ``bbox`` and perhaps ``mip``, and nothing else.

    >>> check({"bbox": "0-4_0-8_0-8", "mip": 1, "run": "rm"})
    {'bbox': '0-4_0-8_0-8', 'mip': 1}

    Raises:
        QueueError: it is no task.
    """
    if not isinstance(found, dict) or not isinstance(found.get("bbox"), str):
        raise QueueError("the message is no task: it must be JSON with a bbox, z0-z1_y0-y1_x0-x1")
    text, mip = found["bbox"].strip(), found.get("mip")
    if not _BOX.fullmatch(text):
        raise QueueError(f"the message's bbox '{text[:80]}' is no box; write it as z0-z1_y0-y1_x0-x1")
    if mip is not None and (isinstance(mip, bool) or not isinstance(mip, int) or not 0 <= mip <= 30):
        raise QueueError(f"the message's mip '{str(mip)[:40]}' is no whole number from 0 to 30")
    box = Box.parse(text)
    if box.empty:
        raise QueueError(f"the message's box {text} is empty; every stop must be greater than its start")
    return message(box, mip)


def read(text: str | bytes) -> Message:
    """Read a message: our JSON, task-queue's wrapping of it, or a bare box.

    >>> read("0-4_0-8_0-8")
    {'bbox': '0-4_0-8_0-8'}

    Raises:
        QueueError: it is none of these.
    """
    if isinstance(text, bytes):
        text = text.decode("utf8", errors="replace")
    if _BOX.fullmatch(text.strip().strip('"')):
        return check({"bbox": text.strip().strip('"')})
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise QueueError(f"the message '{' '.join(text[:60].split())}' is neither JSON nor a box") from None
    if isinstance(found, dict) and "payload" in found:
        payload = found["payload"]
        if isinstance(payload, list) and len(payload) > 2 and payload[0] == KIND:
            found = payload[2]
    return check(found)


def body(found: Message) -> str:
    """Give a message as the text that a queue carries.

    Raises:
        QueueError: it is no task.
    """
    return json.dumps(check(found))


def line(error: object, length: int = 1000) -> str:
    """Give an error as one printable line of at most ``length`` characters."""
    return "".join(c if c.isprintable() else " " for c in hide(" ".join(str(error).split())))[:length]
