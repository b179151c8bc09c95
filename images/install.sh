#!/bin/bash
# Installs plinth on a host that is not our image. Usage: install.sh PLINTH DESTDIR
# Binary, completions, man pages, a commented default configuration (never over one that is there), and the unit.
set -euo pipefail
plinth=${1:?plinth binary} dest=${2:-}
here=$(dirname "$(realpath "$0")")

install -D -m 755 "$plinth" "$dest/usr/bin/plinth"
install -D -m 644 "$here/install/plinth.service" "$dest/usr/lib/systemd/system/plinth.service"
if [ -e "$dest/etc/plinth/config.yaml" ]; then
  echo "kept $dest/etc/plinth/config.yaml; the default is $dest/usr/share/doc/plinth/config.yaml"
else
  install -D -m 644 "$here/install/config.yaml" "$dest/etc/plinth/config.yaml"
fi
install -D -m 644 "$here/install/config.yaml" "$dest/usr/share/doc/plinth/config.yaml"
install -d -m 755 "$dest"/usr/lib/plinth/{manifests,images} "$dest/etc/plinth/manifests" "$dest/usr/share/man/man"{1,5}
install -d "$dest"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
"$plinth" completions bash >"$dest/usr/share/bash-completion/completions/plinth"
"$plinth" completions zsh >"$dest/usr/share/zsh/vendor-completions/_plinth"
"$plinth" completions fish >"$dest/usr/share/fish/vendor_completions.d/plinth.fish"
"$plinth" man "$dest/usr/share/man/man1"
mv "$dest/usr/share/man/man1"/*.5 "$dest/usr/share/man/man5"
echo "installed below ${dest:-/}; next: put manifests into $dest/etc/plinth/manifests, then: systemctl enable --now plinth"
