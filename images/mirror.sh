#!/bin/bash
# Where this machine's apt has Debian from: prints the mirror, the keyring its signatures are checked by, and the release's codename.
set -euo pipefail
IFS='|' read -r mirror keyring codename < <(apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)|$(CODENAME)' 'Created-By: Packages' |
  awk -F'|' '$1 == "Debian" && $2 == "main" { print $3 "|" $4 "|" $5; exit }') || true
if [ -z "${mirror:-}" ]; then
  echo "mirror.sh: find a Debian mirror in apt's configuration: no index has label Debian and component main; run apt-get update first" >&2
  exit 1
fi
# Without a path it is a fingerprint, or nothing.
case ${keyring:-} in /*) ;; *) keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;; esac
echo "$mirror $keyring $codename"
