"""Sources of datasets: one module each, with `build(options) -> Source`."""

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
