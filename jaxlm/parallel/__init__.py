"""Devices and processes: meshes, shard_map, several hosts."""
