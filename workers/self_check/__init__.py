"""What an engine is and does on this machine, for `mlx-server bench --self`."""
