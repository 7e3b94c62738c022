"""``longshore``, which is ``python -m worker``, too."""

from worker.held import hold


def main() -> None:
    """The command; what it imports comes after the first line of this."""
    hold()
    from worker.cli import main as command

    command()


if __name__ == "__main__":
    main()
