# SPDX-License-Identifier: Apache-2.0
# A private Slurm of two nodes on this machine: sourced by the tests. Needs root, slurmctld and slurmd.
# start_cluster FOLDER; stop_cluster. No munge, no accounting, its own ports, everything below FOLDER.

slurm_missing() { # prints why it cannot be started, or nothing
  local tool
  [ "$(id -u)" = 0 ] || { echo "not root"; return; }
  PATH=$PATH:/usr/sbin:/sbin
  for tool in slurmctld slurmd sbatch srun squeue scontrol; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed (make slurm-deps)"; return; }
  done
}

free_ports() { # three ports that nobody listens on
  "${DINO_PYTHON:-python3}" - <<'PY'
import socket
held = [socket.socket() for _ in range(3)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])
PY
}

start_cluster() {
  cluster=$1
  PATH=$PATH:/usr/sbin:/sbin
  local host port0 port1 port2 node
  host=$(hostname -s)
  read -r port0 port1 port2 <<<"$(free_ports)"
  mkdir -p "$cluster"/{etc,log,run,state,spool.n0,spool.n1,tmp.n0,tmp.n1}
  export SLURM_CONF=$cluster/etc/slurm.conf
  cat >"$SLURM_CONF" <<CONF
ClusterName=dinotest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port0
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
# A requeued job starts again after this long, not after two minutes.
AuthInfo=cred_expire=5
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool.%n
# Several slurmd on one host must not share PMIx's folder.
TmpFS=$cluster/tmp.%n
SlurmctldPidFile=$cluster/run/slurmctld.pid
SlurmdPidFile=$cluster/run/slurmd.%n.pid
SlurmctldLogFile=$cluster/log/slurmctld.log
SlurmdLogFile=$cluster/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=30
KillWait=5
MinJobAge=3600
MailProg=/bin/true
SlurmdParameters=config_overrides
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port1 CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port2 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP
CONF
  # Two nodes that are one host: shared-memory segments of different "nodes" would collide.
  export OMPI_MCA_btl=self,tcp
  slurmctld -c -f "$SLURM_CONF" || return 1
  for node in n0 n1; do slurmd -N "$node" -f "$SLURM_CONF" || return 1; done
  local tries
  for tries in $(seq 100); do
    [ "$(sinfo -h -o '%T' 2>/dev/null)" = idle ] && return 0
    sleep 0.1
  done
  echo "Slurm did not come up; last lines of its log:" >&2
  tail -n 5 "$cluster/log/slurmctld.log" >&2
  return 1
}

stop_cluster() {
  local file pid tries
  [ -n "${cluster:-}" ] || return 0
  scancel --state=RUNNING --state=PENDING --user=root 2>/dev/null
  for file in "$cluster"/run/*.pid; do
    [ -e "$file" ] && kill "$(cat "$file")" 2>/dev/null
  done
  for tries in $(seq 30); do
    compgen -G "$cluster/run/*.pid" >/dev/null || break
    sleep 0.1
  done
  # Step daemons outlive slurmd after a failed launch; theirs are the ones that run below our folder.
  for pid in $(pgrep -x slurmstepd); do
    case $(readlink "/proc/$pid/cwd" 2>/dev/null) in "$cluster"/*) kill -KILL "$pid" 2>/dev/null ;; esac
  done
  return 0
}
