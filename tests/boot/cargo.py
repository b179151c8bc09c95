#!/usr/bin/env python3
"""An image with something to carry: busybox, and a layer with a file of noise, always the same for the same number.

Usage: cargo.py BUSYBOX.tar OUT.tar NUMBER    The image is docker.io/library/cargo:NUMBER, the file /cargo."""

import hashlib, io, json, random, sys, tarfile

BYTES = 6 << 20


def noise(number):
    return random.Random(number).randbytes(BYTES)


def digest(number):
    return hashlib.sha256(noise(number)).hexdigest()


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def main(busybox, out, number):
    with tarfile.open(busybox) as archive:
        files = {m.name.removeprefix("./"): archive.extractfile(m).read() for m in archive if m.isfile()}
    read = lambda descriptor: json.loads(files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")])

    def blob(descriptor, data):
        name = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{name}"] = data
        return descriptor | {"digest": f"sha256:{name}", "size": len(data)}

    index = json.loads(files["index.json"])
    top = index["manifests"][0]
    manifest = read(top)
    config = read(manifest["config"])
    layer = blob(manifest["layers"][0], tar({"cargo": noise(number)}))
    manifest["layers"].append(layer)
    config["rootfs"]["diff_ids"].append(layer["digest"])
    manifest["config"] = blob(manifest["config"], json.dumps(config).encode())
    notes = {"io.containerd.image.name": f"docker.io/library/cargo:{number}", "org.opencontainers.image.ref.name": str(number)}
    index["manifests"] = [blob(top | {"annotations": notes}, json.dumps(manifest).encode())]
    # What names the others comes first: a reader need not go through the blobs to find it.
    files = {name: files.pop(name) for name in ("oci-layout", "index.json")} | files
    files["index.json"] = json.dumps(index).encode()
    with open(out, "wb") as archive:
        archive.write(tar(files))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
