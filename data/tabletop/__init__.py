"""Scenes of scanned objects on a table, simulated by MuJoCo and rendered by Mitsuba.

The modules, from the lowest level up:

    catalogue   names of the wheels, objects and floors, and their splits
    meshes      reading, decimation and convex hulls of meshes
    assets      download and cache of objects and floors
    physics     simulation of falling objects
    pictures    rendering of images and exact masks
    scenes      random scenes, simulated and rendered

Only `physics`, `pictures`, `scenes` and `meshes.decimate` need the extra `scenes`.
"""
