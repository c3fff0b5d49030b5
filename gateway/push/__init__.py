"""From a change to a frame: the hub, sessions, subscriptions, snapshots and conflation.

`hub`, `conflation` and `protocol` are pure. Imports `auth` and `http` from this floor, no web framework.
"""
