"""``python -m cggm_med.cli``, the same as ``cggm-med``."""

from cggm_med.cli.app import main

if __name__ == "__main__":
    main()
