"""The package ``mlx_server`` of a wheel: the only name that an installation adds to an environment's modules."""
