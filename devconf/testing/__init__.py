"""For tests of programs that embed devconf or talk to it, and for our own: a server in memory, and who connects to it.

Time stands still until it is advanced, and nothing runs in a thread::

    server = MemoryServer(folder)
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.obey()
    assert server.result(response)["ecode"] == 0

``docs/embedding.md`` tells more.
"""

from devconf.testing.client import MemoryClient
from devconf.testing.device import Key, MemoryDevice
from devconf.testing.network import MemoryReactor
from devconf.testing.server import NOON, MemoryServer, prepared_database

__all__ = ["NOON", "Key", "MemoryClient", "MemoryDevice", "MemoryReactor", "MemoryServer", "prepared_database"]
