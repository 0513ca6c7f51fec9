"""Starts one child process: tied to its parent's life, and never as root where the program refuses root.

Run as a script in front of the real command, so that nothing but the standard library is imported and nothing runs
between fork and exec of a process that may have threads::

    python -IS child.py PARENT_PID DEATH_SIGNAL UID:GID[+search|+override]|- COMMAND ...

`PARENT_PID` and `DEATH_SIGNAL`: when that parent dies, however it dies, the kernel sends the signal (Linux only).
`UID:GID` is whom to become when started as root. ``+search`` keeps the right to pass through folders that are closed
to that user (a clone under ``/root``, a private temporary folder), ``+override`` also to run programs that only root
may run (installed under a strict umask): as an ambient capability, so that no folder's mode has to be changed.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 4
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(what: str, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[1:5]]
    _call(what, _libc().prctl(ctypes.c_int(arguments[0]), *padded))


def _permitted() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _capability(reach: str) -> int:
    """The least capability at hand that gives `reach`; a default container has only the second one."""
    permitted = _permitted()
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if reach == "search" else (_CAP_DAC_OVERRIDE,):
        if permitted & (1 << capability):
            return capability
    raise OSError(1, "the data folder lies in a folder closed to other users, and no capability is there to reach it")


def _keep_only(capability: int) -> None:
    """After the change of user: keep just `capability`, also across exec."""
    bit = 1 << capability
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Set * 2)(_Set(bit, bit, bit), _Set(0, 0, 0))
    _call("capset", _libc().capset(ctypes.byref(header), ctypes.byref(sets)))
    _prctl("raise an ambient capability", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def become(uid: int, gid: int, reach: str) -> None:
    """Turn this process (root) into `uid`:`gid` for good; `reach` is "", "search" or "override"."""
    capability = _capability(reach) if reach else None
    if capability is not None:
        # Keeps capabilities across the change, and has access(2) heed them, by which `initdb` looks for `postgres`.
        _prctl("keep capabilities", _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capability is not None:
        _keep_only(capability)


def tie_to_parent(parent: int, death_signal: int) -> None:
    """Ask the kernel for `death_signal` when `parent` dies; must come after a change of user, which clears it."""
    if not sys.platform.startswith("linux"):
        return
    _prctl("set the parent-death signal", _PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Become what the arguments say, then the command itself. Does not return."""
    parent, death_signal, user, *command = arguments
    if user != "-":
        ids, _, reach = user.partition("+")
        uid, gid = (int(part) for part in ids.split(":"))
        become(uid, gid, reach)
    tie_to_parent(int(parent), int(death_signal))
    os.execvp(command[0], command)  # noqa: S606 - the command comes from the supervisor, and a shell has no part in it


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"cannot start {sys.argv[4]}: {error}")
