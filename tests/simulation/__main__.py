"""``python -m tests.simulation``: one run, many, or the deliberate faults; see README.md beside this file.

A run is a function of its seed only if Python hashes texts the same way each time: where it does not, the program is
started anew, before it has loaded anything.
"""

import os
import sys

if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    from tests.simulation.program import main

    sys.exit(main(sys.argv[1:]))
