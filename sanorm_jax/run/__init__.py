"""What keeps a run alive: devices and hosts, its folder, checkpoints, signals."""
