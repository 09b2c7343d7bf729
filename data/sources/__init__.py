"""Where datasets come from: a module each, with `build(options) -> Source`."""

SOURCES = {
    "shapes": "data.shapes",
}
