"""A training run's events, read by TensorBoard's own reader, say what its tables say.

    python tests/interop/check_events.py out/very-small
"""

import csv
import math
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Not in the events: TensorBoard has the step and the clock of its own.
NOT_DRAWN = {"step", "seconds", "masks", "skipped"}


def check(run: Path) -> int:
    events = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    scalars = 0
    for group, name in [("train", "metrics.csv"), ("validation", "validation.csv")]:
        rows = list(csv.DictReader((run / name).open()))
        assert rows, f"{name} has no rows"
        for column in rows[0].keys() - NOT_DRAWN:
            tag = f"{group}/{column}"
            drawn = events.Scalars(tag)
            tags.remove(tag)
            steps = [int(row["step"]) for row in rows]
            assert steps == sorted(set(steps)), f"{name} has a step twice"
            assert [event.step for event in drawn] == steps, tag
            for event, row in zip(drawn, rows):
                written = float(row[column])
                assert math.isclose(event.value, written, rel_tol=1e-6, abs_tol=1e-30), (tag, event, row)
            scalars += len(drawn)
    assert not tags, f"in no table: {tags}"
    return scalars


if __name__ == "__main__":
    [folder] = sys.argv[1:]
    print(f"{check(Path(folder))} scalars read by TensorBoard, as in the tables")
