"""``python -m broker``. SIGTERM: leave, the workers stay. SIGINT: stop them first; a second signal: at once.

SIGHUP: read the settings anew.

Exit codes: 0 told to end, 70 a bug, 75 another broker runs here, 78 it cannot run here: the run directory, or the limit
on open files.
"""

import logging
import os
import secrets
import sys

import zmq

from broker.clock import AwakeClock
from broker.core import Broker
from broker.memory.decisions import GB
from broker.models.configuration import changes, memory_rules
from broker.requests.scheduler import Limits, Scheduler
from broker.rules import Changes
from broker.server import Server
from broker.startup import Life, Timeouts
from broker.system.learned_file import LearnedFile
from broker.system.machine_memory import machine_memory
from broker.system.mailbox import Mailbox
from broker.system.pulls_file import PullsFile
from broker.system.rundir import AlreadyRunningError, RunDir, RunDirError
from broker.system.statefile import StateFile
from broker.system.supervisor import Supervisor, name_worker
from broker.system.wakeup import Wakeup
from shared import exits, failpoints, logs
from shared.files import FILES_NEEDED, raise_file_limit
from shared.settings import Settings, load_settings, read_settings

log = logging.getLogger("broker")


def main() -> int:
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    settings = load_settings()
    logs.configure("broker", settings.log_level)
    if (files := raise_file_limit()) < FILES_NEEDED:  # libzmq aborts the process when accept runs out of them
        log.error(
            "only %d files may be open at a time, and %d are needed: see ulimit -n", files, FILES_NEEDED
        )
        return exits.MISCONFIGURED
    try:
        serve(settings, RunDir(settings))
    except AlreadyRunningError as error:
        log.error("%s", error)
        return exits.TAKEN
    except RunDirError as error:
        log.error("%s", error)
        return exits.MISCONFIGURED
    except Exception:
        log.exception("the broker ends because of a bug")
        return exits.BUG
    return exits.STOPPED


def serve(settings: Settings, run_dir: RunDir) -> None:
    wakeup = Wakeup()
    supervisor = Supervisor(settings.worker_command, settings.log_dir, restore=run_dir.restore)
    state_file = StateFile(settings.state_file)
    survivors = state_file.read()
    learned_file = LearnedFile(settings.learned_file)
    pulls_file = PullsFile(settings.pulls_file)
    for survivor in survivors:
        if survivor.spawned:
            supervisor.adopt(survivor.id, survivor.pid)
    clock = AwakeClock(tolerance=settings.heartbeat_interval)
    life = Life(
        epoch=secrets.token_hex(8),
        token=run_dir.token,
        pid=os.getpid(),
        started=clock.wake(0.0),
        name_worker=name_worker,
        survivors=survivors,
        pulls=pulls_file.read(),
        learned=learned_file.read(),
    )
    context = zmq.Context()
    apis = Mailbox(context, settings.api_socket)
    workers = Mailbox(context, settings.worker_socket)
    for survivor in survivors:
        log.info("%s of an earlier broker lives still: pid %d", survivor.id, survivor.pid)
    if survivors:
        log.info("which prompts they keep is not known any more: requests find their workers by prefix anew")
    log.info("serving %s in %s, pid %d", ", ".join(settings.sources), settings.sockets_dir, life.pid)
    if settings.config:
        log.info("settings and models are from %s", settings.config)
    memory = machine_memory()
    if memory.for_models < settings.max_cache_size_gb * GB:
        log.warning(
            "the budget is %.1f GB, what %s has for models: MLX_SERVER_MAX_CACHE_SIZE_GB is %g",
            *(memory.for_models / GB, memory.whose, settings.max_cache_size_gb),
        )
    core = make_core(settings, life, memory.for_models)
    reread = Configuration(settings, memory.for_models).reread
    Server(core, apis, workers, supervisor, state_file, wakeup, clock, reread, learned_file, pulls_file).run()
    context.term()
    wakeup.close()
    log.info("left")


def make_core(settings: Settings, life: Life, most: int) -> Broker:
    limits = Limits(
        max_in_flight=settings.max_in_flight,
        queue_per_model=settings.queue_per_model,
        queue_total=settings.queue_total,
        queue_age=settings.queue_age,
    )
    timeouts = Timeouts(
        silence=settings.heartbeat_timeout,
        stall=settings.stall_timeout,
        load=settings.load_timeout,
        drain=settings.drain_timeout,
    )
    return Broker(tuple(settings.sources), Scheduler(limits), timeouts, life, memory_rules(settings, most))


class Configuration:
    """The settings in force, and how to read them anew."""

    def __init__(self, settings: Settings, most: int) -> None:
        self._settings = settings
        self._most = most

    def reread(self) -> Changes:
        """Raises SettingsError, and leaves what is in force."""
        before, self._settings = self._settings, read_settings()
        return changes(before, self._settings, self._most)


if __name__ == "__main__":
    sys.exit(main())
