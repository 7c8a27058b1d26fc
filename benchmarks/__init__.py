"""How fast the server is: beside mlx_lm.server, beside its own engine, and what a token costs in each process."""
