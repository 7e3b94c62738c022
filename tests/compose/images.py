"""The images that the walkthrough needs: the official ones, or stand-ins made of Debian's packages."""

import os
import re
import shutil
from functools import partial
from pathlib import Path

from documentation import ROOT
from servers import programs

STAND_INS = Path(__file__).parent / "stand_ins"
PULL_SECONDS = 600
BUILD_SECONDS = 900
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")


def provide(engine):
    """Make sure of every image that is needed; returns which of them are stand-ins."""
    base = base_image()
    others = re.findall(r"^    image: (\S+)", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    makers = {base: partial(_make_base, engine, base)}
    for image in others:
        if (folder := STAND_INS / image.partition(":")[0]).exists():
            makers[image] = partial(_build, engine, image, folder)
    return [image for image, make in makers.items() if not _found(engine, image) and make() is None]


def base_image():
    return re.search(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]


def _found(engine, image):
    if engine.docker("image", "inspect", image).returncode == 0:
        return True
    return engine.docker("pull", "--quiet", image, timeout=PULL_SECONDS).returncode == 0


def _build(engine, image, folder):
    done = engine.docker("build", "--tag", image, folder, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def _make_base(engine, image):
    """Debian with its own Python; it trusts whom this machine trusts."""
    programs.need("debootstrap")
    if os.getuid() != 0:
        programs.without("only root can make a stand-in for Python's image, which cannot be pulled here")
    release = image.rpartition("-")[2]
    root = programs.installed(f"debian-{release}", partial(_bootstrap, release))
    if (bundle := Path("/") / CERTIFICATES).exists():
        shutil.copyfile(bundle, root / CERTIFICATES)
    change = f"ENV PIP_CERT=/{CERTIFICATES}"
    done = engine.run(
        *("sh", "-ec", 'tar -C "$1" -c . | docker import --change "$2" - "$3"'), "sh", root, change, image
    )
    assert done.returncode == 0, done.stderr


def _bootstrap(release, folder):
    programs.run(*("debootstrap", "--variant=minbase", f"--include={PACKAGES}"), release, folder / f"debian-{release}")
