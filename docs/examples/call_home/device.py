"""A device that calls home, in the TLS role that its age demands: `server` if it is an old one."""

import sys

import trio

import trio_duplex


async def call_home(name: str, port: int, role: trio_duplex.Role) -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain=f"lab/{name}.pem",
        private_key=f"lab/{name}.key",
        trust="lab/ca.pem",
        peer=trio_duplex.NamedPeer("manager.example"),
        alpn=["call-home/1"],
    )
    answers = {b"SERIAL?\n": f"SERIAL={name}\n".encode(), b"STATE?\n": b"STATE=fine\n"}
    async with await trio_duplex.open_tcp_connection(
        "127.0.0.1", port, credentials, role=role
    ) as connection:
        async for question in connection:
            print(name, "is asked", bytes(question).decode(), end="")
            if bytes(question) in answers:
                await connection.send_all(answers[bytes(question)])


if __name__ == "__main__":
    trio.run(call_home, sys.argv[1], int(sys.argv[2]), trio_duplex.Role(sys.argv[3]))
