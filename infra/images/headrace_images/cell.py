"""Runs one command as a container would: `python -I -S cell.py SPEC.json`. Standard library only, root on Linux.

In mount and chroot of its own the command sees a root made of the machine's /usr and Python (in the place of the base image),
an /etc of a few files, the folders an image holds, all read-only, and the one folder it may write. Network and process ids are
the machine's. The command is executed in this process, so that its id, its signals and its exit code are the command's.

    {"root": folder to build the root in, "binds": [[source, target, writable], ...], "user": 10001, "group": 10001,
     "cwd": "/var/lib/headrace", "env": {...}, "command": [...]}
"""

import ctypes
import json
import os
import signal
import sys

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
LINKS = ("bin", "sbin", "lib", "lib32", "lib64")  # into /usr on today's systems; folders of their own on older ones
SHARED_ETC = ("ld.so.cache", "ssl", "alternatives")
DEVICES = ("null", "zero", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags, data=""):
    """mount(2). Raises: OSError."""
    if libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def bind(source, target, writable):
    """One folder or file at another place; what is mounted below it comes along unless it is to be read-only."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    mount(source, target, "", MS_BIND)
    if not writable:
        mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)


def write_etc(folder, user, group):
    """What a small image has: its users, where names are looked up, and the machine's index of libraries."""
    os.makedirs(folder)
    files = {
        "passwd": f"root:x:0:0::/root:/usr/sbin/nologin\nheadrace:x:{user}:{group}::/var/lib/headrace:/usr/sbin/nologin\n",
        "group": f"root:x:0:\nheadrace:x:{group}:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "hosts": "127.0.0.1 localhost\n",
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    for name in SHARED_ETC:
        if os.path.exists("/etc/" + name):
            bind("/etc/" + name, os.path.join(folder, name), False)


def build_root(root, binds, user, group):
    """The new root: a small memory file system with everything mounted in it, read-only at the end."""
    mount("tmpfs", root, "tmpfs", MS_NOSUID, "size=1m,mode=755")
    bind("/usr", os.path.join(root, "usr"), False)
    write_etc(os.path.join(root, "etc"), user, group)
    for name in LINKS:
        place = "/" + name
        if os.path.islink(place):
            os.symlink(os.readlink(place), os.path.join(root, name))
        elif os.path.isdir(place):
            bind(place, os.path.join(root, name), False)
    for name in DEVICES:
        bind("/dev/" + name, os.path.join(root, "dev", name), True)
    proc = os.path.join(root, "proc")
    os.makedirs(proc)
    mount("/proc", proc, "", MS_BIND | MS_REC)
    bind("/sys", os.path.join(root, "sys"), False)
    for source, target, writable in binds:
        bind(source, root + target, writable)
    mount("none", root, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)


def drop_rights(user, group):
    """Another user, no further groups, no way back up by a file's mode bits."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main():
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    if libc.unshare(CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    os.umask(0o022)  # the folders made on the way to what is shown
    build_root(spec["root"], spec["binds"], spec["user"], spec["group"])
    os.chroot(spec["root"])
    os.chdir(spec["cwd"])
    os.umask(0o077)
    drop_rights(spec["user"], spec["group"])
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the change of user, which clears it
    env = spec["env"]
    for folder in env.get("PATH", "").split(":"):
        program = os.path.join(folder, spec["command"][0])
        if os.access(program, os.X_OK):
            os.execve(program, spec["command"], env)  # noqa: S606  no shell wanted
    print("not found in PATH: " + spec["command"][0], file=sys.stderr)
    sys.exit(127)


main()
