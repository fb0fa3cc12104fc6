"""Makes ``twistd devconf`` and ``twist devconf`` known to Twisted; the rest is in :mod:`devconf.tap`."""

from twisted.application.service import ServiceMaker

devconf = ServiceMaker("devconf", "devconf.tap", "The configuration service of a video-analysis platform.", "devconf")
