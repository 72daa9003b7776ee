"""``python -m benchmarks.slow_key``: what an RSA-4096 key of ours costs other connections, with threads and without.

Two servers, one with ``handshake_threads=False``, are measured in turn, for ``rounds`` rounds: handshakes
a second as fast as they go, and the echo of another connection, idle and beside 100 handshakes a second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import ssl
import statistics
import tempfile
import threading
import time
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import trio_duplex

THREADS = 8
"""Of the client; each makes one handshake after the other."""


def make(folder: Path) -> None:
    """Write ca.pem, slow.pem (RSA-4096) and fast.pem (P-256), each with its key, to a folder."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    fast = authority.issue_cert("localhost")
    fast.private_key_and_cert_chain_pem.write_to_path(folder / "fast.pem")
    # The same certificate for another key: trustme makes no RSA keys of this size.
    key = rsa.generate_private_key(65537, 4096)
    like = x509.load_pem_x509_certificate(fast.cert_chain_pems[0].bytes())
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(like.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
    )
    for extension in like.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    issuer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    slow = builder.sign(issuer, hashes.SHA256())  # type: ignore[arg-type]  # trustme's is one that signs
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "slow.pem").write_bytes(private + slow.public_bytes(pem))


def serve(folder: Path, ports: Queue[int], *, threads: bool) -> None:
    """Echo with the slow key."""

    async def echo(connection: trio_duplex.Connection) -> None:
        async for data in connection:
            await connection.send_all(data)

    async def main() -> None:
        credentials = trio_duplex.Credentials.mutual(
            certificate_chain=folder / "slow.pem",
            trust=folder / "ca.pem",
            handshake_threads=threads,
        )
        async with trio.open_nursery() as nursery:
            server: trio_duplex.Server = await nursery.start(
                partial(trio_duplex.serve_tcp, host="127.0.0.1"), echo, 0, credentials
            )
            port = server.addresses[0][1]
            assert isinstance(port, int)
            ports.put(port)

    trio.run(main)


def context(folder: Path) -> ssl.SSLContext:
    """The client's, with the fast key."""
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    made.check_hostname = False
    made.load_cert_chain(folder / "fast.pem")
    return made


def handshakes(folder: Path, port: int, pace: float, seconds: float, rates: Queue[float]) -> None:
    """Make handshakes, ``pace`` a second or, with 0, as many as go; tell how many a second it were."""
    mine, end, counts = context(folder), time.perf_counter() + seconds, [0] * THREADS

    def go(number: int) -> None:
        due = time.perf_counter() + (number / pace if pace else 0)
        while time.perf_counter() < end:
            time.sleep(max(0, due - time.perf_counter()))
            due += THREADS / pace if pace else 0
            with mine.wrap_socket(socket.create_connection(("127.0.0.1", port))) as peer:
                peer.sendall(b"x")
                peer.recv(1)
            counts[number] += 1

    workers = [threading.Thread(target=go, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rates.put(sum(counts) / seconds)


def echo_p99(folder: Path, port: int, seconds: float) -> float:
    """Milliseconds for 100 bytes there and back on a connection that is open."""
    times, end = list[float](), time.perf_counter() + seconds
    with context(folder).wrap_socket(socket.create_connection(("127.0.0.1", port))) as peer:
        while time.perf_counter() < end:
            began = time.perf_counter()
            peer.sendall(bytes(100))
            peer.recv(100)
            times.append(time.perf_counter() - began)
            time.sleep(0.002)
    return 1e3 * statistics.quantiles(times, n=100)[-1]


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure of each round")
    options = parser.parse_args()
    rates: Queue[float] = multiprocessing.Queue()
    ports: Queue[int] = multiprocessing.Queue()
    figures: dict[tuple[bool, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        port_of: dict[bool, int] = {}
        for threads in (False, True):
            multiprocessing.Process(
                target=serve, args=(folder, ports), kwargs={"threads": threads}, daemon=True
            ).start()
            port_of[threads] = ports.get(timeout=30)
        for _ in range(options.rounds):
            for threads, port in port_of.items():
                figures.setdefault((threads, "echo p99, idle, ms"), []).append(
                    echo_p99(folder, port, options.seconds)
                )
                for pace, what in ((0, "handshakes a second"), (100, "echo p99, busy, ms")):
                    client = multiprocessing.Process(
                        target=handshakes, args=(folder, port, pace, options.seconds, rates)
                    )
                    client.start()
                    figure = echo_p99(folder, port, options.seconds) if pace else 0.0
                    client.join()
                    rate = rates.get(timeout=30)
                    figures.setdefault((threads, what), []).append(figure if pace else rate)
    for (threads, what), values in sorted(figures.items(), key=lambda each: each[0][1]):
        where = "threads" if threads else "the loop"
        print(f"{what:22} in {where:9} {statistics.median(values):9.2f}")


if __name__ == "__main__":
    main()
