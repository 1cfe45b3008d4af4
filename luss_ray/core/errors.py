"""The errors a user may meet."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do. Jobs print it and exit with code 2."""


class BadSampleError(Exception):
    """A sample that can't be used; it is quarantined with its shard URI and key, never silently dropped.

    Args:
        reason: what is wrong with it, in a few words.
        shard: URI of the tar shard; filled in on the way up by whoever knows it.
        key: the sample's key within the shard.
    """

    def __init__(self, reason: str, *, shard: str = "", key: str = "") -> None:
        super().__init__(reason)
        self.reason, self.shard, self.key = reason, shard, key

    def __str__(self) -> str:
        return f"{self.shard}#{self.key}: {self.reason}" if self.shard or self.key else self.reason

    def __reduce__(self) -> tuple:
        return _bad_sample, (self.reason, self.shard, self.key)


def _bad_sample(reason: str, shard: str, key: str) -> BadSampleError:
    return BadSampleError(reason, shard=shard, key=key)
