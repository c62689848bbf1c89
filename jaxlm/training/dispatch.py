"""How many steps go into one dispatch: the grouping changes no number."""

# As many steps as fill this time, so that the live line moves and Ctrl-C is heard. Less would show
# what a dispatch costs: 10 to 30 ms on a CPU, where XLA takes the memory it works in anew. (Letting
# glibc keep that memory, mallopt's M_MMAP_THRESHOLD, was no faster, and slower for 2x650 units.)
# Two steps in one are 2% faster than one for 2x650 units, in bfloat16 9%; eight are 13% and 17%.
DISPATCH_SECONDS = 1.0
# int32 inputs and targets and float32 weights of one block stay under about 12 MB.
BLOCK_TOKENS = 1 << 20


def capacity_of(tokens: int) -> int:
    """Steps for which a block has room, of so many tokens each."""
    return max(1, min(256, BLOCK_TOKENS // tokens))


def next_count(count: int, seconds: float) -> int:
    """Steps for the next dispatch, if this one of `count` took so long: at most eight times it."""
    return max(1, min(8 * count, int(count * DISPATCH_SECONDS / max(seconds, 1e-6))))
