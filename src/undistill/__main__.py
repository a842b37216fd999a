"""`python -m undistill`."""

from undistill.cli.main import main

if __name__ == "__main__":
    main()
