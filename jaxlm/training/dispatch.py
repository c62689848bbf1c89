"""How many steps go into one dispatch: the grouping changes no number."""

# As many steps as fill this time, so that the live line moves and Ctrl-C is heard.
DISPATCH_SECONDS = 0.2
# int32 inputs and targets and float32 weights of one block stay under about 12 MB.
BLOCK_TOKENS = 1 << 20


def capacity_of(tokens: int) -> int:
    """Steps for which a block has room, of so many tokens each."""
    return max(1, min(256, BLOCK_TOKENS // tokens))


def next_count(count: int, seconds: float) -> int:
    """Steps for the next dispatch, if this one of `count` took so long: at most eight times it."""
    return max(1, min(8 * count, int(count * DISPATCH_SECONDS / max(seconds, 1e-6))))
