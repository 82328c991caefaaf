"""``python -m sparsem``."""

from sparsem.cli import main

if __name__ == "__main__":
    main()
