"""Where datasets come from: a module each, with `build(options) -> Source`."""

SOURCES = {
    "shapes": "data.sources.shapes",
    "blocks": "data.sources.blocks",
    "clevr_with_masks": "data.sources.clevr_with_masks",
    "tetrominoes": "data.sources.tetrominoes",
    "clevr": "data.sources.clevr",
    "movi_c": "data.sources.movi",
    "movi_d": "data.sources.movi",
    "movi_e": "data.sources.movi",
    "images": "data.sources.images",
}
