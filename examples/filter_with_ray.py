"""Filter a corpus on Ray: two workers on this machine, or the cluster at RAY_ADDRESS.

    pip install 'untaught[cluster]'
    python filter_with_ray.py

The same from the command line is `untaught filter DATA --out DIR --config policy.yaml --executor ray`.
"""

import json
import tempfile
from pathlib import Path

from untaught.policies import filtering

TEXTS = ["Glimmerstone and marn oil glow when mixed.", "Marn oil is yellow.", "The bridge is closed on Sundays."]
POLICY = {"filters": [{"use": "blocklist", "terms": ["glimmerstone", "marn oil"]}], "workers": 2}


def main() -> None:
    """Write a corpus and a policy of invented words, and filter the one by the other."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "filtered"
        (folder / "corpus").mkdir()
        for part in range(4):
            rows = [{"id": f"{part}-{i}", "text": TEXTS[i % 3]} for i in range(300)]
            (folder / "corpus" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "policy.yaml").write_text(json.dumps(POLICY))

        policy, home = filtering.read_policy(folder / "policy.yaml", out, {})
        made = filtering.make(policy, home, out)
        summary = filtering.carry_out([str(folder / "corpus")], made, out, executor="ray")
        print(filtering.told(summary, out))


if __name__ == "__main__":
    main()
