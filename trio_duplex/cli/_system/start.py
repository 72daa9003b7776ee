"""Start services in the surroundings that we find: systemd, inetd, or a shell."""

from __future__ import annotations

import os
import sys

from trio_duplex.cli._service.configuration import Configuration
from trio_duplex.cli._service.run import run_services
from trio_duplex.cli._system.host import SystemHost


def start(configuration: Configuration) -> int:
    """Serve until told to stop, with what the environment gives and asks for.

    Returns:
        The exit code.

    Raises:
        ServiceError: It can't start, or a service failed.
    """
    host = SystemHost.take_from(os.environ)
    if sys.platform != "win32" and configuration.plan().process.workers > 1:
        # Imported when there are any: the module needs fork().
        from trio_duplex.cli._workers.supervisor import supervise

        return supervise(configuration, host)
    return run_services(configuration, host)
