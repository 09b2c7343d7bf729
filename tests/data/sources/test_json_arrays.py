"""Elements of JSON files, read one by one."""

import json

import pytest

from sanorm_jax.data.sources import json_arrays


@pytest.mark.parametrize("indent", [None, 1])
def test_elements_of_json_are_those_of_the_whole(indent):
    content = {"a": {"b": [1]}, "b": [{"x": "]"}, 2, []], "c": "[", "d": [], "e": [3]}
    text = f"  {json.dumps(content, indent=indent)}\n"
    found = list(json_arrays.elements(text, "b", "e", "d"))
    assert [(key, value) for key, value, _ in found] == [
        *(("b", {"x": "]"}), ("b", 2), ("b", [])),
        ("e", 3),
    ]
    for _, value, (first, last) in found:
        assert json.loads(text[first:last]) == value
    # A text that ends early never passes for a whole one.
    whole = text.rstrip()
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            list(json_arrays.elements(whole[:end], "b", "e", "d"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"b": [1,]}', "nothing behind a comma"),
        ('{"b": [1],}', "nothing behind a comma"),
        ('{"b": [1 2]}', "where a comma is due"),
        ('{1: 2, "b": []}', "is no key"),
        ('{"b": []} x', "text behind the object"),
        ('{"b": [1], "b": [2]}', "'b' is there twice"),
        ('{"b": {}}', "'b' is no array"),
        ('{"a": []}', "has no b"),
    ],
)
def test_what_is_no_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        list(json_arrays.elements(text, "b"))
