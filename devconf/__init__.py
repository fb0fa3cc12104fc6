"""devconf: the configuration service of a video-analysis platform.

Operators send commands over WebSocket; devconf passes them down to the analysis devices in the field, waits until
the devices confirm, and only then answers.
"""

__version__ = "0.1.0"
