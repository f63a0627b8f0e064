#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# One of many NFS clients on a machine: `crowd.sh NAME ADDRESS/PREFIX VERSION EXPORT MOUNT COMMAND...`
#
# Gives it an address of its own on the machine's wire, a host name, rpcbind and rpc.statd, mounts
# the export and runs the command there. The kernel keeps a lockd, NFSv4 client and statd for each
# network namespace: to the server it is a machine like any other.
set -e
ip link add link eth0 name "$1" type macvlan mode bridge
ip netns add "$1"
ip link set "$1" netns "$1"
ip -n "$1" link set lo up
ip -n "$1" addr add "$2" dev "$1"
ip -n "$1" link set "$1" up
# shellcheck disable=SC2016  # these are the inner shell's arguments
exec ip netns exec "$1" unshare --uts sh -ec '
  hostname "$1"
  mount -t tmpfs tmpfs /run
  mkdir -p /run/rpcbind /run/nfs/sm /run/nfs/sm.bak
  chown -R statd /run/nfs
  mount --bind /run/nfs /var/lib/nfs
  rpcbind
  rpc.statd --no-notify
  mount -t nfs -o "vers=$3" "$4" "$5"
  shift 5
  exec "$@"
' crowd "$@"
