"""Runs a program on several inputs at once, each in a container of its own, within a time, and tells what came of it."""

import asyncio

from dkrctl.client import Client, DkrError

PROGRAM = "a, b = map(int, input().split()); print(a // b)"
INPUTS = ["12 3", "7 2", "1 0", "one two"]


async def judge(dkr: Client, given: str) -> str:
    """The verdict for one input."""
    try:
        done = await dkr.run_plain("/usr/bin/python3", "-c", PROGRAM, stdin=given, timeout=10, readonly=True)
    except DkrError as error:  # it could not be started at all
        return f"{error.code}: {error.message}"
    if done.exit.cause != "exited":
        return done.exit.cause
    said = done.stdout if done.exit.code == 0 else done.stderr
    return said.decode().splitlines()[-1]


async def main() -> None:
    """Judge all inputs."""
    async with Client() as dkr, asyncio.TaskGroup() as group:
        verdicts = [group.create_task(judge(dkr, given)) for given in INPUTS]
    for given, verdict in zip(INPUTS, verdicts, strict=True):
        print(f"{given}: {verdict.result()}")


asyncio.run(main())

# It prints:
# > 12 3: 4
# > 7 2: 3
# > 1 0: ZeroDivisionError: integer division or modulo by zero
# > one two: ValueError: invalid literal for int() with base 10: 'one'
