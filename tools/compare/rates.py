"""What a run's arrival times come to. Shared by the runners of engines whose own tools measure something else; the same
definition as `decode_tokens_per_s` of `astrai bench`."""


def decode_rate(streams):
    """Tokens a second while all streams decode.

    `streams` has for each a list of (seconds, tokens that arrived at once). Counted from when the last stream has its
    first token to when the first has its last; None where they do not overlap so that each has two arrivals there.
    """
    if not streams or not all(streams):
        return None
    begin = max(arrivals[0][0] for arrivals in streams)
    end = min(arrivals[-1][0] for arrivals in streams)
    total = 0.0
    for arrivals in streams:
        inside = [(at, count) for at, count in arrivals if begin <= at <= end]
        if len(inside) < 2 or inside[-1][0] <= inside[0][0]:
            return None
        total += sum(count for _, count in inside[1:]) / (inside[-1][0] - inside[0][0])
    return total


def prompts(streams, length, vocab, seed):
    """Random token ids, other ones for each stream and seed (splitmix64: the same with every version of everything)."""
    state = (seed * 0x9E3779B97F4A7C15 + 1) & MASK
    out = []
    for _ in range(streams):
        ids = []
        for _ in range(length):
            state = (state + 0x9E3779B97F4A7C15) & MASK
            x = state
            x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
            x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
            ids.append((x ^ x >> 31) % vocab)
        out.append(ids)
    return out


MASK = (1 << 64) - 1
