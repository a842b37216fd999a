"""`python -m undistill`."""

from undistill.cli.app import main

if __name__ == "__main__":
    main()
