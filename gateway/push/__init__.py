"""From a change to a frame: the hub, sessions, subscriptions, snapshots and conflation.

`hub`, `conflation`, `subscriptions` and `protocol` are pure. From this floor it imports `auth` and
`http`, and no web framework.
"""
