"""The demo under many visitors at once: answers, waiting times, and memory, on loopback.

    python benchmarks/space.py --output results/space.json

Starts the demo in a process of its own and lets `--clients` clients of `gradio_client` ask for the faces of the example
portrait, each again as soon as it is answered, for `--seconds`. A client that is told that the queue is full waits a
second and asks again, as people do; any other error is counted as one, and the exit status is then 1.

Waiting times run from the call to the answer, the upload of the picture and the queue included. Memory is the resident
set of the demo's process, looked at every half second. It is called flat if its median over the last third of the time
is at most 5 % above that over the third before (the first third fills caches). The clients compute on the same machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

FLAT = 1.05
MEMORY = ("middle_third", "last_third", "most")
SERVE = """from hf_fer.demo import launch_demo
launch_demo(host="127.0.0.1", port={port}, detector={detector!r}, quiet=True)"""
PICTURE = Path(__file__).parents[1] / "hf_fer" / "demo" / "examples" / "astronaut.jpg"


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        environment = {**os.environ, "GRADIO_TEMP_DIR": str(Path(folder) / "demo"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", SERVE.format(port=port, detector=options.detector)]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            result = measure(server, f"http://127.0.0.1:{port}", options, folder)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        examples = {path.name for path in PICTURE.parent.iterdir()}
        left = [path for path in Path(folder, "demo").rglob("*") if path.is_file() and path.name not in examples]
        result["files_left"] = len(left)
    report(result)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if not result["errors"] and result["answers"] else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--detector", default="auto", help="as of build_demo; default: auto")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def measure(server: subprocess.Popen[bytes], url: str, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Lets the clients ask, and watches."""
    import psutil

    wait_for(server, url)
    clients = [connect(url, folder) for _ in range(options.clients)]
    ask(clients[0])  # loads the model
    process = psutil.Process(server.pid)
    end = time.monotonic() + options.seconds
    seen: list[dict[str, Any]] = [{"seconds": [], "full": 0, "errors": []} for _ in clients]
    threads = [
        threading.Thread(target=visit, args=(client, end, mine), daemon=True)
        for client, mine in zip(clients, seen, strict=True)
    ]
    memory: list[float] = []
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        memory.append(process.memory_info().rss / 2**20)
        time.sleep(0.5)
    for thread in threads:
        thread.join(timeout=120)
    stuck = sum(thread.is_alive() for thread in threads)
    ask(clients[0])  # it lives on
    return summary(options, seen, memory, stuck)


def wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    import httpx

    for _ in range(240):
        if server.poll() is not None:
            sys.exit("The demo did not start.")
        try:
            httpx.get(f"{url}/config", timeout=2).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    sys.exit("The demo did not answer within two minutes.")


def connect(url: str, folder: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False, analytics_enabled=False, download_files=folder)


def ask(client: Any) -> None:
    from gradio_client import handle_file

    faces = client.predict(handle_file(str(PICTURE)), "default", api_name="/photo")
    if not isinstance(faces, list):
        raise RuntimeError(f"an answer that is no list of faces: {faces!r:.100}")


def visit(client: Any, end: float, mine: dict[str, Any]) -> None:
    """One client's time: ask, and ask again."""
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            ask(client)
            mine["seconds"].append(time.monotonic() - begun)
        except Exception as error:
            if "queue is full" in str(error).lower():
                mine["full"] += 1
                time.sleep(1)
            else:
                mine["errors"].append(f"{type(error).__name__}: {error}"[:200])
                time.sleep(0.2)


def summary(options: argparse.Namespace, seen: list[dict[str, Any]], memory: list[float], stuck: int) -> dict[str, Any]:
    import gradio

    waits = sorted(second for mine in seen for second in mine["seconds"])
    errors = [error for mine in seen for error in mine["errors"]] + ["a client got no answer"] * stuck
    third = max(1, len(memory) // 3)
    middle, last = statistics.median(memory[third : 2 * third] or memory), statistics.median(memory[-third:])
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "answers": len(waits),
        "answers_per_second": len(waits) / options.seconds,
        "fewest_and_most_of_a_client": [f(len(mine["seconds"]) for mine in seen) for f in (min, max)],
        "median_seconds": quantile(waits, 0.5),
        "p95_seconds": quantile(waits, 0.95),
        "longest_seconds": waits[-1] if waits else None,
        "queue_full": sum(mine["full"] for mine in seen),
        "errors": errors,
        "memory_mb": {"first": memory[0], "middle_third": middle, "last_third": last, "most": max(memory)},
        "memory_flat": last <= FLAT * middle,
        "gradio": gradio.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def quantile(ordered: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else None


def report(result: dict[str, Any]) -> None:
    memory = result["memory_mb"]

    def shown(seconds: float | None) -> str:
        return "none" if seconds is None else f"{seconds:.2f} s"

    rows = (
        ("clients, time", f"{result['clients']}, {result['seconds']:g} s"),
        ("answers", f"{result['answers']} ({result['answers_per_second']:.1f} a second)"),
        ("waited: median", shown(result["median_seconds"])),
        ("waited: 95 % at most", shown(result["p95_seconds"])),
        ("waited: longest", shown(result["longest_seconds"])),
        ("told that the queue is full", str(result["queue_full"])),
        ("other errors", str(len(result["errors"]))),
        ("memory: middle, last third, most", ", ".join(f"{memory[k]:.0f} MB" for k in MEMORY)),
        ("memory flat", "yes" if result["memory_flat"] else "NO"),
        ("files left after the end", str(result["files_left"])),
    )
    for name, value in rows:
        print(f"{name:<34} {value}")
    for error in sorted(set(result["errors"]))[:5]:
        print(f"  {error}")


if __name__ == "__main__":
    sys.exit(main())
