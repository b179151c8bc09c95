#!/usr/bin/env python3
"""Prints an SPDX 2.3 document of what is inside the image. Usage: spdx.py LIST VERSIONS PLINTH INIT BUILD-TIME"""
import datetime, hashlib, json, pathlib, re, sys

listed, versions, plinth, init, built = sys.argv[1:]
files = {}
for line in pathlib.Path(listed).read_text().splitlines():
    words = line.split("#")[0].split()
    if words:
        files.setdefault(words[0], []).extend(w for w in words[2:] if not w.startswith("@"))


def package(name, version, checksum, where, comment, licence="NOASSERTION"):
    return {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", name), "name": name, "versionInfo": version,
        "downloadLocation": where, "filesAnalyzed": False, "checksums": [{"algorithm": "SHA256", "checksumValue": checksum}],
        "licenseConcluded": "NOASSERTION", "licenseDeclared": licence, "copyrightText": "NOASSERTION", "comment": comment,
    }


packages = []
for line in sorted(pathlib.Path(versions).read_text().splitlines()):
    name, version, suite, digest, real = line.split()
    p = package(real, version, digest, "NOASSERTION", f"Debian {suite}; " + (" ".join(files[name]) or "kernel and modules"))
    p["externalRefs"] = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": f"pkg:deb/debian/{real}@{version}?arch=amd64"}]
    packages.append(p)
for name, path in ("plinth", plinth), ("plinth-init", init):
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    packages.append(package(name, digest[:12], digest, "NOASSERTION", "built with the image", "Apache-2.0"))

content = hashlib.sha256(json.dumps(packages).encode()).hexdigest()
when = datetime.datetime.fromtimestamp(int(built), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
json.dump({
    "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "plinth-image",
    "documentNamespace": f"https://plinth.dev/spdx/{content}", "creationInfo": {"created": when, "creators": ["Tool: plinth-images-spdx"]},
    "packages": packages,
    "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": p["SPDXID"]} for p in packages],
}, sys.stdout, indent=1)
print()
