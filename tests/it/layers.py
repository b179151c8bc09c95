#!/usr/bin/env python3
"""layers.py OUT.tar REFERENCE DIR...: an OCI image archive with a layer of each directory, the lowest first; `.wh.` files as they are."""
import hashlib, io, json, os, platform, sys, tarfile

out, ref, *dirs = sys.argv[1:]
arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
blobs = {}

def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

def tarred(fill):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        fill(tar)
    return made.getvalue()

def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))

layers = [blob(tarred(lambda tar: tar.add(d, arcname=".")), "layer.v1.tar") for d in dirs]
config = {"architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [l["digest"] for l in layers]}}
config = blob(json.dumps(config).encode(), "config.v1+json")
manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(), "manifest.v1+json")
manifest["annotations"] = {"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref.rsplit(":", 1)[1]}
manifest["platform"] = {"architecture": arch, "os": "linux"}

def image(tar):
    add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
    for digest, data in blobs.items():
        add(tar, f"blobs/sha256/{digest}", data)

with open(out + ".part", "wb") as f:
    f.write(tarred(image))
os.rename(out + ".part", out)
