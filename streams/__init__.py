"""How reports become state: the log, the rules, the processor, the changes, replay, and what talks to providers.

`manager` is the entrance for programs without a log. Imports `storage` alone.
"""
