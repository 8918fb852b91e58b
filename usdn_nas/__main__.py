"""Runs the command line as ``python -m usdn_nas``, also from a source checkout that is not installed."""

import sys

if __name__ == "__main__":
    try:
        from usdn_nas.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: the package '{error.name}' is missing; 'pip install .' in the source checkout installs it")
    main()
