"""`tidings` as the tests run it: a stall of the event loop is logged with what the loop did meanwhile."""

from tidings.cli.main import main
from tidings.observability.loop_stalls import LoopStalls

if __name__ == "__main__":
    LoopStalls.stacks = True
    main()
