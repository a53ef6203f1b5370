#!/usr/bin/env bash
# Installs what `make e2e` needs of Debian's packages, as far as it is missing. As root.
set -euo pipefail

needs=( # what shows that a package is there, and its name
  "/usr/bin/chromium chromium"
  "/usr/bin/curl curl"
  "/usr/bin/redis-server redis-server"
  "/usr/lib/postgresql/*/bin/initdb postgresql"
  "/usr/bin/prometheus prometheus"
  "/usr/bin/zsh zsh"
  "/usr/bin/fish fish"
  "/usr/share/bash-completion/bash_completion bash-completion"
  "/usr/bin/aws awscli"
)
missing=()
for need in "${needs[@]}"; do
  read -r file package <<<"$need"
  compgen -G "$file" >/dev/null || missing+=("$package")
done
if ((${#missing[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
command -v radosgw >/dev/null || "$(dirname "$0")/ceph-rgw.sh" install
