"""How fast the server is: beside mlx_lm.server, beside its own engine, and what its parts cost.

``python -m benchmarks`` runs everything and writes the results; ``docs/benchmarks.md`` says what each workload is.
"""
