"""Who may do what: tokens, permissions, quotas and rates.

`permissions` is pure. Imports `http` alone from this floor.
"""
