"""Settings of the stage ``review``."""

from pydantic import Field

from sparsem.settings import Settings


class ReviewSettings(Settings):
    """Settings of the stage ``review``."""

    n: int = Field(100, ge=1, description="maximum number of places")
