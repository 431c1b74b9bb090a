"""Starts one program so that it cannot outlive its supervisor. Standard library only; runs as `python -I -S shim.py`.

usage: shim.py PARENT_PID USER PROGRAM [ARGUMENT...]      USER is a numeric id, or - to stay who we are

The kernel kills the program when the supervisor dies for whatever reason, kill -9 included (Linux). The id is given up here
and not in the supervisor, because another user may not be allowed to run this Python at all, and before the request to the
kernel, because a change of user clears it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, user, *command = sys.argv[1:]
    if user != "-":
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the request to the kernel was in place
        sys.exit(125)
    try:
        os.execv(command[0], command)  # noqa: S606  no shell wanted
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        sys.exit(126)


main()
