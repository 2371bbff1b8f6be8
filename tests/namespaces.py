"""How does a test run a process in namespaces of its own: other pids, another clock, filesystems that nobody else sees?

With ``unshare``: as root directly, else inside a user namespace, where the system permits that. Never a skip: where
neither is permitted, the error says what to do.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

PIDS = ("--pid", "--fork", "--mount-proc", "--kill-child")
CLOCK = ("--time", "--boottime", "100000", "--fork", "--kill-child")
MOUNTS = ("--mount",)


class NoNamespaceError(Exception):
    """The system permits no namespaces; the message says what to do."""


@cache
def unshare(*kinds: str) -> tuple[str, ...]:
    """Return the words to put before a command so that it runs in new namespaces."""
    commands = [("unshare", "--user", "--map-root-user", *kinds)]
    if os.geteuid() == 0:
        commands.insert(0, ("unshare", *kinds))
    reason = ""
    for command in commands:
        try:
            done = subprocess.run([*command, "true"], capture_output=True, text=True)
        except OSError as error:
            reason = str(error)
            continue
        if done.returncode == 0:
            return command
        reason = done.stderr.strip()
    raise NoNamespaceError(
        f"this test needs `unshare {' '.join(kinds)}`, which is not permitted here ({reason}). Run the tests "
        "as root (in a container with --cap-add=SYS_ADMIN), or allow user namespaces: "
        "sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
    )


def on_small_filesystem(folder: Path, size_mb: int) -> tuple[str, ...]:
    """Return the words for a command that finds an empty filesystem of its own, of that size, at ``folder``."""
    mount = f"mount -t tmpfs -o size={size_mb}m,mode=755 none '{folder}'"
    return (*unshare(*MOUNTS), "sh", "-c", f'{mount} && exec "$@"', "sh")


def with_read_only(folder: Path) -> tuple[str, ...]:
    """Return the words for a command that can read ``folder`` and cannot write there, whoever it runs as."""
    mount = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}'"
    return (*unshare(*MOUNTS), "sh", "-c", f'{mount} && exec "$@"', "sh")
