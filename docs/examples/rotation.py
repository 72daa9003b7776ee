import logging
import signal

import trio

import trio_duplex

LOGGER = logging.getLogger(__name__)


async def echo(connection: trio_duplex.Connection) -> None:
    async for chunk in connection:
        await connection.send_all(chunk)


async def reload_on_hangup(
    credentials: trio_duplex.Credentials, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                credentials.reload()
            except trio_duplex.CredentialsError as exc:
                LOGGER.warning("the former certificate stays in force: %s", exc)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(reload_on_hangup, credentials)
        await trio_duplex.serve_tcp(echo, 8443, credentials)


if __name__ == "__main__":
    trio.run(main)
