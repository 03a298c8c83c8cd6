"""Filter a corpus on Slurm through datatrove. Run it on a login node; all nodes must see DATA and OUT.

    pip install 'untaught[cluster]'
    python filter_on_slurm.py policy.yaml DATA OUT --tasks 64 --partition NAME

Two jobs are queued: an array whose tasks each decide their part of the shards, and `untaught filter` on the same
folder, which starts when the array is through, does what killed tasks left, and writes the summary. Queue both again at
any time: what receipts vouch for is not done again. Change time and memory to what your cluster gives.
"""

import argparse
import shlex
import subprocess
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor

from untaught.corpus import running, shards
from untaught.policies import filtering


def main() -> None:
    """Make the rules once, here; queue the parts; queue the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("policy", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--partition", required=True)
    asked = parser.parse_args()

    data = [str(asked.data)]
    made = filtering.make(*filtering.read_policy(asked.policy, asked.out, {}), asked.out, data=data)
    step = running.datatrove_step(made.rules, shards.sources(data), asked.out)
    parts = SlurmPipelineExecutor(
        [step],
        tasks=asked.tasks,
        partition=asked.partition,
        time="04:00:00",
        mem_per_cpu_gb=4,
        qos="",
        job_name="untaught-filter",
        logging_dir="slurm-logs",
        skip_completed=False,  # datatrove's marks of completion know neither the rules nor the input
    )
    parts.run()
    end = f"untaught filter {shlex.quote(str(asked.data))} --out {shlex.quote(str(asked.out))}"
    same = [f"--partition={asked.partition}", "--time=04:00:00", "--mem=8G"]
    subprocess.run(["sbatch", f"--dependency=afterany:{parts.job_id}", *same, "--wrap", end], check=True)


if __name__ == "__main__":
    main()
