#!/bin/bash
# A Ray cluster on the nodes of one Slurm job: sbatch cluster/slurm.sh CONFIG [OPTIONS of smp-ray run]
# From a folder that all nodes share, with smp_ray installed in its .venv. See docs/cluster.md.
#SBATCH --job-name=smp-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# --exclusive: Ray starts on a node only where no other runs, and its end stops every Ray of this user there.
# --requeue: after a lost node the job starts again, and the run goes on where it stopped.
set -euo pipefail
config=${1:?usage: sbatch cluster/slurm.sh CONFIG [OPTIONS of smp-ray run]}
shift
cd "${SLURM_SUBMIT_DIR:?this script is started by sbatch}"
# What runs, on every node, is the code of this folder.
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# A token of this job alone; srun hands the environment to every node. It is in no argument and in no file.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# This script runs on the first node, which becomes the head. The port is of this job, below those for clients.
host=$(python -c 'from ray.util import get_node_ip_address; print(get_node_ip_address())')
address=$host:$((20000 + SLURM_JOB_ID % 10000))
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it over by itself

# symmetric-run ends with 0 as well where Ray could not be started: what counts is that the run has ended with 0.
done=$(mktemp --dry-run)
# shellcheck disable=SC2016 # $0, $1 and so on are the inner shell's
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --dashboard-host=127.0.0.1 --disable-usage-stats -- \
    bash -c 'RAY_ADDRESS=$0 python jobs/run.py run --config "${@:2}" && touch "$1"' "$address" "$done" "$config" "$@"
rm "$done" 2> /dev/null || { echo "the run did not end well, see above" >&2; exit 1; }
