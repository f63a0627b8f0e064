# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual machines for the cluster tier: real kernels, real NFS, real Pacemaker, real power cuts.

QEMU in software emulation, so that it runs wherever QEMU does. What stands where:

images     the disk image, kernel and initramfs of a Debian suite, built once per set of inputs
layout     names, addresses, paths
machine    one machine: boot, run, crash, freeze, thaw, cut, fill_disk, kill9, journal
control    the channel to it that is not the network; qmp, the channel to its QEMU
switch     the network between the machines: learns, records, drops; frames decodes the recording
rig        all machines: saved and restored together; fencing
processes  nothing survives the run

Nothing in this package imports the product: it is sent to the machines and run there.
"""
