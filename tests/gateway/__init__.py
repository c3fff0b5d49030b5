"""The gateway's checks, over real ports."""
