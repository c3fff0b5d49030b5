"""Records in Redis or Valkey, one node or a cluster.

The store, its Lua scripts, its listings and how it finds the nodes of a cluster. Imports the rest
of `storage`; the driver is loaded when a store is opened.
"""
