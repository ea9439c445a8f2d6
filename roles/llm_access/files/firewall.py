"""The firewall rule of one endpoint: its port is open to the named networks and to no others.

    python3 firewall.py open|close /etc/infra-llm/firewall.json

It uses what runs on the host: firewalld, ufw, else nftables with a table of our own. Only rules
that it made are changed; `open` twice is the same as once. Standard library, Python 3.8.
"""

import json
import os
import shutil
import subprocess
import sys


def main():
    action, path = sys.argv[1:3]
    with open(path, encoding="utf-8") as file:
        wished = json.load(file)
    kind, act = manager()
    if act is None:
        if action == "close" or wished["front"]:
            sys.stdout.write("no firewall here: the front alone looks at the networks\n")
            return
        sys.exit("infra-llm: no firewall to say the networks to: install nftables")
    # What was set before is taken away by what was wished then, not by what is wished now.
    record = path + ".set"
    if os.path.exists(record):
        with open(record, encoding="utf-8") as file:
            act("close", json.load(file))
        os.unlink(record)
    if action == "open":
        with open(record, "w", encoding="utf-8") as file:
            json.dump(wished, file)
        act("open", wished)
    words = (kind, action, wished["port"], ", ".join(wished["networks"]))
    sys.stdout.write("%s: %s port %d for %s\n" % words)


def manager():
    """The firewall that is active on this host, and what acts on it."""
    if shutil.which("firewall-cmd") and call(["firewall-cmd", "--state"])[0] == 0:
        return "firewalld", firewalld
    if shutil.which("ufw") and "Status: active" in call(["ufw", "status"])[1]:
        return "ufw", ufw
    if shutil.which("nft"):
        return "nftables", nftables
    return "none", None


def nftables(action, wished):
    """A table of our own, replaced as a whole; what other tables drop stays dropped."""
    table = "inet " + wished["name"].replace("-", "_")
    # Named first, so that deleting it works whether it was there or not.
    text = "table %s\ndelete table %s\n" % (table, table)
    if action == "open":
        text += (
            "table %s {\n  chain input {\n    type filter hook input priority -10; policy accept;\n"
            % table
        )
        port = "tcp dport %d" % wished["port"]
        rules = ['iif "lo" accept']
        for family, networks in families(wished["networks"]):
            rules.append("%s %s saddr { %s } accept" % (port, family, ", ".join(networks)))
        rules.append(port + " drop")
        text += "".join("    %s\n" % rule for rule in rules) + "  }\n}\n"
    must(["nft", "-f", "-"], text)


def families(networks):
    four = [network for network in networks if ":" not in network]
    six = [network for network in networks if ":" in network]
    return [pair for pair in (("ip", four), ("ip6", six)) if pair[1]]


def ufw(action, wished):
    """Allow rules before a deny rule for the port; each carries our name as its comment."""
    rules = [["allow", "proto", "tcp", "from", network, "to", "any", "port", str(wished["port"])]
             for network in wished["networks"]]  # fmt: skip
    rules.append(["deny", "proto", "tcp", "to", "any", "port", str(wished["port"])])
    for rule in rules:
        if action == "open":
            must(["ufw", *rule, "comment", wished["name"]])
        else:
            must(["ufw", "--force", "delete", *rule])


def firewalld(action, wished):
    """Rich rules, now and after a restart of firewalld."""
    verb = "--add-rich-rule=" if action == "open" else "--remove-rich-rule="
    for network in wished["networks"]:
        rule = 'rule family="ipv%d" source address="%s" port port="%d" protocol="tcp" accept' % (
            6 if ":" in network else 4, network, wished["port"])  # fmt: skip
        for scope in ([], ["--permanent"]):
            must(["firewall-cmd", *scope, verb + rule])


def call(command, text=""):
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout


def must(command, text=""):
    status, said = call(command, text)
    if status != 0:
        sys.exit("infra-llm: %s: %s" % (" ".join(command), said.strip()))


if __name__ == "__main__":
    main()
