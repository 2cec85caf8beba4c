#!/bin/bash
# Each task of this array trains one run, or resumes it where it stopped, and then scores what else was asked for.
# Written by 'cggm-med {{ command }} --launcher slurm'.
#SBATCH --job-name={{ name }}
#SBATCH --array=0-{{ last }}{% if at_once %}%{{ at_once }}{% endif %}

#SBATCH --output={{ output }}
#SBATCH --open-mode=append
#SBATCH --requeue
# This shell is told 90 s before the time is up, and when the job is preempted; '--sbatch signal=B:USR1@300' is earlier.
#SBATCH --signal=B:USR1@90
{% for option in options %}
#SBATCH --{{ option }}
{% endfor %}

# A run's folder, then the words that begin it, with tabs between them, one run a line.
runs={{ runs }}
program=({{ program }})
IFS=$'\t' read -r -a words < <(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$runs")
folder=${words[0]}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# SIGTERM lets a training save the step that is under way. SLURM sends it to every process of a job that is cancelled;
# only a job whose time is up, or that is preempted, goes back into the queue.
again=
trap 'told=yes; again=yes; kill -TERM "$pid" 2>/dev/null' USR1
trap 'told=yes' TERM

run() {
    "${program[@]}" "$@" >>"$folder.log" 2>&1 &
    pid=$! told=yes
    # A signal ends 'wait' with a code of its own; the program's is that of a 'wait' that no signal ended.
    while [ "$told" ]; do told=; wait "$pid"; code=$?; done
    [ "$code" = 0 ] && return
    [ "$again" ] && scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    exit "$code"
}

if [ ! -e "$folder/results.json" ]; then
    if [ -e "$folder/config.yaml" ]; then run train --resume "$folder"; else run "${words[@]:1}"; fi
fi
{% if subsets %}
[ -e "$folder/subsets" ] || run evaluate "$folder" --subsets all
{% endif %}
