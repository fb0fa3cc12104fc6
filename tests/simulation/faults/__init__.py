"""Deliberate faults: the server with one thing wrong in it, to show that the checkers see it.

Each is put in from here, by replacing something of devconf for a while; devconf itself knows nothing of them.
"""

from tests.simulation.faults import more, named, told  # noqa: F401 (they fill the table)
from tests.simulation.faults.fault import Fault, known

#: All of them, by name; those that the issue names come first.
FAULTS = {name: known[name] for name in sorted(known, key=lambda name: not known[name].required)}

__all__ = ["FAULTS", "Fault"]
