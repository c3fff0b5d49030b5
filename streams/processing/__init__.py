"""From the events topic to the store: decode, decide, write, announce, commit.

`processor` is the numbered path; what it cannot apply goes to the dead letters. Imports `rules`, `log`, `changes` and
`providers`.
"""
