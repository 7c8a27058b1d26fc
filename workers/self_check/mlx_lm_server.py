"""mlx_lm.server with the BLAS that our workers have: opened before mlx is imported, else it would be a slow one."""

from workers.engine.cpu.install import open_blas


def main() -> None:
    open_blas()
    from mlx_lm.server import main as serve

    serve()


if __name__ == "__main__":
    main()
