"""``python -m ensemw2s``, and so ``torchrun -m ensemw2s`` and ``accelerate launch -m ensemw2s``."""

from ensemw2s.cli.main import main

if __name__ == "__main__":
    main()
