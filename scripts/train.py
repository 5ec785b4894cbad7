"""Run ``rnnlab train`` from a checkout: ``python scripts/train.py [key=value ...]``."""

import sys

from rnnlab.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
