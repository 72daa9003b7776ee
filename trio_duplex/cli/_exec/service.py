"""``trio-duplex exec``: a process for each connection, with plaintext on its standard input and output."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import trio

from trio_duplex import Connection
from trio_duplex.cli._exec.environment import program_environment
from trio_duplex.cli._exec.program import run_program
from trio_duplex.cli._exec.settings import ExecSettings
from trio_duplex.cli._service.configuration import Kind
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.facts import Facts
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.service import Context, Service


class Exec(Service[ExecSettings]):
    """Run a program for each connection, with plaintext on its standard input and output.

    The program learns its TLS role from TRIO_DUPLEX_ROLE.
    """

    descriptors = 5  # three pipes, and one to wait for the process

    def __init__(self, settings: ExecSettings) -> None:
        super().__init__(settings)
        if not settings.program:
            raise ServiceError(
                f"{settings.name}: no program: write -- PROGRAM ARGS at the end", Exit.USAGE
            )
        found = shutil.which(settings.program[0])
        if found is None:
            raise ServiceError(
                f"{settings.name}: can't run {settings.program[0]!r}: there is no such program that "
                "we may execute (looked at the path, or through PATH)",
                Exit.USAGE,
            )
        self._command = (found, *settings.program[1:])
        self._slots = trio.CapacityLimiter(settings.processes)
        self._from: Counter[str] = Counter()

    async def handle(self, context: Context, connection: Connection) -> None:
        """Run the program for one connection."""
        facts = Facts.of(connection)
        address = facts.remote_address
        host = address if isinstance(address, str) or address is None else address[0]
        host = host or ""
        self._from[host] += 1
        try:
            async with self._slots:
                environment = program_environment(
                    facts,
                    from_same_address=self._from[host],
                    parent=os.environ,
                    pass_on=self.settings.pass_env,
                    extra=self.settings.env,
                )
                await self._run(context, connection, environment)
        finally:
            self._from[host] -= 1
            if not self._from[host]:
                del self._from[host]

    async def _run(
        self, context: Context, connection: Connection, environment: dict[str, str]
    ) -> None:
        number = context.number(connection)
        started = trio.current_time()
        try:
            code, delivered = await run_program(
                connection,
                self._command,
                environment,
                eof_grace=self.settings.eof_grace,
                term_grace=lambda: 0 if context.at_once else self.settings.term_grace,
                tell=lambda line: log.info("stderr", number=number, text=line),
            )
        except OSError as exc:
            log.error(
                "program-not-started",
                number=number,
                program=self._command[0],
                why=exc.strerror or exc,
                advice="check that it exists, is executable and that processes are left",
            )
            await trio.aclose_forcefully(connection)
            return
        seconds = f"{trio.current_time() - started:.3f}"
        if code == 0 and delivered:
            log.debug("exited", number=number, code=0, seconds=seconds)
            return
        log.warning("exited", number=number, code=code, seconds=seconds)
        # Half an answer must not look like a whole one.
        await trio.aclose_forcefully(connection)


EXEC = Kind("exec", ExecSettings, Exec)
