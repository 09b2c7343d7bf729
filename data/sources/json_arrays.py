"""Reads the arrays of a large JSON file element by element."""

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


def _next(text: str, position: int) -> int:
    """Returns where the next token begins; ValueError at the end of the text."""
    position = _SPACE.match(text, position).end()
    if position >= len(text):
        raise ValueError("truncated")
    return position


def _after_item(text: str, position: int, end: str) -> int:
    """Returns where the next item begins, or the end is, behind an item."""
    position = _next(text, position)
    if text[position] == ",":
        position = _next(text, position + 1)
        if text[position] == end:
            raise ValueError("nothing behind a comma")
    elif text[position] != end:
        raise ValueError(f"{text[position]!r} where a comma is due")
    return position


def elements(text: str, *keys: str) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Yields key, value and place of each element of some arrays of an object.

    Whole, as Python objects, a file takes ten times its size in memory. An element's
    place is its first and last character in the text, to decode it again.

    Args:
      text: a JSON object.
      *keys: whose arrays to read, in the order of the file; other keys are passed over.

    Raises:
      ValueError: no JSON object, truncated, no array under a key, or a key that is
        missing or there twice.
    """
    position, found = _next(text, 0), set()
    if text[position] != "{":
        raise ValueError("no JSON object")
    position = _next(text, position + 1)
    while text[position] != "}":
        key, position = _DECODER.raw_decode(text, position)
        position = _next(text, position)
        if not isinstance(key, str) or text[position] != ":":
            raise ValueError(f"{key!r} is no key")
        if key in found:
            raise ValueError(f"{key!r} is there twice")
        found.add(key)
        position = _next(text, position + 1)
        if key in keys:
            if text[position] != "[":
                raise ValueError(f"{key!r} is no array")
            position = _next(text, position + 1)
            while text[position] != "]":
                first = position
                value, position = _DECODER.raw_decode(text, first)
                yield key, value, (first, position)
                position = _after_item(text, position, "]")
            position += 1
        else:
            _, position = _DECODER.raw_decode(text, position)
        position = _after_item(text, position, "}")
    if text[position + 1 :].strip():
        raise ValueError("text behind the object")
    if missing := set(keys) - found:
        raise ValueError(f"has no {', '.join(sorted(missing))}")
