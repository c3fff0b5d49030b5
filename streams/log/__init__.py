"""An ordered, partitioned, replayable log: its protocol, and one folder or file for each kind.

`protocol` is what everybody else imports; `factory` opens a log by its URL. Imports `storage` alone.
"""
