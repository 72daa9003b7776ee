"""Peers that other people wrote, in both TLS roles, on real sockets."""
