"""Many simulated devices in one process, against a running server, and whether they hold what they should.

``plan`` says who misbehaves and when, ``fleet`` has the devices, ``application`` is what runs on them, ``network`` what
is between them and the server, and ``judge`` compares what they hold with what the server says.
"""
