#!/usr/bin/env bash
# A Slurm of one node on the loopback interface, from Debian's packages: slurm.sh start|stop [folder]
# Everything it writes lies in the folder; nothing of a Slurm that may already be installed is touched.
set -euo pipefail
what=${1:?start or stop}
folder=${2:-/tmp/forget-mi-slurm}
host=$(hostname -s)

start() {
    if [ "$(id -u)" != 0 ]; then
        echo "slurm.sh: slurmd needs root" >&2
        exit 1
    fi
    if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q munge slurmctld slurmd slurm-client
    fi
    stop
    rm -rf "$folder"
    mkdir -p "$folder"/{state,spool}
    chmod 755 "$folder"
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 400 "$folder/munge.key"
    # The node says that it has two GPUs so that a profile's request for one can be tried; there is no device behind them.
    cat >"$folder/gres.conf" <<CONF
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
CONF
    cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
MinJobAge=86400
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/Mem:/ {print int($2 * 0.9)}') Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    # Jobs look here: Snakemake's Slurm plugin takes SLURM_CONF out of their environment.
    if [ -e /etc/slurm/slurm.conf ]; then
        echo "slurm.sh: /etc/slurm/slurm.conf is there: this machine has a Slurm of its own" >&2
        exit 1
    fi
    mkdir -p /etc/slurm
    ln -sfn "$folder/slurm.conf" /etc/slurm/slurm.conf
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --log-file "$folder/munged.log" --seed-file "$folder/munged.seed"
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld
    slurmd
    for _ in $(seq 30); do
        if sinfo --noheader --format %t 2>/dev/null | grep -q '^idle'; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 1
    done
    echo "slurm.sh: the node did not come up; see $folder/*.log" >&2
    stop
    exit 1
}

stop() {
    if [ "$(readlink /etc/slurm/slurm.conf)" = "$folder/slurm.conf" ]; then
        rm /etc/slurm/slurm.conf
    fi
    for daemon in slurmd slurmctld munged; do
        if [ -s "$folder/$daemon.pid" ]; then
            kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
            for _ in $(seq 20); do
                [ -e "/proc/$(cat "$folder/$daemon.pid" 2>/dev/null || echo gone)" ] || break
                sleep 0.5
            done
        fi
    done
}

"$what"
