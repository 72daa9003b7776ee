"""Step 4: serve the protocol to devices of both kinds."""

import sys
from functools import partial

import trio
from call_home import Inventory

import trio_duplex

DEVICES = ("device-1.example", "device-2.example")


def manager_credentials() -> trio_duplex.Credentials:
    return trio_duplex.Credentials.mutual(
        certificate_chain="lab/manager.example.pem",
        private_key="lab/manager.example.key",
        trust="lab/ca.pem",
        peer=trio_duplex.NamedPeer(*DEVICES),
        alpn=["call-home/1"],  # nothing else under this authority may be taken for a device
    )


async def main(port: int) -> None:
    inventory = Inventory()
    serve = partial(trio_duplex.serve_tcp, host="127.0.0.1", window=1)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, inventory.handle, port, manager_credentials())
        print("listening on", *server.addresses, flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
