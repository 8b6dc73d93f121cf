"""What is in the image, and what is not."""

from __future__ import annotations

import json
import re

from devmail_config.services import LISTENERS
from tests.helpers.container import IMAGE, docker

# Half of what the seed's image adds to its base, its webmail not counted; and what each of ours is.
_ADDED_MEGABYTES = 170
_WEBMAIL_MEGABYTES = {"none": 0, "rainloop": 25, "roundcube": 45}


def shell(script: str) -> list[str]:
    return docker("run", "--rm", "--entrypoint=sh", IMAGE, "-ec", script).splitlines()


def test_it_is_small_and_the_build_says_how_small(image_report: str) -> None:
    match = re.fullmatch(r"image devmail: (\d+) MB, of which (\d+) MB are its base", image_report)
    assert match, image_report
    total, base = int(match[1]), int(match[2])
    assert abs(total - int(docker("image", "inspect", "--format={{.Size}}", IMAGE)) / 1e6) < 1
    label = '--format={{index .Config.Labels "devmail.webmail"}}'
    webmail = _WEBMAIL_MEGABYTES[docker("image", "inspect", label, IMAGE)]
    assert 20 < total - base <= _ADDED_MEGABYTES + webmail


def test_it_says_what_it_is() -> None:
    config = json.loads(docker("image", "inspect", "--format={{json .Config}}", IMAGE))
    label = "org.opencontainers.image."
    assert config["Labels"][f"{label}title"] == "devmail"
    assert config["Labels"][f"{label}licenses"] == "MIT"
    assert re.fullmatch(r"[0-9a-f]{40}", config["Labels"][f"{label}revision"])
    assert sorted(config["ExposedPorts"]) == sorted(f"{one.port}/tcp" for one in LISTENERS)
    assert sorted(config["Volumes"]) == ["/var/lib/devmail", "/var/mail", "/var/www/rainloop/data"]
    assert config["Entrypoint"] == ["/opt/devmail/entrypoint.py"]


def test_nothing_secret_and_nothing_of_the_building_machine_is_in_it() -> None:
    places = "/etc /opt /root /home /usr/local /usr/share /var"
    assert shell(f"grep -rlIE '^-----BEGIN.* PRIVATE KEY-----' {places} || true") == []
    # Debian's package makes a key for each installation; ours is made for each volume.
    assert shell("grep -rl des_key /etc/roundcube 2>/dev/null | grep -v defaults || true") == []
    assert shell("find /var/log /var/lib/apt/lists /var/mail /var/lib/devmail -type f") == []
    assert shell("ls /etc/mailname /etc/postfix/main.cf 2>&1 >/dev/null | wc -l") == ["2"]


# A copy of a program with each thing that is looked for, as a sign that it would be found.
_GIVING_RIGHTS = """
for name in setuid setgid capable; do cp /usr/bin/true /opt/$name; done
chmod u+s /opt/setuid
chmod g+s /opt/setgid
find / -xdev -type f -perm /6000
find / -xdev -type f -perm /0111 | python3 -c '
import os, struct, sys

# linux/capability.h: version 2, effective; and what is permitted: CAP_NET_RAW
os.setxattr("/opt/capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
for path in sys.stdin.read().splitlines():
    if "security.capability" in os.listxattr(path, follow_symlinks=False):
        print(path)
'
"""


def test_no_file_in_it_gives_another_users_rights() -> None:
    assert sorted(shell(_GIVING_RIGHTS)) == ["/opt/capable", "/opt/setgid", "/opt/setuid"]


def test_no_compiler_and_no_package_manager_of_python_is_in_it() -> None:
    assert shell("for name in cc gcc make pip pip3; do command -v $name || true; done") == []


def test_owners_of_the_state_have_fixed_numbers() -> None:
    """A volume that one image wrote to is read by the next."""
    assert shell("id -u postfix; id -u dovecot; id -u dovenull; getent group postdrop") == [
        "901",
        "902",
        "903",
        "postdrop:x:904:",
    ]
