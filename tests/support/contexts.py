"""The one way in which tests make a TLS context of their own.

It is the shipped kit's. Python's builds differ in what `ssl.SSLContext` begins with, so a test that
made one directly would test something else on Debian than on python.org's builds.
"""

from trio_duplex.testing._contexts import CIPHERS, new_context

__all__ = ["CIPHERS", "new_context"]
