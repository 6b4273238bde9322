"""Reading an Argilla dataset into annotation rows, against fetching the same pages and only counting them.

    make test-integration        # installs the server
    python -m benchmarks.argilla_read .rlhf/servers [--records 10000]

Starts a real argilla-server on sqlite, fills it with records of three responses each, and reads it by turns.
Both sides see the same records and responses; the script checks it. The target is at most 1.2 times the raw
time.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from rlhf.feedback.annotation_servers.argilla import ArgillaReader
from rlhf.feedback.annotation_servers.settings import ArgillaSource
from tests.integration.annotation_servers.argilla_desk import ANNOTATORS, ArgillaDesk, ranked
from tests.integration.annotation_servers.argilla_stack import ArgillaStack

_BATCH = 100
_PAGE = 500


def fill(desk: ArgillaDesk, records: int) -> None:
    """Records with three submitted responses of two answers each."""
    users = {client: client.get("/api/v1/me").json()["id"] for client in desk.annotators.values()}
    for start in range(0, records, _BATCH):
        items = [
            {
                "external_id": f"record-{number}",
                "fields": {
                    "prompt": [{"role": "user", "content": f"Where is parcel {number}? " + "I wait. " * 20}],
                    "response-1": f"Parcel {number} is on its way. " + "It takes two days. " * 10,
                    "response-2": "No idea. " * 20,
                },
                "responses": [
                    {
                        "user_id": user,
                        "status": "submitted",
                        "values": {
                            "ranking": {"value": ranked(1 + at % 2, 2 - at % 2)},
                            "quality-of-response-1": {"value": 1 + (number + at) % 5},
                        },
                    }
                    for at, user in enumerate(users.values())
                ],
            }
            for number in range(start, min(start + _BATCH, records))
        ]
        desk.owner.put(
            f"/api/v1/datasets/{desk.dataset}/records/bulk", json={"items": items}, timeout=120
        ).raise_for_status()


def raw(desk: ArgillaDesk) -> tuple[int, int]:
    """Every page parsed and counted: records and responses."""
    records = responses = offset = 0
    while True:
        page: httpx.Response = desk.owner.get(
            f"/api/v1/datasets/{desk.dataset}/records",
            params={"offset": offset, "limit": _PAGE, "include": "responses,suggestions"},
            timeout=120,
        )
        items = page.raise_for_status().json()["items"]
        if not items:
            return records, responses
        records += len(items)
        responses += sum(len(item["responses"]) for item in items)
        offset += len(items)


def read(desk: ArgillaDesk) -> tuple[int, int]:
    """Everything as rows: records and responses (each gives a ranking and a rating)."""
    source = ArgillaReader(
        ArgillaSource(api_url=desk.url, workspace=desk.workspace, dataset="replies", page_size=_PAGE)
    )
    rows = sum(1 for _ in source.read())
    return len(source.whole_records), rows // 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("servers", type=Path)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    python = (options.servers / "argilla" / "bin" / "python").absolute()
    os.environ["ARGILLA_API_KEY"] = ArgillaStack.key
    with (
        tempfile.TemporaryDirectory() as folder,
        ArgillaStack(python, Path(folder)) as stack,
    ):
        desk = ArgillaDesk(stack.url, stack.key, "benchmark", 0)
        fill(desk, options.records)
        seconds: dict[str, list[float]] = {"raw HTTP": [], "rows": []}
        busy: dict[str, list[float]] = {name: [] for name in seconds}
        for _ in range(options.repeats):
            seen = set()
            for name, side in (("raw HTTP", raw), ("rows", read)):
                begun, worked = time.perf_counter(), time.process_time()
                seen.add(side(desk))
                seconds[name].append(time.perf_counter() - begun)
                busy[name].append(time.process_time() - worked)
            expected = (options.records, options.records * len(ANNOTATORS))
            if seen != {expected}:
                raise SystemExit(f"the sides saw different things: {seen}, expected {expected}")
    print(f"{options.records:,} records x {len(ANNOTATORS)} responses, {options.repeats} times by turns")
    print(f"{'':10} {'median s':>9} {'client CPU s':>13} {'records/s':>10} {'all':>24}")
    for name, times in seconds.items():
        spent, all_times = median(times), [round(t, 2) for t in times]
        rate = options.records / spent
        print(f"{name:10} {spent:9.2f} {median(busy[name]):13.2f} {rate:10,.0f} {all_times!s:>24}")
    print(
        f"rows / raw HTTP: {median(seconds['rows']) / median(seconds['raw HTTP']):.2f} (target: at most 1.2)"
    )


if __name__ == "__main__":
    main()
