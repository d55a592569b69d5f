"""What containers use, as tables and templates of `stats` show it: shares between two measurements, sizes in Docker's letters."""

from collections import deque

from dkrctl.ages import parse
from dkrctl.containers import SHORT_ID
from dkrctl.templates import Record

NOTHING = "--"
HISTORY = 20  # measurements of the little curve
# Field of a `stats` template -> its heading in a table.
HEADINGS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
_STEPS = "▁▂▃▄▅▆▇█"


def _size(number: float, unit: int, names: tuple[str, ...], digits: int) -> str:
    step = 0
    while number >= unit and step < len(names) - 1:
        number /= unit
        step += 1
    return f"{number:.{digits}g}{names[step]}"


def binary(number: object) -> str:
    """Bytes as in `1.5MiB`, with four digits as Docker has them."""
    if type(number) is not int:
        return NOTHING
    return _size(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), 4)


def decimal(number: object) -> str:
    """Bytes as in `1.2MB`."""
    return _size(number, 1000, ("B", "kB", "MB", "GB", "TB", "PB"), 3) if type(number) is int else NOTHING


def _pair(first: str, second: str) -> str:
    return NOTHING if first == second == NOTHING else f"{first} / {second}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}%"


class Meter:
    """One container, measured again and again."""

    def __init__(self) -> None:
        self.now: dict[str, object] = {}
        self.share: float | None = None  # of one processor, in percent
        self.shares: deque[float] = deque(maxlen=HISTORY)

    def take(self, measured: dict[str, object]) -> None:
        """The next measurement."""
        before, self.now = self.now, measured
        times = parse(before.get("read")), parse(measured.get("read"))
        used = before.get("cpuUsage"), measured.get("cpuUsage")
        if (
            isinstance(used[0], int)
            and isinstance(used[1], int)
            and times[0]
            and times[1]
            and times[1] > times[0]
        ):
            # Where it was started anew it began at 0.
            self.share = max(0, used[1] - used[0]) / (times[1] - times[0]) / 1e7
            self.shares.append(self.share)

    def curve(self, length: int = HISTORY) -> str:
        """The last `length` shares as bars, of which the highest is a whole processor, or the most there was."""
        shares = list(self.shares)[-length:]
        most = max(100.0, *shares) if shares else 100.0
        return "".join(_STEPS[min(len(_STEPS) - 1, int(share / most * len(_STEPS)))] for share in shares)

    def fields(self, container: str, name: str, *, whole: bool) -> Record:
        """What a template of `stats` can ask for."""
        memory, limit = self.now.get("memoryUsage"), self.now.get("memoryLimit")
        known = isinstance(memory, int) and isinstance(limit, int) and limit > 0
        pids = self.now.get("pids")
        return Record(
            {
                "Container": container if whole else container[:SHORT_ID],
                "ID": container if whole else container[:SHORT_ID],
                "Name": name,
                "CPUPerc": _percent(self.share),
                "MemUsage": _pair(binary(memory), binary(limit)),
                "MemPerc": _percent(100 * memory / limit if known else None),  # type: ignore[operator]  # both are numbers
                "NetIO": NOTHING,
                "BlockIO": _pair(decimal(self.now.get("blockRead")), decimal(self.now.get("blockWrite"))),
                "PIDs": str(pids) if isinstance(pids, int) else NOTHING,
            }
        )
