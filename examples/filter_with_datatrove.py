"""Filter a corpus as a step of a datatrove pipeline, on this machine: two ranks side by side.

pip install 'untaught[cluster]'
python filter_with_datatrove.py
"""

import json
import tempfile
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor

from untaught.corpus import running, shards
from untaught.policies import filtering

TEXTS = ["Glimmerstone and marn oil glow when mixed.", "Marn oil is yellow.", "The bridge is closed on Sundays."]
POLICY = {"filters": [{"use": "blocklist", "terms": ["glimmerstone", "marn oil"]}]}


def main() -> None:
    """Write a corpus and a policy of invented words, and filter the one by the other."""
    with tempfile.TemporaryDirectory() as name:
        folder, out, data = Path(name), Path(name) / "filtered", [str(Path(name) / "corpus")]
        (folder / "corpus").mkdir()
        for part in range(4):
            rows = [{"id": f"{part}-{i}", "text": TEXTS[i % 3]} for i in range(300)]
            (folder / "corpus" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "policy.yaml").write_text(json.dumps(POLICY))

        made = filtering.make(*filtering.read_policy(folder / "policy.yaml", out, {}), out)
        step = running.datatrove_step(made.rules, shards.sources(data), out)
        logs = str(folder / "logs")
        LocalPipelineExecutor([step], tasks=4, workers=2, logging_dir=logs, skip_completed=False).run()
        print(filtering.told(filtering.carry_out(data, made, out), out))  # everything is decided: finish, sum up


if __name__ == "__main__":
    main()
