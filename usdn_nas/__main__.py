"""``python -m usdn_nas``: the command line, where a module is wanted (``torchrun -m usdn_nas``)."""

from usdn_nas.cli import main

if __name__ == "__main__":
    main()
