#!/usr/bin/env bash
# A real S3 server on loopback, from Debian's packages: a Ceph monitor, one OSD that keeps its data in
# memory, and a RADOS gateway.
#
#   tests/ceph-rgw.sh install   install the packages (root; about 70 MB)
#   tests/ceph-rgw.sh run       start it, print its URL, and stop it when standard input closes (Ctrl-D)
#
# Access key "restyle", secret key "restyle-secret", region "default", path-style addresses.
set -euo pipefail

install() {
  if ((EUID != 0)); then
    echo "installing Ceph needs root: sudo $0 install" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends ceph-common ceph-mon ceph-osd radosgw >/dev/null
}

fail() {
  echo "$1; what the daemons said last:" >&2
  tail -n 5 "$dir"/*.log >&2 || true
  exit 1
}

# until_up SECONDS COMMAND...: whether the command succeeds within that time.
until_up() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

# Kills the daemons (all that they hold is to be thrown away) by the pids that they wrote, each only if it
# is still one of ours.
stop() {
  local file pid ours=()
  for file in "$dir"/*.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    if grep -qsF "$dir/ceph.conf" "/proc/$pid/cmdline"; then
      kill -KILL "$pid" && ours+=("$pid")
    fi
  done
  for pid in "${ours[@]}"; do
    until_up 10 test ! -e "/proc/$pid" || true
  done
  rm -rf "$dir"
}

run() {
  command -v ceph-mon ceph-osd radosgw >/dev/null || {
    echo "Ceph is not installed: run tests/ceph-rgw.sh install" >&2
    exit 1
  }
  dir=$(mktemp -d /tmp/ceph-rgw.XXXXXX)
  trap stop EXIT
  trap 'exit 130' INT TERM

  # Two ports that are free just now.
  local monitor gateway
  read -r monitor gateway < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))')

  local conf=$dir/ceph.conf fsid osd
  fsid=$(cat /proc/sys/kernel/random/uuid)
  osd=$(cat /proc/sys/kernel/random/uuid)
  mkdir "$dir/mon" "$dir/osd" "$dir/rgw"
  cat >"$conf" <<CONF
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$monitor
public addr = 127.0.0.1
run dir = $dir
log file = $dir/\$name.log
pid file = $dir/\$name.pid
admin socket =
# No keys among the daemons: they see loopback only. The gateway checks its users' signatures all the same.
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
# One copy of everything is enough.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon cluster log file = $dir/cluster.log
[mon.a]
mon data = $dir/mon
[osd]
osd objectstore = memstore
memstore device bytes = 2147483648
osd data = $dir/osd
osd journal = $dir/osd/journal
[client.rgw]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$gateway
rgw dns name = 127.0.0.1
rgw thread pool size = 64
CONF

  exec 4>"$dir/start.log" # what the tools print; shown only when a start fails
  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor]" "$dir/monmap" >&4 2>&4
  ceph-mon -c "$conf" -i a --mkfs --monmap "$dir/monmap" >&4 2>&4
  ceph-mon -c "$conf" -i a >&4 2>&4
  until_up 30 timeout 5 ceph -c "$conf" -s || fail "the monitor did not start"
  ceph -c "$conf" osd new "$osd" 0 >&4 2>&4
  ceph -c "$conf" osd crush add osd.0 1 root=default host=here >&4 2>&4
  ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" >&4 2>&4
  ceph-osd -c "$conf" -i 0 >&4 2>&4
  radosgw -c "$conf" -n client.rgw >&4 2>&4
  until_up 90 answers "$gateway" || fail "the gateway did not start"
  radosgw-admin -c "$conf" -n client.rgw user create --uid restyle --display-name restyle \
    --access-key restyle --secret-key restyle-secret >&4 2>&4 || fail "the gateway's user could not be made"
  echo "http://127.0.0.1:$gateway"
  cat >/dev/null || true
}

case ${1:-} in
install) install ;;
run) run ;;
*)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
