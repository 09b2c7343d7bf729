"""Scanned objects on a table: dropped by MuJoCo, rendered by Mitsuba.

assets      downloads the objects and floors, decimates and caches them
physics     drops objects until they lie
pictures    renders poses of objects: images and exact masks
scenes      draws what a scene is made of; puts the three together
"""
