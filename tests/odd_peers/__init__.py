"""Every odd peer has a documented outcome.

`rows` is the one table: the tests play each row against a server on real sockets, and the table in
docs/odd-peers.md is written from it (``python -m odd_peers``, in tests/).
"""
