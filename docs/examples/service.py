"""Makes a container, starts it in the background, talks with it, reads its log, and starts it once more."""

import asyncio

from dkrctl.client import Client

LINE = "echo start >>/srv/starts; wc -l </srv/starts; while read word; do echo got $word; done"


async def main() -> None:
    """From its making to its removal."""
    async with Client() as dkr:
        made = await dkr.create("/bin/sh", "-c", LINE, name="service", open_stdin=True)
        print(made.name, made.status)
        try:
            await dkr.start("service")
            async with dkr.attach("service") as process:
                await process.communicate(b"one\ntwo\n")  # and the end of the input, at which it ends
                print("status", (await process.wait()).code)
            async for line in dkr.logs("service", stderr=False):
                print("log:", line.data.decode().rstrip())
            # Once more, in the root that it left behind, and attached before it runs.
            async with dkr.start_attached("service") as process:
                print(await process.communicate())
        finally:
            await dkr.remove("service", force=True)


asyncio.run(main())

# It prints:
# > service created
# > status 0
# > log: 1
# > log: got one
# > log: got two
# > (b'2\n', b'')
