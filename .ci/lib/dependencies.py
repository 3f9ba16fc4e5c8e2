#!/usr/bin/env python3
"""What the programs are made of: licence texts and a bill of materials of all dependencies.

    dependencies.py notices TARGET   prints every licence text, each once
    dependencies.py sbom TARGET      prints CycloneDX JSON, dated SOURCE_DATE_EPOCH

Fails where a dependency has no licence text, or a licence that deny.toml does not allow.
Runs at the root of the repository, with the sources of all dependencies downloaded.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

TEXTS = re.compile(r"(un)?licen[sc]e|copying|copyright|notice", re.IGNORECASE)


def main():
    command, target = sys.argv[1:]
    packages, edges, members = linked(target)
    foreign = [p for i, p in packages.items() if i not in members]
    check_licences(foreign)
    if command == "notices":
        print(notices(foreign), end="")
    elif command == "sbom":
        print(json.dumps(sbom(packages, edges, members), indent=2))
    else:
        sys.exit(f"unknown command: {command}")


def linked(target):
    """The packages that are compiled into the programs of a target, sorted, and who needs whom."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.check_output(command))
    packages = {p["id"]: p for p in metadata["packages"]}
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    members = set(metadata["workspace_members"])
    edges = {}
    waiting = sorted(members)
    while waiting:
        package = waiting.pop()
        if package not in edges:
            # Those of kind None are neither for tests nor for build scripts.
            needs = [d["pkg"] for d in nodes[package]["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
            edges[package] = sorted(needs)
            waiting += needs
    found = sorted(edges, key=lambda i: (packages[i]["name"], packages[i]["version"]))
    return {i: packages[i] for i in found}, edges, members


def check_licences(packages):
    deny = tomllib.loads(Path("deny.toml").read_text())["licenses"]
    exceptions = {e["crate"]: e["allow"] for e in deny.get("exceptions", [])}
    for package in packages:
        allowed = deny["allow"] + exceptions.get(package["name"], [])
        licence = package["license"] or ""
        if not permitted(licence, allowed):
            sys.exit(f"{called(package)}: licence {licence or 'missing'} is not allowed by deny.toml")


def permitted(expression, allowed):
    """Whether an SPDX expression can be met with these licences. A slash is an old spelling of OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek():
        return tokens[position] if position < len(tokens) else None

    def take():
        nonlocal position
        position += 1
        return tokens[position - 1]

    def either():
        result = both()
        while peek() == "OR":
            take()
            # Not `or`, which would leave tokens unread.
            result |= both()
        return result

    def both():
        result = one()
        while peek() == "AND":
            take()
            result &= one()
        return result

    def one():
        if peek() in (None, ")", "OR", "AND"):
            return False
        token = take()
        if token == "(":
            result = either()
            return peek() == ")" and bool(take()) and result
        if peek() == "WITH":
            take()
            token = f"{token} WITH {take()}"
        return token in allowed

    return either() and position == len(tokens)


def called(package):
    return f"{package['name']} {package['version']}"


def texts(package):
    """The licence texts among the sources of a package."""
    folder = Path(package["manifest_path"]).parent
    files = {f for f in folder.iterdir() if TEXTS.match(f.name) and f.suffix != ".rs"}
    if package["license_file"]:
        files.add(folder / package["license_file"])
    files |= {inner for f in files if f.is_dir() for inner in f.iterdir()}
    read = [f.read_text(errors="replace") for f in sorted(files) if f.is_file()]
    return ["\n".join(line.rstrip() for line in t.strip("\ufeff\r\n ").splitlines()) for t in read if t.strip()]


def repository(package):
    return (package["repository"] or "").removesuffix("/").removesuffix(".git")


def notices(packages):
    found = {called(p): texts(p) for p in packages}
    for package in packages:
        name = called(package)
        ours = Path(".ci/licences", package["name"] + ".txt")
        if not found[name] and ours.exists():
            found[name] = [ours.read_text().rstrip()]
        # Packages that are developed together often keep the text in one of them.
        siblings = [p for p in packages if repository(p) and repository(p) == repository(package)]
        for sibling in siblings:
            found[name] = found[name] or texts(sibling)
        if not found[name]:
            sys.exit(f"{name} ({package['license']}): no licence text; write one to {ours}")
    users = {}
    for name, licences in found.items():
        for text in licences:
            users.setdefault(text, []).append(name)
    rule = "=" * 80
    parts = ["Licences of the packages that owl2 and owl2-convert are made of.\n"]
    parts += [f"{called(p)}: {p['license']}{source(p)}" for p in packages]
    for text, names in users.items():
        parts.append(f"\n{rule}\n{', '.join(dict.fromkeys(names))}\n{rule}\n\n{text}")
    return "\n".join(parts) + "\n"


def source(package):
    return f" ({repository(package)})" if repository(package) else ""


def sbom(packages, edges, members):
    lock = tomllib.loads(Path("Cargo.lock").read_text())["package"]
    hashes = {(p["name"], p["version"]): p.get("checksum") for p in lock}
    date = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.UTC)

    def reference(i):
        return f"pkg:cargo/{packages[i]['name']}@{packages[i]['version']}"

    def component(i):
        package = packages[i]
        result = {
            "type": "application" if i in members else "library",
            "bom-ref": reference(i),
            "name": package["name"],
            "version": package["version"],
            "licenses": [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}],
            "purl": reference(i),
        }
        if checksum := hashes.get((package["name"], package["version"])):
            result["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if repository(package):
            result["externalReferences"] = [{"type": "vcs", "url": repository(package)}]
        return result

    root = next(i for i in members if packages[i]["name"] == "owl2")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(root),
        },
        "components": [component(i) for i in packages if i != root],
        "dependencies": [
            {"ref": reference(i), "dependsOn": sorted({reference(d) for d in edges[i]})} for i in packages
        ],
    }


if __name__ == "__main__":
    main()
