"""An echo server of frames: evloop_function without the compiled extensions."""
# mypy: ignore-errors

import os

os.environ["EVLOOP_PURE"] = "1"  # before evloop is imported, since its doors choose then

from evloop_function import main

if __name__ == "__main__":
    main()
