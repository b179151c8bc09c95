#!/usr/bin/env python3
"""Refuses pods that would not run from the image: what `plinth check` refuses, and images that no archive holds.

Usage: pods.py PLINTH MANIFESTS-DIR ARCHIVES-DIR. Says file, line and what is wrong; exit status 1 if anything is."""
import json, pathlib, re, subprocess, sys, tarfile


def held(archive):
    """The references an OCI or docker archive can be asked for."""
    names = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name == "index.json":
                for d in json.load(tar.extractfile(member)).get("manifests", []):
                    names.add(d.get("annotations", {}).get("io.containerd.image.name") or d.get("annotations", {}).get("org.opencontainers.image.ref.name"))
            elif name == "manifest.json":
                for d in json.load(tar.extractfile(member)):
                    names.update(d.get("RepoTags") or [])
    return {full(n) for n in names if n}


def full(ref):
    """`busybox` as `docker.io/library/busybox:latest`."""
    first, _, rest = ref.partition("/")
    if not rest:
        ref = f"docker.io/library/{ref}"
    elif "." not in first and ":" not in first and first != "localhost":
        ref = f"docker.io/{ref}"
    return ref if "@" in ref or ":" in ref.rsplit("/", 1)[1] else f"{ref}:latest"


def images(pod):
    spec = pod["spec"]
    containers = [c for key in ("initContainers", "containers") for c in spec.get(key) or []]
    return [c["image"] for c in containers] + [v["image"]["reference"] for v in spec.get("volumes") or [] if v.get("image")]


def main(plinth, manifests, archives):
    checked = subprocess.run([plinth, "check", "--node-name", "plinth", manifests], capture_output=True, text=True)
    sys.stderr.write(checked.stdout + checked.stderr if checked.returncode else checked.stderr)
    if checked.returncode:
        sys.exit("pods.py: the image is not built: `plinth check` refuses its pods, see above")
    report = json.loads(subprocess.run([plinth, "check", "--node-name", "plinth", "-o", "json", manifests], capture_output=True, text=True).stdout)
    have = set().union(*(held(a) for a in sorted(pathlib.Path(archives).glob("*.tar"))))
    missing = []
    for file in report["files"]:
        lines = pathlib.Path(file["path"]).read_text().splitlines()
        for ref in dict.fromkeys(ref for pod in file["pods"] for ref in images(pod)):
            if full(ref) not in have:
                at = [n for n, line in enumerate(lines, 1) if re.search(rf"(image|reference)\"?: *[\"']?{re.escape(ref)}\b", line)] or [1]
                missing.append(f"{file['path']}:{at[0]}: image `{ref}` is in no archive of {archives}: put it there (IMAGES=DIR)")
    if missing:
        sys.exit("\n".join([*missing, "pods.py: the image is not built: it would have to pull, and may have no network"]))


main(*sys.argv[1:])
