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


def elements(text: str, *keys: str) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Yields key, value and place of each element of some arrays of an object.

    Whole, as Python objects, a file takes ten times its size in memory. An element's
    place is its first and last character in the text, to decode it again.

    Args:
      text: a JSON object.
      *keys: whose arrays to read, in the order of the file; other keys are passed over.

    Raises:
      ValueError: truncated, no object, no array under a key, or a key is missing.
    """
    position, missing = _next(text, 0), set(keys)
    if text[position] != "{":
        raise ValueError("no JSON object")
    while text[position] != "}":
        position = _next(text, position + 1)
        if text[position] == "}":
            break
        key, position = _DECODER.raw_decode(text, position)
        position = _next(text, position)
        if text[position] != ":":
            raise ValueError(f"no value of {key!r}")
        position = _next(text, position + 1)
        if key not in missing:
            _, position = _DECODER.raw_decode(text, position)
        else:
            missing.remove(key)
            if text[position] != "[":
                raise ValueError(f"{key!r} is no array")
            while text[position] != "]":
                position = first = _next(text, position + 1)
                if text[position] == "]":
                    break
                value, position = _DECODER.raw_decode(text, position)
                yield key, value, (first, position)
                position = _next(text, position)
                if text[position] not in ",]":
                    raise ValueError(f"no comma in {key!r}")
            position += 1
        position = _next(text, position)
        if text[position] not in ",}":
            raise ValueError(f"no comma after {key!r}")
    if missing:
        raise ValueError(f"has no {', '.join(sorted(missing))}")
