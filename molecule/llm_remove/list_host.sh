#!/bin/sh
# list_host.sh FOLDER: names of packages, users, units and files, without what changes by itself.
set -eu
mkdir -p "$1"
dpkg-query --show --showformat='${Package} ${db:Status-Status}\n' | sort >"$1/packages"
cut -d: -f1 /etc/passwd /etc/group | sort >"$1/users"
systemctl list-unit-files --no-legend --no-pager --type=service | awk '{print $1}' | sort >"$1/units"
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp \
    -o -path /root/before -o -path /root/after -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg \
    -o -path /var/log/journal -o -path /var/log/apt -o -path /var/log/dpkg.log \
    -o -path /home/ops/.ansible -o -name __pycache__ \) -prune -o -print | sort >"$1/files"
find /run -path /run/systemd -prune -o -path '*infra-llm*' -print >>"$1/files"
