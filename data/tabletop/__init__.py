"""Scanned objects on a table: dropped by MuJoCo, rendered by Mitsuba.

Beginning with the first that is needed:

    catalogue   what there is: wheels, objects, floors, and who shows which
    meshes      reads, decimates and wraps meshes
    assets      downloads objects and floors, keeps them in a compact form
    physics     drops objects until they lie
    pictures    renders objects: images and exact masks
    scenes      draws what a scene is made of, and puts the others together

Only the last three need the extra `scenes`, and `meshes` to decimate.
"""
