"""Two hundred sandboxes a second for a minute, each with a network of its own: nothing may grow, and the pace be kept.

python tests/soak/run_rate.py [--rate 200] [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from counting import anonymous_kib, children, is_server, network_process
from run_resets import GROWTH_KIB, slope

from pytest_airlock.providers.base import NetworkRule, ProviderSpec, Route
from pytest_airlock.providers.namespaces import NamespacesProvider

HANDS = 4
EVERY = 2.0  # seconds between two samples
#: Of things that come and go in bursts, as what the kernel clears away later.
SLACK = 64
#: Every tenth sandbox has a route, so that listeners come and go as well.
ROUTE = NetworkRule(routes=(Route("api.example.com:443", ("127.0.0.1", 9)), Route("192.0.2.0/24:80", ("127.0.0.1", 9))))


class Sample(NamedTuple):
    """Descriptors and anonymous memory (KiB) of the three processes; network name spaces of the machine (-1 = not readable)."""

    at: float
    name_spaces: int
    client_fds: int
    server_fds: int
    network_fds: int
    client_kib: int
    server_kib: int
    network_kib: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=200, help="sandboxes a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        before = name_spaces()
        samples, made, seconds = soak(options.rate, options.seconds)
        after = settled_name_spaces(before)
    faults = grown(samples)
    faults += [f"process {pid} is left" for pid in children(os.getpid())]
    if after > before:
        faults.append(f"network name spaces: {before} before, {after} after")
    if made / seconds < 0.99 * options.rate:
        faults.append(f"{made / seconds:.0f} a second, not {options.rate}")
    first, last = samples[len(samples) // 10], samples[-1]
    print(
        f"rate: {made:,} sandboxes in {seconds:.1f} s, {made / seconds:.0f} a second; network process {first.network_kib:,} to "
        f"{last.network_kib:,} KiB with {first.network_fds} to {last.network_fds} descriptors, fork server {first.server_kib:,} to "
        f"{last.server_kib:,} KiB, test process {first.client_kib:,} to {last.client_kib:,} KiB; name spaces {before} before, at most "
        f"{max(sample.name_spaces for sample in samples)}, {after} after; {len(faults)} left over or grown"
    )
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    return int(bool(faults))


def soak(rate: int, seconds: float) -> tuple[list[Sample], int, float]:
    """Samples, how many were made, and in how many seconds."""
    provider = NamespacesProvider()
    try:
        live(provider, -1)
        (server,) = [pid for pid in children(os.getpid()) if is_server(pid)]
        network = network_process(server)
        samples, total = [], int(rate * seconds)
        with ThreadPoolExecutor(HANDS) as hands:
            start = time.monotonic()
            waiting: set[Future[None]] = set()
            next_sample = 0.0
            for number in range(total):
                due = start + number / rate
                time.sleep(max(0.0, due - time.monotonic()))
                # No longer queue than hands: what waits would be counted as growth.
                done, waiting = wait(waiting, None if len(waiting) >= 2 * HANDS else 0, FIRST_COMPLETED)
                for each in done:
                    each.result()
                waiting.add(hands.submit(live, provider, number))
                if time.monotonic() - start >= next_sample:
                    samples.append(sample(time.monotonic() - start, server, network))
                    next_sample += EVERY
            for each in waiting:
                each.result()
            spent = time.monotonic() - start
        samples.append(sample(spent, server, network))
        return samples, total, spent
    finally:
        provider.close()


def live(provider: NamespacesProvider, number: int) -> None:
    """One sandbox, from nothing to nothing."""
    handle = provider.create(ProviderSpec(f"rate-{number}"))
    provider.start(handle)
    if number % 10 == 0:
        provider.set_network(handle, ROUTE)
    provider.delete(handle)


def sample(at: float, server: int, network: int) -> Sample:
    pids = (os.getpid(), server, network)
    return Sample(
        at, name_spaces(), *(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids), *(anonymous_kib(pid) for pid in pids)
    )


def name_spaces() -> int:
    """Objects of the kernel's cache for them, which only root may read (slabinfo(5)); those that are being cleared away, too."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except PermissionError:
        return -1
    return next((int(line.split()[1]) for line in lines if line.startswith("net_namespace ")), -1)


def settled_name_spaces(wanted: int) -> int:
    """The kernel takes its time to clear them away."""
    for _ in range(100):
        now = name_spaces()
        if now <= wanted:
            break
        time.sleep(0.1)
    return now


def grown(samples: list[Sample]) -> list[str]:
    """What there is more of after the first tenth."""
    rest = samples[len(samples) // 10 :]
    faults = []
    for index, name in enumerate(Sample._fields[1:], 1):
        values = [int(each[index]) for each in rest]
        growth = slope([int(each.at * 1000) for each in rest], values) * (rest[-1].at - rest[0].at) * 1000
        if growth > (GROWTH_KIB if name.endswith("_kib") else SLACK):
            faults.append(f"{name}: grows by {growth:,.0f}, {values[0]:,} to {values[-1]:,}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
