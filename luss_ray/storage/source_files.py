"""Files of a source that lie at a location, on disk or in S3."""

from dataclasses import dataclass

from luss_ray.imagenet_s.layout import HEAD_BYTES
from luss_ray.storage.uri import Location


@dataclass(frozen=True)
class LocationFiles:
    """Files by their name below a location."""

    location: Location

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return self.location.read(name)

    def head(self, name: str) -> bytes:
        """Return the first 64 KiB of a file."""
        return self.location.read(name)[:HEAD_BYTES]

    def describe(self, name: str) -> str:
        """Return a file's URI."""
        return self.location.child(name).uri
