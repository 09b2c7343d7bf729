"""Sources of datasets: one module each, with `build(options) -> Source`.

`build` raises `UserError` if an option is invalid or not used by the dataset, and
`SourceError` if the original data is missing, damaged or of another dataset.
"""

SOURCES = {
    "shapes": ".shapes",
    "blocks": ".blocks",
    "tabletop": ".tabletop",
    "clevr_with_masks": ".clevr_with_masks",
    "tetrominoes": ".tetrominoes",
    "clevr": ".clevr",
    "movi_c": ".movi",
    "movi_d": ".movi",
    "movi_e": ".movi",
    "coco": ".coco",
    "voc": ".voc",
    "images": ".images",
}
