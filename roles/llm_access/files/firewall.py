"""The firewall rule of one endpoint: its port is open to the named networks and to no others.

    python3 firewall.py open|close|check /etc/infra-llm/firewall.json

It uses what runs on the host: firewalld, ufw, else nftables with a table of our own. Which of them
made the rule, from what, and how it shows the rule stands in firewall.json.set: that one takes it
away again. `check` changes nothing; it ends with 3 and says why where the rule is not as it was
set. Only rules that it made are changed; `open` twice is the same as once. Standard library,
Python 3.8.
"""

import json
import os
import shutil
import subprocess
import sys

NOT_THERE = 3


def main():
    action, path = sys.argv[1:3]
    record = path + ".set"
    made, kind = read(record), manager()
    wished = read(path) or made
    if action == "check":
        said = lacks(kind, wished, made)
        sys.stdout.write(said)
        sys.exit(NOT_THERE if said else 0)
    # nftables replaces its table as a whole: the port is open to all at no time in between.
    if made and not (action == "open" and kind == made.get("manager") == "nftables"):
        take_away(made, kind)
        os.unlink(record)
    if action == "open" and kind != "none":
        set_rule(kind, wished, record)
    elif action == "open" and not wished["front"]:
        sys.exit("infra-llm: no firewall to say the networks to: install nftables")
    if kind == "none":
        sys.stdout.write("no firewall here: the front alone looks at the networks\n")
        return
    words = (kind, action, wished["port"], ", ".join(wished["networks"]))
    sys.stdout.write("%s: %s port %d for %s\n" % words)


def read(path):
    """What is in the file, {} where there is none."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write(record, made):
    with open(record, "w", encoding="utf-8") as file:
        json.dump(made, file)


def manager():
    """The firewall that is active on this host, "none" where none is."""
    if shutil.which("firewall-cmd") and firewalld_runs():
        return "firewalld"
    if shutil.which("ufw") and "Status: active" in call(["ufw", "status"])[1]:
        return "ufw"
    return "nftables" if shutil.which("nft") else "none"


def set_rule(kind, wished, record):
    """Written down first: a rule that was set by half can be taken away."""
    made = dict(wished, manager=kind)
    write(record, made)
    MANAGERS[kind][1]("open", wished)
    made["shown"] = MANAGERS[kind][2](wished)
    write(record, made)
    if not made["shown"]:
        sys.exit("infra-llm: %s took the rule for port %d and does not show it" % (
            kind, wished["port"]))  # fmt: skip


def take_away(made, kind):
    """By what was wished then, not by what is wished now, and by the firewall that it was said to.

    Records of earlier versions don't name it: then it is the one that is active.
    """
    maker = made.get("manager", kind)
    if maker in MANAGERS and shutil.which(MANAGERS[maker][0]):
        MANAGERS[maker][1]("close", made)


def lacks(kind, wished, made):
    """Why the rule is not in force as it was set, a line; "" where it is."""
    port = wished["port"]
    if kind == "none" and not made:
        return "" if wished["front"] else "there is none to hold the rule for port %d\n" % port
    if not made.get("shown"):
        return "the rule for port %d is not set\n" % port
    if made["manager"] != kind:
        words = (made["manager"], port, kind)
        return "%s has the rule for port %d, and now %s is the one that is active\n" % words
    if MANAGERS[kind][2](made) != made["shown"]:
        return "%s does not have the rule for port %d as it was set\n" % (kind, port)
    return ""


def table(wished):
    return ["inet", wished["name"].replace("-", "_")]


def nftables(action, wished):
    """A table of our own, replaced as a whole; what other tables drop stays dropped."""
    ours = " ".join(table(wished))
    # Named first, so that deleting it works whether it was there or not.
    text = "table %s\ndelete table %s\n" % (ours, ours)
    if action == "open":
        text += (
            "table %s {\n  chain input {\n    type filter hook input priority -10; policy accept;\n"
            % ours
        )
        port = "tcp dport %d" % wished["port"]
        rules = ['iif "lo" accept']
        for family, networks in families(wished["networks"]):
            rules.append("%s %s saddr { %s } accept" % (port, family, ", ".join(networks)))
        rules.append(port + " drop")
        text += "".join("    %s\n" % rule for rule in rules) + "  }\n}\n"
    must(["nft", "-f", "-"], text)


def nftables_shows(wished):
    status, said = call(["nft", "list", "table", *table(wished)])
    return said if status == 0 else ""


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


def ufw_shows(wished):
    """Its rules that carry our name, in their order."""
    mark = "comment '%s'" % wished["name"]
    lines = call(["ufw", "show", "added"])[1].splitlines(True)
    return "".join(line for line in lines if line.rstrip().endswith(mark))


def firewalld(action, wished):
    """Rich rules, now and after a restart of firewalld."""
    verb = "--add-rich-rule=" if action == "open" else "--remove-rich-rule="
    scopes = [["firewall-cmd"], ["firewall-cmd", "--permanent"]]
    if not firewalld_runs():  # stopped since: what it starts with can be changed all the same
        scopes = [["firewall-offline-cmd"]]
    for rule in rich_rules(wished):
        for scope in scopes:
            must([*scope, verb + rule])


def firewalld_shows(wished):
    scopes = (["firewall-cmd"], ["firewall-cmd", "--permanent"])
    return "".join(
        rule + "\n"
        for rule in rich_rules(wished)
        if all(call([*scope, "--query-rich-rule=" + rule])[0] == 0 for scope in scopes)
    )


def firewalld_runs():
    return call(["firewall-cmd", "--state"])[0] == 0


def rich_rules(wished):
    rule = 'rule family="ipv%d" source address="%s" port port="%d" protocol="tcp" accept'
    pairs = [(6 if ":" in network else 4, network) for network in wished["networks"]]
    return [rule % (*pair, wished["port"]) for pair in pairs]


MANAGERS = {
    "firewalld": ("firewall-cmd", firewalld, firewalld_shows),
    "ufw": ("ufw", ufw, ufw_shows),
    "nftables": ("nft", nftables, nftables_shows),
}
"""The command of each, what opens and closes by it, and what it shows of our rule."""


def call(command, text=""):
    """(exit status, what it said), in English: LANGUAGE goes before LC_ALL where Python looks."""
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, LC_ALL="C", LANGUAGE="C"),
        universal_newlines=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout


def must(command, text=""):
    status, said = call(command, text)
    if status != 0:
        sys.exit("infra-llm: %s: %s" % (" ".join(command), said.strip()))


if __name__ == "__main__":
    main()
