"""Several devices and several processes: meshes, shard_map, distributed runs."""
